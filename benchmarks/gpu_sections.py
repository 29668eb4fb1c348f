"""What `gpu.py` measures: each section yields its figures piece by piece, as JSON can keep them."""

import importlib.util
import platform
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import probe
import torch
from measuring import (
    MB,
    Budget,
    Rounds,
    clocked,
    median_interval,
    peak_memory,
    quartiles,
    released,
    timed_rounds,
)
from random_rollouts import (
    SHAPES,
    cast_weights,
    perturbed,
    random_model,
    random_rollouts,
    rollout_columns,
)

from geomrl.models.loading import load_tokenizer, quiet_transformers
from geomrl.models.token_bytes import TokenBytes
from geomrl.models.turns import turn_end_ids
from geomrl.probe.extractor import Extractor
from geomrl.train.config import TrainConfig, load_config
from geomrl.train.deepspeed_engine import DeepSpeedEngine
from geomrl.train.minibatch import MiniBatch
from geomrl.train.policy import Policy, prepare_model
from geomrl.train.positions import AnchorFinder, alignment_labels
from geomrl.train.rates import model_flops, peak_here, update_work
from geomrl.train.update import optimiser_step
from geomrl.train.world import join_world
from geomrl.verify.marker import parse_marker

SEED = 0
RECIPE = Path(__file__).parent.parent / "configs" / "qwen3-1.7b.yaml"
BATCH_TOKENS = 16384


def machine(size, device, budget):
    """The device and what runs on it; needs no model."""
    quiet_transformers()
    cuda = device == "cuda"
    if cuda and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; --device cpu --size tiny tries the script without")
    yield {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
        "memory_mb": torch.cuda.get_device_properties(0).total_memory / MB if cuda else None,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "peak_tflops": peak_here(None) if cuda else None,
        "float32_products": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "seed": SEED,
    }


def reading(size, device, budget):
    """Extraction beside the usual script, with and without its head, and a bare forward; bfloat16."""
    shape, tokenizer = SHAPES[size], load_tokenizer("reasoner")
    model = random_model(shape, device, torch.bfloat16, SEED).requires_grad_(False)
    reader = probe.probe_of(model, tokenizer, f"random-{size}")
    samples = random_rollouts(shape.probed, tokenizer, model.config.vocab_size, SEED)
    rollouts = rollout_columns(samples)
    located = reader.locate(rollouts, probe.MARKER, probe.ANCHORS)
    yield {
        "rollouts": len(rollouts),
        "tokens": sum(len(item.ids) for item in located),
        "weights": sum(weight.numel() for weight in model.parameters()),
        "attention": model.config._attn_implementation,
    }
    states, peaks = {}, {}
    for way in probe.WAYS:  # also the warm-up
        with peak_memory(device) as peak:
            _, states[way] = probe.timed(way, reader, rollouts)
        peaks[way] = peak.most
    yield {
        "peak_mb": peaks,
        "farthest_state": {
            way: probe.farthest(states["ours"], states[way]) for way in ("script", "headless")
        },
    }
    del states
    arms = {way: lambda way=way: probe.timed(way, reader, rollouts)[0] for way in probe.WAYS}
    rounds = timed_rounds(arms, shape.rounds["probe"], budget)
    yield {
        **_seconds(rounds),
        "rollouts_per_second": _quartiles([len(rollouts) / s for s in rounds.seconds["ours"]]),
        "script_over_ours": _quartiles(rounds.ratios("script", "ours")),
        "headless_over_ours": _quartiles(rounds.ratios("headless", "ours")),
        "ours_over_bare": _quartiles(rounds.ratios("ours", "bare")),
    }


def precision(size, device, budget):
    """States of bfloat16 against float32, layer by layer: what a cosine between encoders starts at."""
    shape, tokenizer = SHAPES[size], load_tokenizer("reasoner")
    model = random_model(shape, device, torch.float32, SEED).requires_grad_(False)
    samples = random_rollouts(shape.compared, tokenizer, model.config.vocab_size, SEED)
    states = {}
    for dtype in (torch.float32, torch.bfloat16):
        reader = probe.probe_of(cast_weights(model, dtype), tokenizer, f"random-{size}")
        located = reader.locate(rollout_columns(samples), probe.MARKER, probe.ANCHORS)
        _, states[dtype] = reader.read(located, reader.layers(None), BATCH_TOKENS)
    yield {
        "states": len(states[torch.float32]["final"]),
        "layers": {
            layer: _distance(states[torch.bfloat16][layer], exact)
            for layer, exact in states[torch.float32].items()
        },
    }


def _distance(rounded, exact):
    """Return 1 - cosine, and the difference's length over the exact state's: median and largest."""
    rounded, exact = rounded.double(), exact.double()
    gap = 1 - torch.cosine_similarity(rounded, exact, dim=-1)
    error = (rounded - exact).norm(dim=-1) / exact.norm(dim=-1)
    return {
        "cosine_gap_median": float(gap.median()),
        "cosine_gap_largest": float(gap.max()),
        "error_median": float(error.median()),
        "error_largest": float(error.max()),
    }


def update(size, device, budget):
    """One update with and without alignment, by the recipe; then beside TRL's where it is there."""
    shape, tokenizer = SHAPES[size], load_tokenizer("reasoner")
    model = random_model(shape, device, torch.bfloat16, SEED)
    flops = model_flops(model.config)
    samples = random_rollouts(shape.trained, tokenizer, model.config.vocab_size, SEED)
    work, peak = update_work(flops, samples), peak_here(None) if device == "cuda" else None
    with ExitStack() as stack:
        world = stack.enter_context(join_world())
        ours = _Update(model, samples, tokenizer, world, shape)
        stack.callback(ours.close)
        for name in ours.arms:
            ours.step(name)  # the warm-up
        yield {
            "rollouts": len(samples),
            "tokens": sum(sample.n_tokens for sample in samples),
            "response_tokens": work.tokens,
            "activation_checkpointing": shape.checkpointing,
            "flops": work.flops,
        }
        peaks = {}
        for name in ours.arms:
            with peak_memory(device) as found:
                ours.step(name)
            peaks[name] = {"growth": found.growth, "whole": found.most}
        yield {"peak_mb": peaks}
        trl = importlib.util.find_spec("trl") is not None
        arms = {name: clocked(lambda name=name: ours.step(name), device) for name in ours.arms}
        rounds = timed_rounds(arms, shape.rounds["update"], budget.share(0.5) if trl else budget)
        mfu = [work.flops / s / 1e12 / peak for s in rounds.seconds["plain"]] if peak else None
        yield {
            **_seconds(rounds),
            "aligned_over_plain": _interval(rounds.ratios("aligned", "plain")),
            "response_tokens_per_second": _quartiles(
                [work.tokens / s for s in rounds.seconds["plain"]]
            ),
            "mfu": _quartiles(mfu) if mfu else None,
        }
        if not trl:
            yield {"trl": "not installed"}
            return
        yield {"trl": _beside_trl(ours, shape, tokenizer, device, budget)}


class _Update:
    """The recipe's update on one mini-batch, with the alignment section and without it.

    The learning rate is 0, so that every round has the same weights.
    """

    def __init__(self, model, samples, tokenizer, world, shape):
        config = load_config(
            RECIPE,
            [
                "model.dtype=bfloat16", f"micro_batch.tokens={shape.micro_tokens}",
                f"model.activation_checkpointing={str(shape.checkpointing).lower()}",
                "data.prompts_per_step=2", "dapo.updates_per_rollout=1", "dapo.dual_clip=10",
            ],
        )  # fmt: skip
        prepared = prepare_model(model, activation_checkpointing=shape.checkpointing)
        policy = Policy(prepared, head_chunk=config.model.head_chunk)
        self.engine = DeepSpeedEngine(policy, config, world)
        self.extractor = Extractor(policy, call=self.engine.raw)
        self.arms: dict[str, TrainConfig] = {
            "plain": config.model_copy(update={"alignment": None}),
            "aligned": config,
        }
        self.old = perturbed(self.engine, samples, budget=config.micro_batch.tokens, seed=SEED)
        self.samples = [
            replace(sample, logprobs=tuple(old.tolist()))
            for sample, old in zip(samples, self.old, strict=True)
        ]
        finder = AnchorFinder(
            TokenBytes(tokenizer), parse_marker(config.data.marker), turn_end_ids(None, tokenizer)
        )
        settings = config.alignment
        anchors = [finder.alignment_position(s, settings.anchor) for s in self.samples]
        self.batch = MiniBatch(
            samples=self.samples,
            old=self.old,
            anchors=anchors,
            labels=alignment_labels(self.samples, anchors, settings, SEED),
        )

    def step(self, name):
        """Make one update of an arm; return its metrics."""
        config = self.arms[name]
        aligned = config.alignment is not None
        return optimiser_step(
            self.engine,
            self.extractor if aligned else None,
            self.batch,
            config,
            learning_rate=0.0,
            weight=config.alignment.weight if aligned else 0.0,
        ).metrics

    def close(self):
        self.engine.close()


def _beside_trl(ours, shape, tokenizer, device, budget):
    """Return TRL's update beside the plain one: float32 weights under bfloat16 autocast.

    It runs at the fastest of its micro-batches that fit into memory, padded to the step's longest
    rollout as TRL's own generation pads them.
    """
    from train_vs_trl import Trl

    released()
    with tempfile.TemporaryDirectory() as folder:

        def made(rows):
            model = random_model(shape, device, torch.float32, SEED)
            return Trl(
                model, ours.samples, ours.old, tokenizer=tokenizer, folder=folder, rows=rows,
                trim=False, bf16=True, checkpointing=shape.checkpointing,
            )  # fmt: skip

        tried = {str(rows): _try(lambda rows=rows: made(rows), device) for rows in shape.rows}
        fit = {rows: found["seconds"] for rows, found in tried.items() if "seconds" in found}
        if not fit:
            return {"micro_batches": tried}
        rows = min(fit, key=fit.__getitem__)
        theirs = made(int(rows))
        loss = float(theirs.step())
        arms = {
            "plain": clocked(lambda: ours.step("plain"), device),
            "trl": clocked(theirs.step, device),
        }
        rounds = timed_rounds(arms, shape.rounds["trl"], budget)
    return {
        "micro_batches": tried,
        "rows": rows,
        "loss": {"trl": loss, "ours": ours.step("plain")["loss/policy"]},
        **_seconds(rounds),
        "trl_over_ours": _quartiles(rounds.ratios("trl", "plain")),
    }


def _try(make, device):
    """Return the seconds of a step of TRL's, and the memory of all that it holds.

    That it does not fit is an answer too.
    """
    released()
    try:
        with peak_memory(device) as peak:
            side = make()
            side.step()  # the warm-up
            seconds = clocked(side.step, device)()
    except torch.OutOfMemoryError as error:
        return {"out_of_memory": str(error).splitlines()[0]}
    return {"seconds": seconds, "peak_mb": peak.growth}


def _seconds(rounds: Rounds):
    return {
        "seconds": {name: _quartiles(values) for name, values in rounds.seconds.items()},
        "rounds": rounds.made,
        "shortened_from": rounds.wanted if rounds.made < rounds.wanted else None,
    }


def _quartiles(values):
    median, low, high = quartiles(values)
    return {"median": median, "low": low, "high": high, "n": len(values), "of": "quartiles"}


def _interval(values):
    median, low, high = median_interval(values)
    limits = (None, None) if low != low else (low, high)  # NaN of fewer than six pairs
    return {
        "median": median, "low": limits[0], "high": limits[1], "n": len(values), "of": "95 %",
    }  # fmt: skip


SECTIONS = {"machine": machine, "probe": reading, "precision": precision, "update": update}


def serve(connection, device):
    """Run the sections that are asked for until None is, and send their figures as they come."""
    while (asked := connection.recv()) is not None:
        section, size, seconds = asked
        for figures in SECTIONS[section](size, device, Budget(seconds)):
            connection.send(figures)
        released()
        connection.send(None)
