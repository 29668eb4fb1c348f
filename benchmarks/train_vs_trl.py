"""One optimiser step on real rollouts: geomrl's beside the GRPOTrainer of TRL.

    python benchmarks/train_vs_trl.py ROLLOUTS.jsonl TOKENIZER_FOLDER [--problems 2] [--pairs 6]

A 30M-parameter random Qwen3 with Qwen's vocabulary (the model of probe.py) takes one DAPO step on
the rollouts of a few problems whose answers differ in correctness (lines with problem, response,
label). Both sides get the same weights, tokens, advantages and old log-probabilities; the latter
are the model's own plus noise, so that a realistic share of the tokens is clipped. A step is
forward and backward of the whole mini-batch and AdamW's update with clipping, at learning rate 0;
nothing is generated.

    geomrl   optimiser_step with DeepSpeedEngine (ZeRO-0)
    trl      GRPOTrainer.training_step on each micro-batch, loss_type dapo with its fused head, in
             the tensors that its own generation makes: padded to the step's longest prompt and
             longest response
    trimmed  the same, but rollouts sorted by length and each micro-batch padded to its own longest:
             better than TRL does by itself

Each side runs at its fastest micro-batch among those whose process stays under --cap MB.
Set equal: the token mean over the whole step, clip bounds (.2, .28), the dual clip (TRL's delta),
temperature 1, float32, no KL term, no gradient checkpointing.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from datasets import Dataset
from measuring import in_turn, resident, spread
from random_rollouts import perturbed
from rich.progress import track
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from geomrl.train.advantage import group_advantages
from geomrl.train.batch import Sample, with_advantages
from geomrl.train.config import TrainConfig
from geomrl.train.deepspeed_engine import DeepSpeedEngine
from geomrl.train.minibatch import MiniBatch
from geomrl.train.policy import Policy, prepare_model
from geomrl.train.update import optimiser_step
from geomrl.train.world import World, join_world

SIDES = ("geomrl", "trl", "trimmed")
DUAL_CLIP = 10.0
BUDGETS = {  # what is tried: padded tokens and tokens of logits at once; rows
    "geomrl": [(1024, 1024), (2048, 512), (2048, 2048), (4096, 1024)],
    "trl": [(1,), (2,), (4,)],
    "trimmed": [(2,), (4,), (8,)],
}


def build_model():
    """Return the random model: 30M weights, 24M of them the tied embedding."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=151936, hidden_size=160, num_hidden_layers=12, num_attention_heads=5,
        num_key_value_heads=5, head_dim=32, intermediate_size=640, tie_word_embeddings=True,
        max_position_embeddings=4096, pad_token_id=0,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


def load_samples(path, tokenizer, problems):
    """Return the rollouts of the first problems that some responses answer right and some wrong."""
    groups = {}
    for line in Path(path).read_text().splitlines():
        row = json.loads(line)
        groups.setdefault(row["problem"], []).append(row)
    mixed = [rows for rows in groups.values() if len({row["label"] for row in rows}) == 2]
    if len(mixed) < problems:
        raise SystemExit(f"{path} has {len(mixed)} problems with right and wrong responses")
    samples = []
    for number, rows in enumerate(mixed[:problems]):
        for row in rows:
            response = tokenizer(row["response"])["input_ids"] + [tokenizer.eos_token_id]
            samples.append(
                Sample(
                    group=number, sample=row["sample"], benchmark="", problem_id=str(number),
                    problem=row["problem"], gold=row["gold"], prompt=row["problem"],
                    prompt_kind="raw", prompt_ids=tuple(tokenizer(row["problem"])["input_ids"]),
                    response=row["response"], response_ids=tuple(response),
                    logprobs=(0.0,) * len(response), finish_reason="stop", seed=0,
                    verdict="correct" if row["label"] else "wrong", answer=None,
                    verdict_reason=None, policy_step=1, reward=1.0 if row["label"] else -1.0,
                )
            )  # fmt: skip
    rewards = torch.tensor([sample.reward for sample in samples], dtype=torch.float64)
    group = torch.tensor([sample.group for sample in samples])
    return with_advantages(samples, group_advantages(rewards, group, std=True).tolist())


class KeepingEngine(DeepSpeedEngine):
    """DeepSpeed's engine, which also shows the gradient that the last step was made from."""

    gradient = None
    keep = False

    def step(self, learning_rate):
        if self.keep:
            self.gradient = flat_gradient(self.policy.model)
        return super().step(learning_rate)


class Geomrl:
    """geomrl's optimiser step."""

    def __init__(self, model, samples, old, world, tokens, head_chunk):
        self.config = TrainConfig.model_validate(
            {
                "steps": 1,
                "model": {"name": "random", "dtype": "float32", "head_chunk": head_chunk},
                "data": {"problems": "none"},
                "dapo": {"dual_clip": DUAL_CLIP, "updates_per_rollout": 1},
                "optimiser": {"clip_norm": 1.0},
                "micro_batch": {"tokens": tokens},
                "deepspeed": {"zero": 0},
            }
        )
        self.policy = Policy(prepare_model(model), head_chunk=head_chunk)
        self.engine = KeepingEngine(self.policy, self.config, world)
        self.batch = MiniBatch(samples=samples, old=old)

    def step(self, keep=False):
        self.engine.keep = keep
        return optimiser_step(self.engine, None, self.batch, self.config, learning_rate=0.0).metrics

    @property
    def gradient(self):
        return self.engine.gradient


class FedTrainer(GRPOTrainer):
    """TRL's trainer, which takes the tensors it is given instead of generating."""

    def _prepare_inputs(self, inputs):
        return inputs


class Trl:
    """TRL's optimiser step: its training_step on each micro-batch, then clipping and AdamW."""

    def __init__(
        self, model, samples, old, tokenizer, folder, rows, trim, bf16=False, checkpointing=False
    ):
        device = next(model.parameters()).device
        self.pieces = [
            {name: tensor.to(device) for name, tensor in piece.items()}
            for piece in trl_pieces(samples, old, rows, trim)
        ]
        settings = GRPOConfig(
            output_dir=str(folder), per_device_train_batch_size=rows,
            gradient_accumulation_steps=len(self.pieces), num_generations=8, loss_type="dapo",
            beta=0.0, epsilon=0.2, epsilon_high=0.28, delta=DUAL_CLIP, temperature=1.0,
            gradient_checkpointing=checkpointing, bf16=bf16, use_cpu=device.type == "cpu",
            report_to="none", disable_dropout=True, max_completion_length=4096, learning_rate=0.0,
        )  # fmt: skip
        self.trainer = FedTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": [s.prompt for s in samples]}),
            processing_class=tokenizer,
        )
        self.trainer.current_gradient_accumulation_steps = len(self.pieces)
        if checkpointing:  # TRL's own loop, which is not run here, would say so
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model = self.trainer.model.train()  # bare: accelerate would wrap it for our ranks
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=0.0, weight_decay=0.1)
        self.gradient = None

    def step(self, keep=False):
        losses = [self.trainer.training_step(self.model, dict(p), None) for p in self.pieces]
        if keep:
            self.gradient = flat_gradient(self.model)
        self.trainer.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return sum(losses)


def trl_pieces(samples, old, rows, trim):
    """Return micro-batches as TRL's generation makes them: prompts padded left, responses right."""
    order = list(range(len(samples)))
    if trim:
        order.sort(key=lambda i: -len(samples[i].response_ids))
    total = torch.tensor(sum(len(sample.response_ids) for sample in samples))
    pieces = []
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        measured = chosen if trim else order
        longest_prompt = max(len(samples[i].prompt_ids) for i in measured)
        longest = max(len(samples[i].response_ids) for i in measured)
        piece = {
            "prompt_ids": torch.zeros(len(chosen), longest_prompt, dtype=torch.long),
            "prompt_mask": torch.zeros(len(chosen), longest_prompt, dtype=torch.long),
            "completion_ids": torch.zeros(len(chosen), longest, dtype=torch.long),
            "completion_mask": torch.zeros(len(chosen), longest, dtype=torch.long),
            "old_per_token_logps": torch.zeros(len(chosen), longest),
            "advantages": torch.tensor([samples[i].advantage for i in chosen]),
            "num_items_in_batch": total,
        }
        for row, i in enumerate(chosen):
            prompt, response = samples[i].prompt_ids, samples[i].response_ids
            piece["prompt_ids"][row, -len(prompt) :] = torch.tensor(prompt)
            piece["prompt_mask"][row, -len(prompt) :] = 1
            piece["completion_ids"][row, : len(response)] = torch.tensor(response)
            piece["completion_mask"][row, : len(response)] = 1
            piece["old_per_token_logps"][row, : len(response)] = old[i]
        pieces.append(piece)
    return pieces


def flat_gradient(model):
    return torch.cat([weight.grad.flatten() for weight in model.parameters()]).clone()


@dataclass
class Runner:
    """What a pass without gradient needs."""

    policy: Policy
    world: World
    call: None = None


def make(side, setting, samples, old, tokenizer, world, folder):
    if side == "geomrl":
        known = [replace(s, logprobs=tuple(x.tolist())) for s, x in zip(samples, old, strict=True)]
        return Geomrl(build_model(), known, old, world, *setting)
    threads = torch.get_num_threads()
    with contextlib.redirect_stdout(io.StringIO()):
        made = Trl(build_model(), samples, old, tokenizer, folder, *setting, side == "trimmed")
    torch.set_num_threads(threads)  # accelerate takes all cores where OMP_NUM_THREADS is unset
    return made


def best_setting(side, args):
    """Return the fastest setting of a side whose own process stays under the cap."""
    found = {}
    for setting in BUDGETS[side]:
        command = [sys.executable, __file__, args.rollouts, args.tokenizer, "--only", side]
        command += ["--problems", str(args.problems), "--threads", str(args.threads)]
        command += ["--setting", *map(str, setting)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        took, peak = json.loads(done.stdout.splitlines()[-1])
        fits = peak <= args.cap
        print(f"  {side} {setting}: {took:.1f} s, {peak:.0f} MB{'' if fits else ', over the cap'}")
        if fits:
            found[setting] = took
    if not found:
        raise SystemExit(f"{side} stays under --cap {args.cap} MB at none of its settings")
    return min(found, key=found.get)


def compare(args, samples, old, tokenizer, world, folder):
    """Time all sides in turn and compare their gradients."""
    settings = {side: best_setting(side, args) for side in SIDES}
    runs = {
        side: make(
            side,
            settings[side],
            samples=samples,
            old=old,
            tokenizer=tokenizer,
            world=world,
            folder=folder,
        )
        for side in SIDES
    }
    metrics = {side: run.step(keep=True) for side, run in runs.items()}["geomrl"]
    clipped = {name: metrics[f"clip/{name}"] for name in ("low", "high", "dual")}
    print("clipped: " + ", ".join(f"{name} {share:.1%}" for name, share in clipped.items()))
    ours = runs["geomrl"].gradient.double()
    for side in SIDES[1:]:
        theirs = runs[side].gradient.double()
        cosine = torch.cosine_similarity(ours, theirs, dim=0)
        print(
            f"gradient, {side}: cosine {cosine:.8f}, norm ratio {ours.norm() / theirs.norm():.6f}"
        )
    tokens = sum(len(sample.response_ids) for sample in samples)
    seconds = {side: [] for side in SIDES}
    for number in track(range(args.pairs), description="paired steps"):
        for side in in_turn(SIDES, number):
            started = time.perf_counter()
            runs[side].step()
            seconds[side].append(time.perf_counter() - started)
    print(f"load {os.getloadavg()[0]:.1f}, {args.threads} thread(s), {args.pairs} rounds")
    for side in SIDES:
        print(f"{side:8} {settings[side]}: {spread([tokens / s for s in seconds[side]])} tokens/s")
    for side in SIDES[1:]:
        ratios = [b / a for a, b in zip(seconds["geomrl"], seconds[side], strict=True)]
        print(f"speed of geomrl over {side}: {spread(ratios)}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rollouts")
    parser.add_argument("tokenizer")
    parser.add_argument("--problems", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cap", type=float, default=6000, help="MB of a side's own process")
    parser.add_argument(
        "--only", choices=SIDES, help="take one step of one side; print its seconds and peak MB"
    )
    parser.add_argument("--setting", type=int, nargs="+")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    samples = load_samples(args.rollouts, tokenizer, args.problems)
    with join_world() as world, tempfile.TemporaryDirectory() as folder:
        if args.only:  # any old log-probabilities cost the same
            old = [torch.full((len(s.response_ids),), -12.0).double() for s in samples]
            side = make(
                args.only,
                args.setting,
                samples=samples,
                old=old,
                tokenizer=tokenizer,
                world=world,
                folder=folder,
            )
            started = time.perf_counter()
            side.step()
            print(json.dumps([time.perf_counter() - started, resident()]))
            return
        lengths = [len(sample.response_ids) for sample in samples]
        print(
            f"{len(samples)} rollouts of {args.problems} problems, {sum(lengths)} response tokens, "
            f"the longest {max(lengths)}"
        )
        policy = Policy(prepare_model(build_model()), head_chunk=512)
        old = perturbed(Runner(policy, world), samples, budget=4096)
        compare(args, samples, old=old, tokenizer=tokenizer, world=world, folder=folder)


if __name__ == "__main__":
    main()
