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
from geomrl.stats.multiple import holm
from geomrl.stats.paired_means import paired_difference_interval
from geomrl.stats.power import LEVEL, detectable_effect, mean_of_means_error
from geomrl.stats.sign_flip import N_FLIPS, least_p, sign_flip_p

_BOUNDS = (0.0, 1.0)
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

    `low` and `high` combine the two means' bootstrap-t intervals by problem, with their correlation
    (`stats.paired_means`); p is a sign-flip test (`stats.sign_flip`); p_holm
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
        sides = [
            [both.loc[both["benchmark"] == name, column].to_numpy(float) for name in names]
            for column in (measure, f"{measure}/reference")
        ]

        draws = {"seed": seed, "n_boot": n_boot, "n_flips": n_flips}
        found = [
            _row(name, measure, [ours], [theirs], tests=len(names), **draws)
            for name, ours, theirs in zip(names, *sides, strict=True)
        ]
        adjusted = holm([each["p"] for each in found]).tolist()
        if average and len(names) > 1:
            found.append(_row(AVERAGE, measure, sides[0], sides[1], tests=1, **draws))
            adjusted.append(np.nan)
        found = [each | {"p_holm": p} for each, p in zip(found, adjusted, strict=True)]
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
    *("model", "reference", "benchmark", "measure", "k"),
    *("value", "low", "high", "sd", "p", "p_holm"),
    *("detectable", "detectable_holm", "n_problems", "n_samples", "n_samples_reference"),
    *("n_boot", "n_flips", "seed", "warning"),
]


def _row(
    benchmark: str,
    measure: str,
    ours: list[Float[np.ndarray, " problems"]],
    theirs: list[Float[np.ndarray, " problems"]],
    *,
    tests: int,
    seed: int,
    n_boot: int,
    n_flips: int,
) -> dict[str, Any]:
    """Return one difference; `tests` is how many Holm corrects for."""
    label = f"{benchmark}/{measure}/difference"
    found = paired_difference_interval(
        ours, theirs, bounds=_BOUNDS, seed=seed, label=label, n_boot=n_boot
    )
    parts = [a - b for a, b in zip(ours, theirs, strict=True)]
    p = sign_flip_p(parts, seed=seed, label=label, n_flips=n_flips)
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
