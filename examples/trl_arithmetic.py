"""Hidden-Align in TRL's GRPOTrainer, on the bundled reasoner and its sums: two minutes on a CPU core.

    python examples/trl_arithmetic.py --weight 0.01 --out runs/trl-aligned
    python examples/trl_arithmetic.py --weight 0 --out runs/trl-plain    # the control: only measures

A script of your own becomes this one by three lines: the import, the class's name, `alignment=`.
OUT/log.jsonl is TRL's log, one line an optimiser step, with geomrl's figures in it.
"""

import argparse
import json
from itertools import islice
from pathlib import Path
from statistics import mean

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig

from geomrl.integrations.trl import HiddenAlignGRPOTrainer
from geomrl.models.names import checkpoint_path
from geomrl.problems.arithmetic import training_problems
from geomrl.verify.verifier import MathVerifier

SHOWN = ("reward", "loss/align", "align/CC", "align/floor", "align/CC_centred", "align/eligible")


def accuracy(completions, gold, **_):
    """1 where the answer in \\boxed{} is right, else 0."""
    with MathVerifier() as verifier:
        grades = verifier.grade([turns[0]["content"] for turns in completions], gold)
    return [float(grade.verdict == "correct") for grade in grades]


def sums(n, seed):
    """Return problems of the bundled task as TRL wants them: prompts, and what rewards need."""
    problems = list(islice(training_problems(seed), n))
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": p.statement}] for p in problems],
            "gold": [p.gold for p in problems],
        }
    )


def settings_of(out, steps, seed):
    """16 problems x 8 rollouts an optimiser step, in 4 micro-batches."""
    return GRPOConfig(
        output_dir=str(out), max_steps=steps, seed=seed, learning_rate=5e-4, lr_scheduler_type="constant",
        per_device_train_batch_size=32, gradient_accumulation_steps=4, num_generations=8,
        max_completion_length=96, loss_type="dapo", epsilon_high=0.28, logging_steps=1,
        save_strategy="no", report_to="none", bf16=False, gradient_checkpointing=False, use_cpu=True,
        disable_tqdm=True,
    )  # fmt: skip


def mean_of(name, lines):
    """The mean of a figure over the steps in which it is defined."""
    return mean(line[name] for line in lines if line[name] is not None)


def main(weight, steps, seed, out):
    """Train, and write TRL's log."""
    torch.set_num_threads(1)
    trainer = HiddenAlignGRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(checkpoint_path(), dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(checkpoint_path()),
        reward_funcs=accuracy,
        args=settings_of(out, steps, seed),
        train_dataset=sums(16 * steps, seed),
        alignment={"weight": weight},
    )
    trainer.train()
    history = [line for line in trainer.state.log_history if "reward" in line]
    out.mkdir(parents=True, exist_ok=True)
    (out / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    for name in SHOWN:
        first, last = (mean_of(name, part) for part in (history[:10], history[-10:]))
        print(f"{name}: {first:.3f} -> {last:.3f} (means of the first and the last 10 steps)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weight", type=float, default=0.01)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/trl-aligned"))
    main(**vars(parser.parse_args()))
