"""How far correct rollouts moved together, against how far all states did."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from geomrl.viz import theme
from geomrl.viz.picture import Picture

_PANELS = {
    "CC": "Change of CC",
    "CC_centred": "Change of CC, centred",
    "effective_rank": "Change of effective rank",
}
_ACROSS = "floor"
_HEIGHT = 1.9  # inches of a panel
_LEGEND_INCH = 0.6
_MARKERS = "osD^vP<>X*hp"
CONTROLS = "negative controls"
"""The series of all negative controls."""
COLUMNS = ["series", "arm", "measure", "difference", "low", "high"]


@theme.style()
def draw_movement(frame: pd.DataFrame, footnote: str, name: str) -> Picture:
    """Draw each arm's change of CC, centred CC and effective rank over its change of the floor.

    On the dashed diagonal correct rollouts moved as all states did.

    Args:
        frame: `COLUMNS`, with a row of "floor" and of the measures shown for each arm; `series` is
            the arm's words, and "negative controls" for all of those.
        footnote: all of it.
        name: the files' stem.
    """
    panels = [measure for measure in _PANELS if (frame["measure"] == measure).any()]
    series = [s for s in dict.fromkeys(frame["series"]) if s != CONTROLS]
    looks = {
        s: theme.Look(theme.PROBLEM_COLOURS[i % 12], _MARKERS[(i + i // 12) % 12], s)
        for i, s in enumerate(series)
    }
    looks[CONTROLS] = theme.Look(theme.GREY, "x", CONTROLS)
    figure = theme.new_figure(theme.DOUBLE_COLUMN, _HEIGHT + _LEGEND_INCH + 0.5, footnote)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    across = frame[frame["measure"] == _ACROSS].set_index("arm")
    for index, (measure, ax) in enumerate(zip(panels, axes, strict=True)):
        ax.axhline(0, color=theme.PALE, linewidth=0.6, zorder=0)
        ax.axvline(0, color=theme.PALE, linewidth=0.6, zorder=0)
        for row in frame[frame["measure"] == measure].to_dict("records"):
            _draw(ax, across.loc[row["arm"]], row, looks[row["series"]])
        if measure == "CC":
            _diagonal(ax)
        ax.set_xlabel("Change of the floor")
        ax.set_ylabel(_PANELS[measure])
        ax.xaxis.set_major_locator(theme.few_ticks())
        ax.yaxis.set_major_locator(theme.few_ticks())
        theme.panel_title(ax, index, "", letters=len(panels) > 1)
    shown = [looks[s] for s in dict.fromkeys(frame["series"])]
    handles = [
        Line2D([], [], color=k.colour, marker=k.marker, linestyle="none", label=k.label)
        for k in shown
    ]
    theme.top_legend(figure, handles, figure.get_figwidth())
    return Picture(name, figure, frame[COLUMNS])


def _draw(axes: Axes, across: pd.Series, row: dict, look: theme.Look) -> None:
    x, y = across["difference"], row["difference"]
    behind = 1.0 if look.label == CONTROLS else 2.0
    thin: dict[str, Any] = {"color": look.colour, "linewidth": 0.6, "alpha": 0.6, "zorder": behind}
    axes.hlines(y, across["low"], across["high"], **thin)
    axes.vlines(x, row["low"], row["high"], **thin)
    axes.plot(x, y, look.marker, color=look.colour, zorder=behind + 0.5)


def _diagonal(axes: Axes) -> None:
    ends = np.array([*axes.get_xlim(), *axes.get_ylim()])
    low, high = float(ends.min()), float(ends.max())
    axes.axline((low, low), (high, high), color=theme.GREY, linewidth=0.6, linestyle=(0, (4, 3)))
