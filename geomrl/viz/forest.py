"""Differences with intervals, one under the other: the forest plot of a table of comparisons."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from geomrl.viz import theme
from geomrl.viz.picture import Picture

_ROW_INCH = 0.24
_COLUMNS = [
    *("row", "value", "low", "high", "seeds_low", "seeds_high", "p", "detectable"),
    *("n_problems", "n_seeds"),
]


@theme.style()
def draw_forest(changes: pd.DataFrame, *, by: str, name: str, title: str) -> Picture:
    """Draw differences of two arms: thick over training seeds, thin over problems, grey detectable.

    Args:
        changes: rows of `evaluate.arms.arm_differences`; several benchmarks are named in the rows.
        by: the column that names a row.
        name: the files' stem.
        title: what is subtracted from what.
    """
    several = changes["benchmark"].nunique() > 1
    label = changes[by].astype(str)
    frame = changes.assign(row=label + ", " + changes["benchmark"] if several else label)
    frame = frame[_COLUMNS].reset_index(drop=True)
    footnote = "; ".join(
        [
            f"n = {theme.span(frame['n_problems'], 'problem')}",
            theme.span(frame["n_seeds"], "training seed"),
            "thick: 95 % t interval over seeds",
            "thin: 95 % over problems",
            "grey: detectable over seeds at 80 % power",
        ]
    )
    height = 0.75 + _ROW_INCH * len(frame)
    figure = theme.new_figure(theme.SINGLE_COLUMN, height, footnote)
    axes = figure.subplots()
    axes.axvline(0.0, color=theme.GREY, linewidth=0.6)
    colour = theme.CELLS["CC"].colour
    for y, row in enumerate(frame.to_dict("records")):
        axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=0.7)
        axes.plot([row["seeds_low"], row["seeds_high"]], [y, y], color=colour, linewidth=2.2)
        if np.isfinite(row["detectable"]):
            reach = row["detectable"]
            axes.plot([-reach, reach], [y, y], "|", color=theme.GREY, markersize=7, zorder=1)
        sure = row["p"] < 0.05
        axes.plot(
            [row["value"]], [y], "o", color=colour, markerfacecolor=colour if sure else "white"
        )
    axes.set_yticks(range(len(frame)), [theme.plain(text) for text in frame["row"]])
    axes.set_ylim(len(frame) - 0.5, -0.5)
    axes.xaxis.set_major_locator(theme.few_ticks())
    axes.set_xlabel(title)
    marks = [(colour, "p < .05"), ("white", "p ≥ .05")]
    handles = [
        Line2D([], [], color=colour, marker="o", linestyle="", markerfacecolor=fill, label=text)
        for fill, text in marks
    ]
    theme.top_legend(figure, handles, theme.SINGLE_COLUMN)
    return Picture(name, figure, frame)
