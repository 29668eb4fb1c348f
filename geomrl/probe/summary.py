"""The headline of a run, as printed and as written to `summary.json`."""

from __future__ import annotations

from typing import Any

import pandas as pd

from geomrl.geometry.similarity import headline
from geomrl.runs.manifest import versions
from geomrl.runs.run import Run
from geomrl.runs.states import absences
from geomrl.stats.draws import Draws
from geomrl.stats.intervals import Interval, mean_interval
from geomrl.stats.passk import pass_at_k

KS = (1, 2, 4, 8, 16, 32, 64)


def summarise(run: Run, encoder: str, notes: list[str], draws: Draws) -> dict[str, Any]:
    """Return the run's headline figures, in JSON's types."""
    rollouts = run.rollouts
    table = run.similarity[run.similarity["encoder"] == encoder]
    return {
        "run": str(run.path),
        "policy": next(iter(rollouts["policy"].dropna()), "unknown"),
        "encoder": encoder,
        "seed": draws.seed,
        "n_boot": draws.n_boot,
        "labels": run.labels,
        "versions": versions(),
        "benchmarks": {
            name: {
                **_accuracy(rollouts[rollouts["benchmark"] == name], name, draws),
                **_headlines(table[table["benchmark"] == name]),
            }
            for name in rollouts["benchmark"].unique()
        },
        "absent_anchors": absences(run.store(encoder).rows()),
        "notes": notes,
        "shortcomings": shortcomings(rollouts),
    }


def shortcomings(rollouts: pd.DataFrame) -> list[str]:
    """Return why a headline cannot be believed: what it lacks, and the cure."""
    found = []
    for name, part in rollouts.groupby("benchmark", sort=False):
        by_problem = part.groupby("problem_id", sort=False)["verdict"]
        if by_problem.ngroups == 1:
            found.append(
                f"benchmark {name} has one problem only ({part['problem_id'].iloc[0]}): no pair of "
                "different problems, so no floor, no centre and no interval; add problems"
            )
        correct = by_problem.agg(lambda verdicts: (verdicts == "correct").sum())
        if (correct < 2).all():
            found.append(
                f"benchmark {name}: none of its {len(correct)} groups has two correct rollouts (at most "
                f"{correct.max()}, problem {correct.idxmax()}), so there is no CC; sample more (-n), or "
                "take easier problems or a better model"
            )
    return found


def _accuracy(rollouts: pd.DataFrame, name: str, draws: Draws) -> dict[str, Any]:
    """Return verdict counts and pass@k with intervals by problem."""
    right = (rollouts["verdict"] == "correct").groupby(rollouts["problem_id"], sort=False)
    sizes, correct = right.size(), right.sum()
    found: dict[str, Any] = {
        "n_problems": len(sizes),
        "n_rollouts": len(rollouts),
        "verdicts": rollouts["verdict"].value_counts().to_dict(),
        "mixed_problems": int(((correct > 0) & (correct < sizes)).sum()),
        "pass@1": interval_dict(
            mean_interval(
                (correct / sizes).to_numpy(),
                seed=draws.seed,
                label=f"{name}/pass@1",
                n_boot=draws.n_boot,
                bounds=(0.0, 1.0),
            )
        ),
    }
    if sizes.nunique() != 1:
        found["pass@k"] = f"not computed: groups of {sizes.min()} to {sizes.max()} samples"
        return found
    n = int(sizes.iloc[0])
    found["samples"] = n
    for k in (k for k in KS if 1 < k <= n):
        each = pass_at_k(correct.to_numpy(), n, k)
        interval = mean_interval(
            each,
            seed=draws.seed,
            label=f"{name}/pass@{k}",
            n_boot=draws.n_boot,
            bounds=(0.0, 1.0),
        )
        found[f"pass@{k}"] = interval_dict(interval)
    return found


def interval_dict(interval: Interval) -> dict[str, float | int | None]:
    """Return an interval in JSON's types (NaN becomes null)."""
    numbers = {"value": interval.value, "low": interval.low, "high": interval.high}
    clean = {k: None if v != v else round(float(v), 6) for k, v in numbers.items()}
    return {**clean, "n_problems": interval.n_clusters}


def _headlines(table: pd.DataFrame) -> dict[str, Any]:
    """Return the headline table before the marker, and beside it the one at the marker's end.

    What the state before the marker mostly announces is the marker; the answer shows one token on.
    """
    anchors = [a for a in ("before_marker", "marker_end") if a in set(table["anchor"])]
    return {"headlines": [_headline(table, a) for a in anchors or [str(table["anchor"].iloc[0])]]}


def _headline(table: pd.DataFrame, anchor: str) -> dict[str, Any]:
    frame = headline(table, anchor=anchor)
    order = [*(c for c in frame["cell"] if "-" not in c), *(c for c in frame["cell"] if "-" in c)]
    rounded = frame.set_index("cell").loc[order].reset_index().round(6).astype(object)
    cells = rounded.where(rounded.notna(), None).to_dict("records")
    return {"layer": frame.attrs["layer"], "anchor": frame.attrs["anchor"], "cells": cells}
