"""Two arms of several training seeds, on the same problems: values and paired differences.

Two things are drawn at random here, problems and training seeds, and each interval speaks of one:
*over problems* averages the seeds first (would other problems give this, with these trainings?),
*over seeds* averages the problems first (would other trainings, on these problems?). A claim about a
method needs the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from geomrl.errors import GeomrlError
from geomrl.evaluate.accuracy import AVERAGE
from geomrl.stats.intervals import Interval, mean_of_means_interval
from geomrl.stats.multiple import holm
from geomrl.stats.paired import PairedDifference, paired_difference
from geomrl.stats.paired_means import paired_difference_interval

BOUNDS = (0.0, 1.0)
"""Limits of all measures."""


def split_arm(model: str) -> tuple[str, int | None]:
    """Return arm and seed of a model's name "ARM-SEED"; no seed where it has none.

    >>> split_arm("aligned-3"), split_arm("base")
    (('aligned', 3), ('base', None))
    """
    arm, dash, seed = model.rpartition("-")
    return (arm, int(seed)) if dash and seed.isdigit() else (model, None)


def with_arms(scores: pd.DataFrame, column: str = "model") -> pd.DataFrame:
    """Return a table with the columns arm and seed, of the models' names."""
    split = [split_arm(str(model)) for model in scores[column]]
    return scores.assign(arm=[arm for arm, _ in split], seed=[seed or 0 for _, seed in split])


def need_arms(scores: pd.DataFrame, arms: Sequence[str], where: object) -> None:
    """Refuse a table that lacks an arm.

    Raises:
        GeomrlError: names the arm that is missing, and how models are named.
    """
    there = sorted(set(scores["arm"]))
    for arm in arms:
        if arm not in there:
            raise GeomrlError(
                f"{where}: no model of the arm '{arm}' (there is: {', '.join(there)}); name the models "
                f"ARM-SEED: {arm}-0=RUN {arm}-1=RUN ..."
            )


def arm_values(
    scores: pd.DataFrame,
    measures: Sequence[str],
    *,
    average: bool = False,
    seed: int = 0,
    n_boot: int = 2000,
) -> pd.DataFrame:
    """Return each arm's mean of each measure, by benchmark.

    Args:
        scores: one row a model and problem: arm, seed, benchmark, problem_id, and the measures in
            0..1; NaN where a problem has no value for a model.
        measures: its columns.
        average: add rows of the unweighted mean over benchmarks, where there are several.
        seed: of the bootstrap over problems.
        n_boot: its draws.

    Returns:
        arm, benchmark, measure, value, low, high (bootstrap-t over problems), seeds_low, seeds_high
        (t over seeds), n_problems, n_seeds, n_boot. `value` is the mean over problems of each
        problem's mean over seeds.
    """
    rows = []
    for arm, part in scores.groupby("arm", sort=False):
        for measure in measures:
            for benchmark, tables in _benchmarks(part, measure, average).items():
                found = mean_of_means_interval(
                    [_by_problem(table) for table in tables], seed=seed,
                    label=f"{benchmark}/{measure}", n_boot=n_boot, bounds=BOUNDS,
                )  # fmt: skip
                named = {"arm": arm, "benchmark": benchmark, "measure": measure}
                rows.append({**named, **_numbers(found, paired_difference(_by_seed(tables)))})
    return pd.DataFrame(rows)


def arm_differences(
    scores: pd.DataFrame,
    measures: Sequence[str],
    one: str,
    other: str,
    *,
    average: bool = False,
    alone: Sequence[str] = (AVERAGE,),
    seed: int = 0,
    n_boot: int = 2000,
) -> pd.DataFrame:
    """Return arm `one` minus arm `other`, paired by problem and training seed.

    Args:
        scores: as in `arm_values`.
        measures: its columns.
        one: an arm.
        other: another; without seeds (the base model) it is compared with every seed of `one`.
        average: as in `arm_values`.
        alone: benchmarks that stand for all others together: their test is one, and not corrected.
        seed: of the bootstrap over problems.
        n_boot: its draws.

    Returns:
        one, other, benchmark, measure, value, low, high (over problems, `stats.paired_means`),
        seeds_low, seeds_high, p (paired t over seeds), p_holm (over a measure's benchmarks that are
        not `alone`), detectable (80 % power over seeds), n_problems, n_seeds, n_boot.
    """
    rows: list[dict[str, Any]] = []
    for measure in measures:
        first, second = (
            _benchmarks(scores[scores["arm"] == arm], measure, False) for arm in (one, other)
        )
        pairs = {
            name: [_paired(table, second[name][0])]
            for name, (table,) in first.items()
            if name in second
        }
        if average and len(pairs) > 1:
            pairs[AVERAGE] = [pair for (pair,) in pairs.values()]
        family = []
        for benchmark, both in pairs.items():
            label = f"{benchmark}/{measure}/difference"
            found = paired_difference_interval(
                [_by_problem(a) for a, _ in both], [_by_problem(b) for _, b in both],
                bounds=BOUNDS, seed=seed, label=label, n_boot=n_boot,
            )  # fmt: skip
            over = paired_difference(_by_seed([a - b for a, b in both]))
            named = {"one": one, "other": other, "benchmark": benchmark, "measure": measure}
            tested = {"p": over.p, "detectable": over.detectable}
            family.append({**named, **_numbers(found, over), **tested})
        corrected = iter(holm([row["p"] for row in family if row["benchmark"] not in alone]))
        for row in family:
            row["p_holm"] = np.nan if row["benchmark"] in alone else float(next(corrected))
        rows += family
    columns = [
        *(
            "one",
            "other",
            "benchmark",
            "measure",
            "value",
            "low",
            "high",
            "seeds_low",
            "seeds_high",
        ),
        *("p", "p_holm", "detectable", "n_problems", "n_seeds", "n_boot"),
    ]
    return pd.DataFrame(rows, columns=columns)


def _benchmarks(part: pd.DataFrame, measure: str, average: bool) -> dict[str, list[pd.DataFrame]]:
    """Return one arm's measure by benchmark, problems x seeds; the average has all benchmarks'."""
    tables = {
        str(benchmark): [
            rows.pivot(index="problem_id", columns="seed", values=measure).astype(float)
        ]
        for benchmark, rows in part.groupby("benchmark", sort=False)
    }
    if average and len(tables) > 1:
        tables[AVERAGE] = [table for (table,) in tables.values()]
    return tables


def _paired(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return both tables where both have a value; a second without seeds stands for each of them."""
    if second.shape[1] == 1 and first.shape[1] > 1:
        second = pd.DataFrame(dict.fromkeys(first.columns, second.iloc[:, 0]))
    first, second = first.align(second)
    whole = first.notna() & second.notna()
    problems, seeds = whole.any(axis=1), whole.any(axis=0)
    one, other = (table.where(whole).loc[problems, seeds] for table in (first, second))
    return one, other


def _by_problem(table: pd.DataFrame) -> Float[np.ndarray, " problems"]:
    return table.mean(axis=1).dropna().to_numpy(float)


def _by_seed(tables: Sequence[pd.DataFrame]) -> Float[np.ndarray, " seeds"]:
    """Return each seed's unweighted mean over the benchmarks; NaN where one lacks the seed."""
    return pd.DataFrame([table.mean(axis=0) for table in tables]).mean(skipna=False).to_numpy(float)


def _numbers(found: Interval, over: PairedDifference) -> dict[str, Any]:
    """Return a value with its intervals over problems and over seeds."""
    return {
        "value": found.value, "low": found.low, "high": found.high, "seeds_low": over.low,
        "seeds_high": over.high, "n_problems": found.n_clusters, "n_seeds": over.n,
        "n_boot": found.n_boot,
    }  # fmt: skip
