"""Builders of ablations with planted effects, without a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from geomrl.ablate.ablation import Ablation
from geomrl.ablate.grid import Grid, plan_arms
from geomrl.ablate.table import compare
from geomrl.train.config import TrainConfig

CONTROLS = ["wrong", "shuffled_correct", "shuffled_groups", "random_position"]
FACTORS = {
    "loss": ["cosine", "mse", "centred"],
    "anchor": ["before_marker", "marker_end"],
    "layer": ["1", "final", ["1", "final"]],
    "weight": [0.0, 0.1, 1.0],
    "control": CONTROLS,
}


def make_config(**changes):
    fields = {
        "steps": 2,
        "model": {"name": "reasoner", "dtype": "float32"},
        "data": {"problems": "arithmetic_train"},
        "alignment": {"weight": 0.1},
        "evaluation": {"problems": "arithmetic"},
    }
    return TrainConfig(**{**fields, **changes})


def make_plan(factors=FACTORS, **changes):
    return plan_arms(make_config(), Grid(seeds=[0, 1], factors=factors, **changes))


def make_results(plan, effects=None, seeds=range(5), spread=0.01):
    """Results with planted effects: arms share what their seed is worth."""
    rng = np.random.default_rng(0)
    metrics = {
        "eval/pass@1": 0.6, "eval/pass@8": 0.9, "eval/before_marker/final/CC": 0.85,
        "eval/before_marker/final/floor": 0.8, "eval/before_marker/final/CC_centred": 0.1,
        "eval/before_marker/final/effective_rank": 12.0,
    }  # fmt: skip
    rows = []
    for metric, base in metrics.items():
        of_seed = {seed: base + rng.normal(0, 0.1) for seed in seeds}
        for arm in plan.arms:
            planted = (effects or {}).get((arm.name, metric.rpartition("/")[2]), 0.0)
            rows += [
                {
                    "arm": arm.name, "seed": seed, "weight": 0.1, "metric": metric,
                    "value": of_seed[seed] + planted + rng.normal(0, spread),
                }
                for seed in seeds
            ]  # fmt: skip
    return pd.DataFrame(rows)


def make_ablation(path, factors=FACTORS, effects=None):
    plan = make_plan(factors)
    results = make_results(plan, effects)
    levels = pd.DataFrame(plan.levels)
    place = "before_marker/final"
    scales = {"cosine": 1.0, "mse": 0.25}
    return Ablation(
        path=Path(path),
        results=results,
        table=compare(results, plan),
        levels=levels,
        scales=scales,
        place=place,
        policy="reasoner",
    )
