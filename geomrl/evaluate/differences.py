"""Differences between two models on the same problems, and what could have been seen.

The problem is the unit: each gives one difference, model minus reference, of its pass@k or
majority@k. So what problems have in common, their difficulty above all, cancels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from geomrl.evaluate.accuracy import AVERAGE, measures_of, split_measure
from geomrl.stats.intervals import Interval, mean_interval, mean_of_means_interval
from geomrl.stats.multiple import holm
from geomrl.stats.power import LEVEL, detectable_effect, mean_of_means_error
from geomrl.stats.sign_flip import N_FLIPS, least_p, sign_flip_p

_BOUNDS = (-1.0, 1.0)
_KEYS = ["benchmark", "problem_id"]


def difference_table(
    scores: pd.DataFrame,
    reference: pd.DataFrame,
    *,
    average: bool = True,
    seed: int = 0,
    n_boot: int = 2000,
    n_flips: int = N_FLIPS,
) -> pd.DataFrame:
    """Return a model's differences to a reference, paired by problem: a row a measure and benchmark.

    Columns: model, reference, benchmark, measure, k, value, low, high, sd, p, p_holm, detectable,
    detectable_holm, n_problems, n_samples, n_samples_reference, n_boot, n_flips, seed, warning.

    `low` and `high` are bootstrap-t by problem; p is a sign-flip test (`stats.sign_flip`); p_holm
    corrects it over the benchmarks, measure by measure, the average aside: it is one test and has
    its own p. `detectable` is the smallest true difference that a test at 5 % would have found with
    80 % power, given the spread `sd` that these differences have; `detectable_holm` the same at
    5 % divided by the number of benchmarks, the worst that Holm can ask. Both are NaN where so few
    problems cannot reject at all.

    Args:
        scores: of one model (`accuracy.problem_scores`).
        reference: of another; only problems of both count.
        average: whether to average over benchmarks, where there are several.
        seed: of the bootstrap and the flips.
        n_boot: bootstrap draws.
        n_flips: random sign patterns.
    """
    both = scores.merge(reference, on=_KEYS, suffixes=("", "/reference"))
    if both.empty:
        return pd.DataFrame(columns=COLUMNS)
    measures = [m for m in measures_of(scores) if m in measures_of(reference)]
    names = both["benchmark"].astype(str).drop_duplicates().tolist()
    rows: list[dict[str, Any]] = []
    for measure in measures:
        change = (both[measure] - both[f"{measure}/reference"]).to_numpy(float)
        parts = {name: change[(both["benchmark"] == name).to_numpy()] for name in names}
        found = []
        for name, part in parts.items():
            label = f"{name}/{measure}/difference"
            interval = mean_interval(part, seed=seed, label=label, n_boot=n_boot, bounds=_BOUNDS)
            p = sign_flip_p([part], seed=seed, label=label, n_flips=n_flips)
            found.append(_row(name, measure, [part], interval, p, len(names)))
        for row, adjusted in zip(found, holm([row["p"] for row in found]), strict=True):
            row["p_holm"] = float(adjusted)
        if average and len(names) > 1:
            label = f"{AVERAGE}/{measure}/difference"
            whole = list(parts.values())
            interval = mean_of_means_interval(
                whole, seed=seed, label=label, n_boot=n_boot, bounds=_BOUNDS
            )
            p = sign_flip_p(whole, seed=seed, label=label, n_flips=n_flips)
            found.append(_row(AVERAGE, measure, whole, interval, p, 1) | {"p_holm": np.nan})
        rows += found
    first = both.iloc[0]
    table = pd.DataFrame(rows).assign(
        model=first["model"],
        reference=first["model/reference"],
        n_samples=int(first["samples"]),
        n_samples_reference=int(first["samples/reference"]),
        n_flips=n_flips,
    )
    return table[COLUMNS].astype({"k": "Int64"})


COLUMNS = [
    *(
        "model",
        "reference",
        "benchmark",
        "measure",
        "k",
        "value",
        "low",
        "high",
        "sd",
        "p",
        "p_holm",
    ),
    *("detectable", "detectable_holm", "n_problems", "n_samples", "n_samples_reference"),
    *("n_boot", "n_flips", "seed", "warning"),
]


def _row(
    benchmark: str,
    measure: str,
    parts: list[Float[np.ndarray, " problems"]],
    found: Interval,
    p: float,
    tests: int,
) -> dict[str, Any]:
    kind, k = split_measure(measure)
    se, df = mean_of_means_error(parts)
    sd = float(parts[0].std(ddof=1)) if len(parts) == 1 and len(parts[0]) > 1 else np.nan
    return {
        "benchmark": benchmark,
        "measure": kind,
        "k": k,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "sd": sd,
        "p": p,
        "detectable": _detectable(se, df, found.n_clusters, LEVEL),
        "detectable_holm": _detectable(se, df, found.n_clusters, LEVEL / tests),
        "n_problems": found.n_clusters,
        "n_boot": found.n_boot,
        "seed": found.seed,
        "warning": found.warning,
    }


def _detectable(se: float, df: float, n: int, level: float) -> float:
    """Return the detectable difference; NaN where nothing varies, or no sign pattern could reject."""
    if se == 0 or least_p(n) > level:
        return float("nan")
    return detectable_effect(se, df, level=level)
