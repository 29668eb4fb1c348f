"""The folder of a training, with every metric that the trainer writes, without a training."""

from __future__ import annotations

import json

import numpy as np

from geomrl.runs.layout import METRICS
from geomrl.train.config import TrainConfig, resolved_yaml


def make_log(run, steps=12, *, alignment=True, every=4, long_name=False):
    """A training run's folder with every metric that the trainer writes, without a training."""
    rng = np.random.default_rng(0)
    name = "org/" + "a-very-long-model-name-" * 4 if long_name else "reasoner"
    config = TrainConfig(
        steps=steps,
        model={"name": name, "dtype": "float32"},
        data={"problems": "arithmetic_train"},
        alignment={} if alignment else None,
    )
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(resolved_yaml(config))
    names = [
        "reward/mean", "pass_rate", "groups/kept", "groups/all_correct", "groups/all_wrong",
        "length/mean", "length/max", "length/truncated", "no_answer", "loss/policy", "clip/low",
        "clip/high", "clip/dual", "kl/approx", "mismatch/mean", "entropy", "grad_norm", "lr",
        "time/generate", "time/old_logprobs", "time/update", "time/tokens_per_second",
    ]  # fmt: skip
    if alignment:
        cells = ("CC", "II", "CI", "floor", "CC_centred", "floor_centred")
        names += [f"align/{cell}" for cell in cells]
        names += ["align/effective_rank", "align/participation_ratio", "loss/align"]
        names += ["grad_norm/policy", "grad_norm/align", "weight/align"]
    lines = []
    for step in range(steps + 1):
        row = {"step": step}
        if step:
            row |= {name: rng.uniform(0.01, 1) for name in names}
            row["clip/dual"] = 0.0
            if alignment:
                row["grad_norm/align"] = 10.0 ** rng.uniform(-6, 0)
                row["align/II"] = None if step == 3 else 0.5  # no pair in that step
        if step % every == 0:
            for k in (1, 8):
                value = rng.uniform(0.2, 0.8)
                row |= {f"eval/pass@{k}{s}": value + d for s, d in INTERVAL}
            row |= {"eval/n_problems": 40, "eval/n_samples": 8}
            for place in ("before_marker/final", "fraction:0.5/final"):
                for cell in ("CC", "II", "floor", "CC-II", "CC-II_same_answer"):
                    for space in ("", "_centred"):
                        value = rng.uniform(0.2, 0.8)
                        key = f"eval/{place}/{cell}{space}"
                        row |= {f"{key}{s}": value + d for s, d in INTERVAL}
                row[f"eval/{place}/effective_rank"] = rng.uniform(2, 20)
        lines.append(json.dumps(row) + "\n")
    (run / METRICS).write_text("".join(lines))
    return run


INTERVAL = (("", 0.0), ("_low", -0.1), ("_high", 0.1))
