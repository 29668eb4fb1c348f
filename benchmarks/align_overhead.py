"""What the alignment loss costs: the update phase with it against the same phase without it.

    python benchmarks/align_overhead.py reasoner [--pairs 30] [--updates 1 4] [--modes default ...]
    python benchmarks/align_overhead.py 30M

The update phase is all of a training step but the sampling: old log-probabilities where the
configuration has them, anchors, tables, micro-batches, the optimiser, the gauges. Both arms run the
trainer's own functions in one process, on one engine, one set of rollouts and one plan of
micro-batches; the learning rate is 0, so every pair has the same weights. A pair is one phase of
each arm, and the arm that goes first changes from pair to pair.

    reasoner  the bundled model, on 256 rollouts (32 problems x 8) that it samples here
    30M       a random Qwen3 of 30M weights, on 16 of them (4 x 4), lengthened to about 160 tokens

The interval of the median ratio holds 95 % or a little more: it is made of order statistics, which
assume nothing but independent pairs. Peak memory is of the update phase alone, in a process of its
own for each arm: what it takes beyond what is resident before (growth), and in all (Linux).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import measuring
import torch
from measuring import median_interval
from rich.progress import track
from transformers import Qwen3Config, Qwen3ForCausalLM

from geomrl.probe.extractor import Extractor
from geomrl.seeds import derive_rng
from geomrl.train.checkpoint import TrainState
from geomrl.train.config import AlignmentConfig, load_config
from geomrl.train.deepspeed_engine import DeepSpeedEngine
from geomrl.train.display import TrainDisplay
from geomrl.train.policy import Policy, prepare_model
from geomrl.train.setup import build
from geomrl.train.trainer import _collect, _trained_samples
from geomrl.train.update_phase import update_phase
from geomrl.train.world import join_world

QUICKSTART = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
MODELS = ("reasoner", "30M")
HALF_A_GROUP = "half a group"
MODES = {  # alignment section, budget of padded tokens
    "default": ({}, None),
    "auto, groups too long": ({}, HALF_A_GROUP),
    "groups": ({"table": "groups"}, None),
    "refresh": ({"table": "refresh"}, None),
    "old_logprobs": ({"table": "old_logprobs"}, None),
    "weight 0": ({"weight": 0.0}, None),
    "leave_one_out": ({"kind": "leave_one_out"}, None),
    "mse": ({"kind": "mse"}, None),
    "contrastive_wrong": ({"kind": "contrastive_wrong"}, None),
    "contrastive_problems": ({"kind": "contrastive_problems"}, None),
    "relational": ({"kind": "relational"}, None),
    "centred": ({"kind": "centred"}, None),
    "three layers": ({"layers": ["1", "2", "final"]}, None),
}
STEP = 1  # the training step that all phases belong to


def random_model():
    """Return the random model: 31M weights in 12 layers, 3M of them the tied embedding."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=8192, hidden_size=384, num_hidden_layers=12, num_attention_heads=6,
        num_key_value_heads=6, head_dim=64, intermediate_size=1536, tie_word_embeddings=True,
        max_position_embeddings=1024,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


@contextmanager
def prepare(model):
    """Yield a training setup and its rollouts, sampled by the bundled reasoner."""
    config = load_config(QUICKSTART, ["evaluation=null", "dapo.filter_groups=false"])
    with ExitStack() as stack:
        run = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        world = stack.enter_context(join_world())
        display = TrainDisplay(1, show=False)
        setup = stack.enter_context(build(config, run, world=world, lines=[], display=display))
        samples = _trained_samples(_collect(setup, TrainState(), STEP)[0], config)
        if model == "30M":
            groups = list(dict.fromkeys(sample.group for sample in samples))[:4]
            samples = [
                lengthened(sample, 160)
                for sample in samples
                if sample.group in groups and sample.sample < 4
            ]
            policy = Policy(prepare_model(random_model()), head_chunk=config.model.head_chunk)
            engine = DeepSpeedEngine(policy, config, world)
            setup = replace(setup, engine=engine, extractor=Extractor(policy, call=engine.raw))
        yield setup, samples


def lengthened(sample, tokens):
    """Put random tokens before a response, so that its end, answer and anchor stay as they are."""
    drawn = derive_rng(sample.seed, "filler")
    n = int(drawn.integers(tokens * 3 // 4, tokens * 5 // 4)) - sample.n_tokens
    filler = tuple(drawn.integers(10, 400, max(n, 0)).tolist())
    return replace(
        sample,
        response_ids=(*filler, *sample.response_ids),
        logprobs=(*[-9.0] * len(filler), *sample.logprobs),
    )


def arms(setup, samples, mode, updates):
    """Return the setups of both arms: without alignment, and with it."""
    section, budget = MODES[mode]
    config = setup.config.model_copy(
        update={"dapo": setup.config.dapo.model_copy(update={"updates_per_rollout": updates})}
    )
    if budget == HALF_A_GROUP:
        size = max(sample.sample for sample in samples) + 1
        tokens = size // 2 * max(sample.n_tokens for sample in samples)
        micro = config.micro_batch.model_copy(update={"tokens": tokens})
        config = config.model_copy(update={"micro_batch": micro})
    still = config.optimiser.model_copy(update={"lr": 0.0})  # both arms keep the same weights
    config = config.model_copy(update={"optimiser": still})
    aligned = AlignmentConfig.model_validate(section)
    return tuple(
        replace(setup, config=config.model_copy(update={"alignment": alignment}))
        for alignment in (None, aligned)
    )


def seconds(setup, samples):
    """Return the wall and processor seconds of one phase."""
    wall, processor = time.perf_counter(), time.process_time()
    update_phase(setup, samples, STEP, 0)
    return time.perf_counter() - wall, time.process_time() - processor


def paired(setup, samples, mode, updates, pairs):
    """Return the pairs' ratios, with alignment over without: of wall and of processor time.

    Also the median seconds of a phase without alignment.
    """
    both = arms(setup, samples, mode, updates)
    without, aligned = (update_phase(arm, samples, STEP, 0) for arm in both)  # warm-up, and a check
    for a, b in zip(without.updates, aligned.updates, strict=True):
        torch.testing.assert_close(a["loss/policy"], b["loss/policy"], rtol=1e-5, atol=1e-6)
    walls, ratios = [], []
    for number in track(range(pairs), description=f"{mode}, {updates} updates", transient=True):
        order = (0, 1) if number % 2 else (1, 0)
        took = {arm: seconds(both[arm], samples) for arm in order}
        walls.append(took[0][0])
        ratios.append([b / a for a, b in zip(took[0], took[1], strict=True)])
    wall, processor = zip(*ratios, strict=True)
    return wall, processor, statistics.median(walls)


def peak_memory(setup, samples, mode, updates, aligned):
    """Return the update phase's peak resident memory in MB: beyond what was there, and in all."""
    arm = arms(setup, samples, mode, updates)[aligned]
    with measuring.peak_memory("cpu") as peak:
        update_phase(arm, samples, STEP, 0)
    return peak.growth, peak.most


def memory_ratios(args, mode, updates):
    """Return the ratios of growth and of the whole, medians of 3 processes for each arm."""
    figures = {}
    for aligned in (0, 1):
        command = [sys.executable, __file__, args.model, "--modes", mode]
        command += ["--updates", str(updates), "--only", str(aligned)]
        runs = [
            json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            for _ in range(3)
        ]
        figures[aligned] = [statistics.median(values) for values in zip(*runs, strict=True)]
    return [b / a for a, b in zip(figures[0], figures[1], strict=True)], figures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--updates", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument(
        "--only", type=int, choices=(0, 1),
        help="run one arm (1: with alignment) once and print its peak memory in MB",
    )  # fmt: skip
    args = parser.parse_args()
    with prepare(args.model) as (setup, samples):
        torch.set_num_threads(args.threads)
        if args.only is not None:
            print(
                json.dumps(
                    peak_memory(
                        setup,
                        samples,
                        mode=args.modes[0],
                        updates=args.updates[0],
                        aligned=args.only,
                    )
                )
            )
            return
        tokens = sum(sample.n_tokens for sample in samples)
        weights = sum(p.numel() for p in setup.engine.policy.parameters())
        anchors = [setup.finder.alignment_position(s, "before_marker") for s in samples]
        print(
            f"{weights / 1e6:.2f}M weights, {len(samples)} rollouts, {tokens} tokens, "
            f"{sum(a is not None for a in anchors)} anchors, {args.pairs} pairs, "
            f"load {os.getloadavg()[0]:.1f}"
        )
        print("mode | updates | time ratio | 95 % | processor time | 95 % | seconds | peak memory")
        for mode in args.modes:
            for updates in args.updates:
                wall, processor, took = paired(
                    setup, samples, mode=mode, updates=updates, pairs=args.pairs
                )
                line = [mode, str(updates)]
                for ratios in (wall, processor):
                    middle, low, high = median_interval(ratios)
                    line += [f"{middle:.3f}", f"{low:.3f}-{high:.3f}"]
                line.append(f"{took:.2f}")
                if not args.no_memory:
                    (growth, whole), _ = memory_ratios(args, mode, updates)
                    line.append(f"growth {growth:.3f}, whole {whole:.3f}")
                print(" | ".join(line), flush=True)
        print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
