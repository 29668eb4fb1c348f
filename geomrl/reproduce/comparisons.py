"""How the two arms of a comparison are drawn by layer."""

from __future__ import annotations

import pandas as pd

from geomrl.compare.arm_changes import cells_by_layer
from geomrl.reproduce.curves import LOOKS
from geomrl.reproduce.runs import BASE
from geomrl.viz import theme
from geomrl.viz.series import Panels, Series
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


def series_frame(table: pd.DataFrame, anchor: str) -> pd.DataFrame:
    """Return `cells_by_layer` in the order of drawing."""
    frame = cells_by_layer(table, anchor)
    frame = frame.assign(order=frame["layer"].map(layer_order))
    frame = frame.sort_values(["panel", "series", "order"], kind="stable")
    return frame.drop(columns="order").reset_index(drop=True)
