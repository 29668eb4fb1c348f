"""Named series by layer, in panels: the shape that all pictures of a comparison share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from geomrl.viz import theme
from geomrl.viz.picture import Picture
from geomrl.viz.track import Track

_HEIGHT = 1.5  # inches of a panel


@dataclass(frozen=True)
class Series:
    """How one series looks: before RL is dashed, after it solid."""

    look: theme.Look
    dashed: bool = False


@dataclass(frozen=True)
class Panels:
    """Titles and vertical axes by panel, the series' looks, and a level to be drawn as a line."""

    titles: Mapping[str, str]
    units: Mapping[str, str]
    series: Mapping[str, Series]
    levels: Mapping[str, float]


@theme.style()
def draw_series(frame: pd.DataFrame, panels: Panels, footnote: str, name: str) -> Picture:
    """Draw series by layer, a panel each kind of number, bands for the intervals.

    Args:
        frame: panel, series, layer, value, low, high; at least one row.
        panels: titles, units and looks; panels without a row are left out.
        footnote: all of it.
        name: the files' stem.
    """
    shown = [panel for panel in panels.titles if (frame["panel"] == panel).any()]
    present = [s for s in panels.series if (frame["series"] == s).any()]
    track = Track.of(frame, "layer")
    figure, grid = track.grid(len(shown), (_HEIGHT,), footnote)
    for index, (panel, (axes,)) in enumerate(zip(shown, grid, strict=True)):
        if panel in panels.levels:
            axes.axhline(panels.levels[panel], color=theme.PALE, linewidth=0.8, zorder=0)
        for number, key in reversed(list(enumerate(present))):
            rows = frame[(frame["panel"] == panel) & (frame["series"] == key)]
            if len(rows):
                _draw(
                    axes,
                    track,
                    rows=rows,
                    series=panels.series[key],
                    number=number,
                    of=len(present),
                )
        axes.set_ylabel(panels.units[panel])
        axes.margins(y=0.08)
        axes.yaxis.set_major_locator(theme.few_ticks())
        theme.panel_title(axes, index, panels.titles[panel], letters=len(shown) > 1)
    theme.top_legend(figure, [_handle(panels.series[s]) for s in present], figure.get_figwidth())
    return Picture(name, figure, frame)


def _draw(
    axes: Axes, track: Track, rows: pd.DataFrame, series: Series, number: int, of: int
) -> None:
    look, style = series.look, "--" if series.dashed else "-"
    fill = "white" if series.dashed else look.colour
    value, low, high = (rows[c].to_numpy(float) for c in ("value", "low", "high"))
    final = (rows["layer"] == "final").to_numpy()
    line = ~final if (~final).sum() > 1 else np.zeros_like(final)
    x = track.x(rows["layer"], number, of, spread=0.25)
    axes.fill_between(x[line], low[line], high[line], color=look.colour, alpha=0.12, linewidth=0)
    axes.plot(
        x[line], value[line], style, color=look.colour, markerfacecolor=fill,
        marker=None if track.many else look.marker,
    )  # fmt: skip
    spot = track.x(rows["layer"], number, of)[~line]
    axes.vlines(spot, low[~line], high[~line], color=look.colour, linewidth=0.9)
    axes.plot(spot, value[~line], look.marker, color=look.colour, markerfacecolor=fill)


def _handle(series: Series) -> Line2D:
    look = series.look
    return Line2D(
        [], [], color=look.colour, marker=look.marker, label=look.label,
        linestyle="--" if series.dashed else "-",
        markerfacecolor="white" if series.dashed else look.colour,
    )  # fmt: skip
