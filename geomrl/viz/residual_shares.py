"""Residual shares against accuracy on variants, and what removing the residual does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from geomrl.viz import theme
from geomrl.viz.picture import Picture
from geomrl.viz.series import Panels, Series, draw_series
from geomrl.viz.tables import anchor_label

ANCHORS = (theme.CELL_LOOKS["CC"], theme.CELL_LOOKS["II"], theme.CELL_LOOKS["CC_cross_same_answer"])
"""Looks of anchors, in the order of the table."""
CONTRAST = "correct_mean - random_residual"
ARMS = {
    "correct_mean": Series(theme.Look("#0072B2", "o", "residual removed")),
    "random_residual": Series(theme.Look("#E69F00", "D", "random residual of its norm")),
    CONTRAST: Series(theme.Look(theme.INK, "s", "removed − random"), dashed=True),
}
"""Looks of the arms of `probe.intervention` and of their difference."""


@theme.style()
def draw_shares(problems: pd.DataFrame, kind: str, footnote: str, name: str) -> Picture:
    """Draw each problem's residual share against the accuracy on its variants, a panel an anchor.

    The colour is the accuracy on the problem itself, from independent rollouts: an association
    counts only among points of one colour.

    Args:
        problems: `ShareCorrelations.problems`.
        kind: the kind of variants.
        footnote: all of it.
        name: the files' stem.
    """
    frame = problems[problems["kind"] == kind]
    anchors = list(dict.fromkeys(frame["anchor"]))
    figure = theme.new_figure(theme.DOUBLE_COLUMN, 2.5, footnote)
    grid = figure.subplots(1, len(anchors), squeeze=False)[0]
    for index, (axes, anchor) in enumerate(zip(grid, anchors, strict=True)):
        rows = frame[frame["anchor"] == anchor]
        points = axes.scatter(
            rows["share"],
            rows["variant_accuracy"],
            c=rows["accuracy"],
            s=9,
            vmin=0,
            vmax=1,
            cmap=theme.SEQUENTIAL,
            edgecolors=theme.GREY,
            linewidths=0.3,
        )
        axes.set_xlabel("Residual share of the problem")
        axes.set_ylim(-0.04, 1.04)
        if index == 0:
            axes.set_ylabel("Accuracy on its variants")
        theme.panel_title(axes, index, anchor_label(anchor), letters=len(anchors) > 1)
    bar = figure.colorbar(points, ax=list(grid), pad=0.02, aspect=25)
    bar.set_label("Accuracy on the problem")
    bar.outline.set_visible(False)
    return Picture(name, figure, frame)


@theme.style()
def draw_correlations(correlations: pd.DataFrame, footnote: str, name: str) -> Picture:
    """Draw the partial correlations with their intervals, by kind of variant and anchor.

    The dotted lines are the smallest correlations that the smallest set of problems would show.

    Args:
        correlations: `ShareCorrelations.correlations`.
        footnote: all of it.
        name: the files' stem.
    """
    kinds = list(dict.fromkeys(correlations["kind"]))
    anchors = list(dict.fromkeys(correlations["anchor"]))
    figure = theme.new_figure(theme.SINGLE_COLUMN + 0.6, 0.95 + 0.3 * len(kinds), footnote)
    axes = figure.subplots()
    axes.axvline(0, color=theme.INK, linewidth=0.6)
    reach = float(correlations["detectable"].max())
    for edge in (-reach, reach):
        axes.axvline(edge, color=theme.GREY, linewidth=0.6, linestyle=":")
    handles = []
    for number, anchor in enumerate(anchors):
        look = ANCHORS[number % len(ANCHORS)]
        rows = correlations[correlations["anchor"] == anchor].set_index("kind").reindex(kinds)
        y = np.arange(len(kinds)) + 0.18 * (number - (len(anchors) - 1) / 2)
        axes.hlines(y, rows["low"], rows["high"], color=look.colour, linewidth=1.0)
        axes.plot(rows["value"], y, look.marker, color=look.colour)
        handles.append(
            Line2D([], [], color=look.colour, marker=look.marker, label=anchor_label(anchor))
        )
    axes.set_yticks(range(len(kinds)), [theme.plain(kind) for kind in kinds])
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set_xlabel("Partial rank correlation, difficulty held fixed")
    axes.xaxis.set_major_locator(theme.few_ticks(5))
    theme.top_legend(figure, handles, figure.get_figwidth())
    return Picture(name, figure, correlations)


def draw_removal(table: pd.DataFrame, footnote: str, name: str) -> Picture:
    """Draw what the arms did to the correct answer's log-probability, by layer, a panel an anchor.

    Args:
        table: anchor, layer, arm (of `ARMS`), value, low, high.
        footnote: all of it.
        name: the files' stem.
    """
    anchors: Sequence[str] = list(dict.fromkeys(table["anchor"]))
    frame = table.rename(columns={"anchor": "panel", "arm": "series"})
    panels = Panels(
        titles={a: anchor_label(a) for a in anchors},
        units=dict.fromkeys(anchors, "Change in nats"),
        series=ARMS,
        levels=dict.fromkeys(anchors, 0.0),
    )
    picture = draw_series(frame, panels, footnote, name)
    edges = [edge for axes in picture.figure.axes for edge in axes.get_ylim()]
    for axes in picture.figure.axes:  # one scale: whether an anchor matters is the question
        axes.set_ylim(min(edges), max(edges))
        axes.yaxis.set_major_formatter("{x:g}")
    return picture
