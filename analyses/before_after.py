"""Geometry before and after RL, with and without alignment: the comparison over training seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from geomrl import open_comparison
from geomrl.compare.arm_changes import (
    arm_changes,
    cells_by_layer,
    changes,
    difference_name,
    verdicts_by_arm,
)
from geomrl.compare.arms import need_arms, with_arms
from geomrl.reproduce import Analysis, Finding
from geomrl.reproduce.arms import ALIGNED, BASE, DAPO, LOOKS
from geomrl.reproduce.finding import interval, number
from geomrl.viz import theme
from geomrl.viz.series import Panels, Series, draw_series
from geomrl.viz.tables import layer_order

PANELS = Panels(
    titles={
        "CC": "CC, raw",
        "floor": "Floor, raw",
        "CC centred": "CC, centred",
        "CC-II centred": "CC − II, centred",
    },
    units={"CC": "cosine", "floor": "", "CC centred": "", "CC-II centred": ""},
    series={
        BASE: Series(theme.Look(theme.GREY, "X", "before RL"), dashed=True),
        **{arm: Series(look) for arm, look in LOOKS.items()},
    },
    levels={"CC centred": 0.0, "CC-II centred": 0.0},
)


def before_after(comparison: Path) -> Finding:
    """Return what changed in either arm, the difference between them, and the verdicts."""
    found = open_comparison(comparison)
    need_arms(with_arms(found.table, "checkpoint"), (DAPO, ALIGNED), comparison)
    table = arm_changes(changes(found.table), (DAPO, ALIGNED))
    place = found.record["place"]
    here = table[
        (table["layer"].isin([place["layer"], ""])) & table["anchor"].isin([place["anchor"], ""])
    ]
    between = here[here["arm"] == difference_name(ALIGNED, DAPO)].set_index("measure")
    sure = between[between["p_holm"] < 0.05]
    named = [
        f"{measure} {interval(row['value'], row['low'], row['high'])}"
        for measure, row in sure.iterrows()
    ]
    gain: dict[Any, Any] = between.loc["pass@1"].to_dict()
    verdicts = verdicts_by_arm(found.record["checkpoints"])
    counts = [
        f"{row['arm']}: {row['verdict']} ({row['components']}) {row['checkpoints']} times"
        for row in verdicts.to_dict("records")
    ]
    seeds = int(gain["n_seeds"])
    frames = [
        (anchor, _series(found.table, anchor))
        for anchor in dict.fromkeys((place["anchor"], "marker_end"))
    ]
    pictures = [
        draw_series(frame, PANELS, _footnote(found.record, anchor, seeds), f"before_after_{anchor}")
        for anchor, frame in frames
        if len(frame)
    ]
    return Finding(
        [
            f"Against DAPO alone, over {seeds} seeds, alignment changed at "
            f"{place['anchor']}, {place['layer']} (Holm over {len(between)} measures): "
            f"{'; '.join(named) or 'nothing that could be told apart'}. pass@1: "
            f"{interval(gain['value'], gain['low'], gain['high'])}, detectable "
            f"{number(gain['detectable'])}.",
            f"Verdicts of `geomrl compare`: {'; '.join(counts)}.",
            "Encoders are compared on identical rollouts of both policies, on held-out problems; the "
            "pictures show each model on its own rollouts. Where a loss acts, its mark is no evidence "
            "of more: look at the other layers and anchors in `changes.csv`.",
        ],
        pictures,
        {"at_the_place": here, "verdicts": verdicts, "changes": table},
        shown=("verdicts", "at_the_place"),
    )


def _series(table: pd.DataFrame, anchor: str) -> pd.DataFrame:
    """Return `cells_by_layer` in the order of drawing."""
    frame = cells_by_layer(table, anchor)
    frame = frame.assign(order=frame["layer"].map(layer_order))
    frame = frame.sort_values(["panel", "series", "order"], kind="stable")
    return frame.drop(columns="order").reset_index(drop=True)


def _footnote(record: dict[str, Any], anchor: str, seeds: int) -> str:
    return (
        f"anchor {anchor}; {record['n_problems']} held-out problems × {record['n_samples']} samples; "
        f"means over {seeds} training seeds with 95\u00a0% t\u00a0intervals; before RL: one model, "
        f"95\u00a0% intervals by problem; seed {record['seed']}"
    )


ANALYSIS = Analysis(
    question="What does RL change in the representation, and what does alignment add?",
    needs=("comparison",),
    answer=before_after,
    paper=["base, DAPO and DAPO with Hidden-Align; the loss at the last layer, before the marker."],
    assumed=["all measures and margins (docs/compare.md); weight .01, `configs/quickstart.yaml`."],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
