"""What the trainings of two arms measured on their held-out problems, seed by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from geomrl.ablate.table import PRIMARY
from geomrl.errors import GeomrlError
from geomrl.reproduce.arms import Arms
from geomrl.runs.manifest import read_manifest
from geomrl.train.metrics_log import read_metrics

START = 0
"""The step before training."""


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """Evaluations of both arms at one step.

    Attributes:
        step: the last evaluated step, the same in all runs.
        without: one row a seed, of the runs without the alignment loss, at `step`.
        aligned: the same of the runs with it, in the same order.
        start: the first run's evaluation before training; None where it was not evaluated.
        seeds: training seeds.
    """

    step: int
    without: pd.DataFrame
    aligned: pd.DataFrame
    start: pd.Series | None
    seeds: tuple[int, ...]

    def values(self, arm: str, metric: str) -> Float[np.ndarray, " seeds"]:
        """Return a metric of "without" or "aligned" by seed; NaN where it was not measured."""
        frame: pd.DataFrame = getattr(self, arm)
        blank = pd.Series(np.nan, index=frame.index)
        return frame.get(metric, blank).to_numpy(dtype=float)

    def change(self, metric: str) -> Float[np.ndarray, " seeds"]:
        """Return a metric with the loss minus without it, by seed."""
        return self.values("aligned", metric) - self.values("without", metric)


def read_trainings(arms: Arms, needed: Sequence[str] = (PRIMARY,)) -> Trainings:
    """Read both arms' evaluations at their last step.

    Args:
        arms: the runs.
        needed: metrics that every run's evaluations must have.

    Raises:
        GeomrlError: a run has no evaluation or none of a needed metric, its last evaluation is at
            another step than that of the others, or it is of other problems or samples.
    """
    runs = [*arms.without, *arms.aligned]
    tables = {run: _evaluations(run, needed) for run in runs}
    last = {run: int(table["step"].iloc[-1]) for run, table in tables.items()}
    _check_equal({run: {"last evaluation at step": step} for run, step in last.items()})
    _check_equal({run: _evaluated(run) for run in runs})
    first = tables[runs[0]]
    before = first[first["step"] == START]
    return Trainings(
        step=last[runs[0]],
        without=pd.DataFrame([tables[run].iloc[-1] for run in arms.without]).reset_index(drop=True),
        aligned=pd.DataFrame([tables[run].iloc[-1] for run in arms.aligned]).reset_index(drop=True),
        start=before.iloc[0] if len(before) and last[runs[0]] != START else None,
        seeds=arms.seeds,
    )


def _evaluations(run: Path, needed: Sequence[str]) -> pd.DataFrame:
    table = read_metrics(run)
    evaluated = table[table[PRIMARY].notna()] if PRIMARY in table else table[:0]
    if evaluated.empty:
        raise GeomrlError(
            f"{run}: no evaluation in its metrics.jsonl; train with a section `evaluation`"
        )
    for metric in needed:
        if metric not in evaluated:
            places = sorted(
                {"/".join(c.split("/")[1:3]) for c in map(str, table) if c.count("/") == 3}
            )
            raise GeomrlError(
                f"{run}: its evaluations have no {metric} (geometry was evaluated at: "
                f"{', '.join(places) or 'nothing'}); add the anchor and the layer to the section "
                "`evaluation` and train again"
            )
    return evaluated


def _evaluated(run: Path) -> dict[str, object]:
    """Return what was evaluated; how often makes no difference to the last one."""
    settings = read_manifest(run)["train"]["settings"]
    found = {"model": settings["model"]["name"], **(settings["evaluation"] or {})}
    return {key: value for key, value in found.items() if key not in ("every", "at_start")}


def _check_equal(found: dict[Path, dict[str, object]]) -> None:
    (one, expected), *others = found.items()
    for run, values in others:
        different = [k for k in {**expected, **values} if expected.get(k) != values.get(k)]
        if different:
            listed = "; ".join(f"{k}: {expected.get(k)!r} and {values.get(k)!r}" for k in different)
            raise GeomrlError(
                f"{one} and {run} were not evaluated alike ({listed}), so their figures cannot be "
                "paired: let the shorter one go on to the end, or name runs of one configuration"
            )
