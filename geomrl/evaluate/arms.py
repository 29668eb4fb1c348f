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

from geomrl.errors import GeomrlError
from geomrl.evaluate.accuracy import AVERAGE
from geomrl.stats.intervals import mean_of_means_interval
from geomrl.stats.multiple import holm
from geomrl.stats.paired import detectable_difference, paired_difference


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
                label = f"{benchmark}/{measure}"
                found = _summary(tables, (0.0, 1.0), label, seed, n_boot)
                del found["p"], found["sd"]
                rows.append({"arm": arm, "benchmark": benchmark, "measure": measure, **found})
    return pd.DataFrame(rows)


def arm_differences(
    scores: pd.DataFrame,
    measures: Sequence[str],
    one: str,
    other: str,
    *,
    average: bool = False,
    seed: int = 0,
    n_boot: int = 2000,
) -> pd.DataFrame:
    """Return arm `one` minus arm `other`, paired by problem and training seed.

    Args:
        scores: as in `arm_values`.
        measures: its columns.
        one: an arm.
        other: another; without seeds (the base model) it is compared with every seed of `one`.
        average: as in `arm_values`; its test is one and not corrected.
        seed: of the bootstrap over problems.
        n_boot: its draws.

    Returns:
        one, other, benchmark, measure, value, low, high (over problems), seeds_low, seeds_high, p
        (paired t over seeds), p_holm (over the benchmarks of a measure), detectable (80 % power over
        seeds), n_problems, n_seeds, n_boot.
    """
    rows: list[dict[str, Any]] = []
    for measure in measures:
        first, second = (
            _benchmarks(scores[scores["arm"] == arm], measure, False) for arm in (one, other)
        )
        changes = {
            name: [_paired(table, second[name][0])]
            for name, (table,) in first.items()
            if name in second
        }
        if average and len(changes) > 1:
            changes[AVERAGE] = [table for (table,) in changes.values()]
        family = []
        for benchmark, tables in changes.items():
            label = f"{benchmark}/{measure}/difference"
            found = _summary(tables, (-1.0, 1.0), label, seed, n_boot)
            reach = detectable_difference(found.pop("sd") or np.nan, found["n_seeds"])
            named = {"one": one, "other": other, "benchmark": benchmark, "measure": measure}
            family.append({**named, **found, "detectable": reach})
        corrected = iter(holm([row["p"] for row in family if row["benchmark"] != AVERAGE]))
        for row in family:
            row["p_holm"] = np.nan if row["benchmark"] == AVERAGE else float(next(corrected))
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


def _paired(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return first - second by problem and seed; a second without seeds stands for each of them."""
    if second.shape[1] == 1 and first.shape[1] > 1:
        second = pd.DataFrame(dict.fromkeys(first.columns, second.iloc[:, 0]))
    change = first - second  # pandas aligns problems and seeds; a pair that is not whole is NaN
    return change.dropna(axis=1, how="all").dropna(axis=0, how="all")


def _summary(
    tables: Sequence[pd.DataFrame],
    bounds: tuple[float, float],
    label: str,
    seed: int,
    n_boot: int,
) -> dict[str, Any]:
    """Return the mean over benchmarks of problems x seeds tables, with both intervals."""
    strata = [table.mean(axis=1).dropna().to_numpy(float) for table in tables]
    found = mean_of_means_interval(strata, seed=seed, label=label, n_boot=n_boot, bounds=bounds)
    by_seed = pd.DataFrame([table.mean(axis=0) for table in tables]).mean(axis=0, skipna=False)
    over = paired_difference(by_seed.to_numpy(float))
    return {
        "value": found.value, "low": found.low, "high": found.high, "seeds_low": over.low,
        "seeds_high": over.high, "p": over.p, "sd": over.sd,
        "n_problems": sum(map(len, strata)), "n_seeds": over.n, "n_boot": found.n_boot,
    }  # fmt: skip
