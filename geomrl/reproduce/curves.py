"""Metrics over training steps, as the mean over seeds of each arm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.reproduce.runs import ALIGNED, DAPO, Arms
from geomrl.stats.paired import paired_difference
from geomrl.train.metrics_log import read_metrics
from geomrl.viz import theme
from geomrl.viz.curves import Curve, Panel

LOOKS = {
    DAPO: theme.Look("#D55E00", "s", "DAPO"),
    ALIGNED: theme.Look("#0072B2", "o", "DAPO + alignment"),
}


def arm_metrics(arms: Arms, metrics: Sequence[str]) -> pd.DataFrame:
    """Return each arm's metrics by step: the mean over seeds and Student's t interval over them.

    Args:
        arms: the trainings.
        metrics: names in metrics.jsonl; a step has a value where every seed of the arm has one.

    Returns:
        step, and METRIC:ARM with METRIC:ARM_low and METRIC:ARM_high, as `viz.curves` reads it.

    Raises:
        GeomrlError: no run has any of the metrics.
    """
    parts = []
    for arm, runs in ((DAPO, arms.without), (ALIGNED, arms.aligned)):
        tables = [read_metrics(run).set_index("step") for run in runs]
        for metric in metrics:
            if not all(metric in table for table in tables):
                continue
            wide = pd.concat([table[metric] for table in tables], axis=1).dropna()
            found = [paired_difference(row) for row in wide.to_numpy(float)]
            name = f"{metric}:{arm}"
            parts += [
                pd.Series([f.value for f in found], wide.index, name=name, dtype=float),
                pd.Series([f.low for f in found], wide.index, name=f"{name}_low", dtype=float),
                pd.Series([f.high for f in found], wide.index, name=f"{name}_high", dtype=float),
            ]
    if not parts:
        raise GeomrlError(
            f"{arms.without[0]}: its log has none of {', '.join(metrics)}; train with a section "
            "`evaluation`"
        )
    return pd.concat(parts, axis=1).sort_index().reset_index(names="step").replace({None: np.nan})


def arm_panel(title: str, metric: str, unit: str = "") -> Panel:
    """Return a panel with one curve an arm."""
    return Panel(title, tuple(Curve(f"{metric}:{arm}", look) for arm, look in LOOKS.items()), unit)
