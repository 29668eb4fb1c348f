"""The paper's training curves: accuracy and geometry over training, with and without alignment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.reproduce import Analysis, Arms, Finding
from geomrl.reproduce.arms import ALIGNED, DAPO, LOOKS
from geomrl.reproduce.finding import interval
from geomrl.stats.paired import paired_difference
from geomrl.train.metrics_log import read_metrics
from geomrl.viz import theme
from geomrl.viz.curves import Curve, Panel, curve_frame, draw_curves

_PLACE = "eval/before_marker/final"
_PANELS = {
    "eval/pass@1": ("Held-out pass@1", ""),
    "reward/mean": ("Reward in training", ""),
    "length/mean": ("Response length", "tokens"),
    f"{_PLACE}/CC": ("CC, held out", "cosine"),
    f"{_PLACE}/floor": ("Floor, held out", "cosine"),
    f"{_PLACE}/CC_centred": ("CC centred, held out", "cosine"),
    f"{_PLACE}/CC-II": ("CC − II, held out", "cosine"),
    f"{_PLACE}/effective_rank": ("Effective rank, held out", ""),
    "entropy": ("Entropy of the policy", "nats"),
}


def training_curves(arms: Arms) -> Finding:
    """Return curves of both arms: means over seeds with their t intervals."""
    metrics = arm_metrics(arms, list(_PANELS))
    panels = [arm_panel(title, metric, unit) for metric, (title, unit) in _PANELS.items()]
    frame = curve_frame(metrics, panels)
    seeds = len(arms.seeds)
    picture = draw_curves(
        frame,
        panels,
        theme.Provenance("DAPO runs", "DAPO runs"),
        f"means over {seeds} training seeds ({', '.join(map(str, arms.seeds))})",
        "bands: 95 % t intervals over seeds",
        "geometry at before_marker, final norm",
        name="training_curves",
    )
    last = metrics.dropna(subset=[f"eval/pass@1:{DAPO}", f"eval/pass@1:{ALIGNED}"]).iloc[-1]
    last_values = []
    for metric in ("eval/pass@1", f"{_PLACE}/CC", f"{_PLACE}/floor", f"{_PLACE}/CC_centred"):
        if f"{metric}:{ALIGNED}" in last:
            values = [
                interval(*(last[f"{metric}:{arm}{end}"] for end in ("", "_low", "_high")))
                for arm in (DAPO, ALIGNED)
            ]
            last_values.append(
                f"{_PANELS[metric][0]}: {values[0]} without, {values[1]} with alignment"
            )
    return Finding(
        [
            f"After step {int(last['step'])}, means over {seeds} seeds (t intervals over seeds). "
            f"{'; '.join(last_values)}.",
            "If the floor rises with CC and the centred CC does not, all problems move together. The "
            "paired tests are in `settle` and `before_after`.",
        ],
        [picture],
    )


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


ANALYSIS = Analysis(
    question="How do accuracy and geometry develop in training, with and without alignment?",
    needs=("arms",),
    answer=training_curves,
    paper=["DAPO, with and without Hidden-Align; its curves are not public."],
    assumed=["model, task, steps and rates are those of `configs/quickstart.yaml`, ours."],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
