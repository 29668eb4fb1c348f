"""Forest plots: named values with their intervals, one a line, in panels."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from geomrl.viz import theme
from geomrl.viz.picture import Picture

COLUMNS = ["panel", "group", "row", "value", "low", "high", "filled", "mark"]
_ROW_INCH = 0.17
_PANEL_INCH = 0.55  # its title, its axis and the axis' name
_LEGEND_INCH = 0.3
_GAP = 0.5  # between groups, in rows
_LOOKS = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "D"), (theme.GREY, "X"))


@theme.style()
def draw_forest(
    frame: pd.DataFrame,
    footnote: str,
    name: str,
    *,
    unit: str,
    beside: bool = False,
    marks: str = "",
) -> Picture:
    """Draw rows of values with intervals around a line at 0.

    Args:
        frame: `COLUMNS`: `group` has a colour each (four at most) and `filled` a filled marker;
            `mark` is a value to compare with, drawn as a stroke, NaN for none.
        footnote: all of it.
        name: the files' stem.
        unit: what the values are, below the axes.
        beside: panels stand side by side and share their rows; else they are stacked, and have
            their own.
        marks: the legend's words for `mark`; empty without one.
    """  # fmt: skip
    panels = list(dict.fromkeys(frame["panel"]))
    groups = list(dict.fromkeys(frame["group"]))
    looks = {g: theme.Look(*_LOOKS[i], g) for i, g in enumerate(groups)}
    parts = [frame[frame["panel"] == panel] for panel in panels]
    places = [_places(frame if beside else part) for part in parts]
    heights = [(-min(at.values()) + 1) * _ROW_INCH for at in places]
    figure, axes = _grid(heights, beside, footnote)
    for index, (panel, part, at, ax) in enumerate(zip(panels, parts, places, axes, strict=True)):
        ax.axvline(0, color=theme.INK, linewidth=0.6, zorder=0)
        for row in part.to_dict("records"):
            look, y = looks[row["group"]], at[row["group"], row["row"]]
            ax.hlines(y, row["low"], row["high"], color=look.colour, linewidth=1.0)
            face = look.colour if row["filled"] else "white"
            ax.plot(row["value"], y, look.marker, color=look.colour, markerfacecolor=face)
            if row["mark"] == row["mark"]:
                ax.plot(row["mark"], y, "|", color=theme.INK, markersize=7)
        ax.set_yticks(list(at.values()), [theme.plain(row) for _, row in at])
        ax.set_ylim(min(at.values()) - 0.6, 0.6)
        ax.tick_params(axis="y", length=0, labelleft=not beside or index == 0)
        ax.margins(x=0.06)
        ax.xaxis.set_major_locator(theme.few_ticks(3 if beside else 6))
        if index == (len(panels) // 2 if beside else len(panels) - 1):
            ax.set_xlabel(unit)
        theme.panel_title(ax, index, panel, letters=len(panels) > 1)
    handles = [
        Line2D([], [], color=k.colour, marker=k.marker, label=k.label) for k in looks.values()
    ]
    if marks:
        handles.append(
            Line2D([], [], color=theme.INK, marker="|", markersize=7, ls="none", label=marks)
        )
    if len(handles) > 1:
        theme.top_legend(figure, handles, figure.get_figwidth())
    return Picture(name, figure, frame[COLUMNS])


def _places(frame: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Return each (group, row)'s height, from 0 downwards, with a gap between groups."""
    rows = frame.drop_duplicates(["group", "row"])
    number = {group: i for i, group in enumerate(dict.fromkeys(rows["group"]))}
    ordered = sorted(zip(rows["group"], rows["row"], strict=True), key=lambda r: number[r[0]])
    return {row: -(i + _GAP * number[row[0]]) for i, row in enumerate(ordered)}


def _grid(heights: Sequence[float], beside: bool, footnote: str) -> tuple[Figure, list[Axes]]:
    tall = max(heights) + _PANEL_INCH if beside else sum(heights) + _PANEL_INCH * len(heights)
    figure = theme.new_figure(theme.DOUBLE_COLUMN, tall + _LEGEND_INCH, footnote)
    if beside:
        return figure, list(figure.subplots(1, len(heights), squeeze=False)[0])
    return figure, list(
        figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    )
