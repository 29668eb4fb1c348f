"""The axis that a profile runs along: the layers, or the anchors in the order of reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from geomrl.viz import theme
from geomrl.viz.tables import Axis, anchor_label, ordered

_MANY = 14  # places beyond which a marker a value is clutter
_FEW_ANCHORS = 5  # up to so many, their panels stand side by side as those of layers do
_WIDEST_STEP = 0.2
_TICKS = 12  # at most so many layers are named below an axis
_LEGEND_INCH = 0.45
_TITLE_INCH = 0.25


@dataclass(frozen=True)
class Track:
    """Places along an axis, in order. `by` is "layer" or "anchor".

    The final norm's output is no further layer: it stands apart, by a gap and off the line.
    """

    by: Axis
    places: tuple[str, ...]

    @classmethod
    def of(cls, frame: pd.DataFrame, by: Axis) -> Track:
        """Return the track of the places that a frame's column `by` names."""
        return cls(by, tuple(ordered(frame[by].tolist(), by)))

    @property
    def many(self) -> bool:
        """Whether values are too dense for a marker each."""
        return len(self.places) > _MANY

    @property
    def widths(self) -> Float[np.ndarray, " places"]:
        """Each place's width; the final norm's has room for a point a series among many layers."""
        wide = max(1.0, len(self.places) / 9)
        return np.array([wide if self._apart(place) else 1.0 for place in self.places])

    @property
    def positions(self) -> Float[np.ndarray, " places"]:
        """Each place's centre; a gap precedes the final norm's."""
        gaps = [0.25 if self._apart(place) else 0.0 for place in self.places]
        return np.cumsum(self.widths) - self.widths / 2 - 0.5 + gaps

    def x(
        self, names: pd.Series, series: int, of: int, *, spread: float = 0.6
    ) -> Float[np.ndarray, " rows"]:
        """Return the coordinates of places by name, for one series of several.

        The series stand side by side, over `spread` of a place's width, so that none hides
        another; where places are many only the final norm has room for that.
        """
        step = min(_WIDEST_STEP, spread / of) * (series - (of - 1) / 2)
        room = self.widths * step
        if self.many:
            room = np.where([self._apart(place) for place in self.places], room, 0.0)
        return names.map(dict(zip(self.places, self.positions + room, strict=True))).to_numpy(float)

    def _apart(self, place: str) -> bool:
        return self.by == "layer" and place == "final" and len(self.places) > 1

    def grid(
        self, n_panels: int, heights: Sequence[float], footnote: str
    ) -> tuple[Figure, list[list[Axes]]]:
        """Return a figure and each panel's axes, one over the other with `heights` in inches.

        Panels stand side by side, but those of many anchors are stacked, to share one row of
        their long names.
        """
        stacked = self.by == "anchor" and len(self.places) > _FEW_ANCHORS
        names = 0.85 if self.by == "anchor" else 0.35
        wide = stacked or n_panels > 1
        rows, columns = (n_panels, 1) if stacked else (1, n_panels)
        figure = theme.new_figure(
            theme.DOUBLE_COLUMN if wide else theme.SINGLE_COLUMN + 0.3,
            _LEGEND_INCH + rows * (_TITLE_INCH + sum(heights)) + names,
            footnote,
        )
        axes = figure.subplots(
            rows * len(heights), columns, squeeze=False, height_ratios=list(heights) * rows
        )
        step = len(heights)
        panels = [
            list(axes[i * step : (i + 1) * step, 0] if stacked else axes[:, i])
            for i in range(n_panels)
        ]
        for index, panel in enumerate(panels):
            for part in panel:
                lowest = part is panel[-1] and (not stacked or index == n_panels - 1)
                self._name_places(part, named=lowest)
        return figure, panels

    def _name_places(self, axes: Axes, *, named: bool) -> None:
        """Put the places below an axis, thinning layers where they are many."""
        x = self.positions
        axes.set_xlim(x[0] - 0.6, x[-1] + self.widths[-1] / 2 + 0.1)
        if self.by == "anchor":
            axes.set_xticks(x, [anchor_label(p) for p in self.places])
            for label in axes.get_xticklabels():
                label.set(rotation=40, ha="right", rotation_mode="anchor")
        else:
            shown = layer_ticks(self.places)
            axes.set_xticks(x[shown], [self.places[i] for i in shown])
            axes.set_xticks(x, minor=True)
            axes.set_xlabel("Layer" if named else "")
        axes.tick_params(axis="x", labelbottom=named)


def layer_ticks(places: Sequence[str]) -> list[int]:
    """Return the indices of the layers to name: evenly spaced, and always "final".

    >>> layer_ticks(["0", "1", "2", "final"])
    [0, 1, 2, 3]
    >>> layer_ticks([*map(str, range(41)), "final"])
    [0, 5, 10, 15, 20, 25, 30, 35, 41]
    """
    numbered = [i for i, place in enumerate(places) if place != "final"]
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if len(numbered) / s <= _TICKS)
    shown = numbered[::step]
    if "final" in places:
        last = len(places) - 1
        while len(places) > _TICKS and shown and last - shown[-1] < len(places) / 15:
            shown.pop()  # its name would run into the word "final"
        shown.append(last)
    return shown


def draw_line(
    axes: Axes, track: Track, rows: pd.DataFrame, cell: str, series: int, of: int
) -> None:
    """Draw one cell: a line with its interval's band, and "final" as a point of its own.

    Args:
        axes: where.
        track: the horizontal axis.
        rows: the track's column, value, low, high.
        cell: whose look the line has.
        series: its number among the cells drawn, for points beside each other.
        of: the number of cells drawn.
    """
    look = theme.cell_look(cell)
    x = track.x(rows[track.by], series, of, spread=0.25)
    value, low, high = (rows[c].to_numpy(float) for c in ("value", "low", "high"))
    apart = ((rows[track.by] == "final") & (track.by == "layer")).to_numpy()
    if (~apart).sum() == 1:
        apart = np.ones_like(apart)  # a line of one point has no band to show its interval
    line = ~apart
    axes.fill_between(x[line], low[line], high[line], color=look.colour, alpha=0.18, linewidth=0)
    axes.plot(x[line], value[line], color=look.colour, marker=None if track.many else look.marker)
    spot = track.x(rows[track.by], series, of)[apart]
    axes.vlines(spot, low[apart], high[apart], color=look.colour, linewidth=0.9)
    axes.plot(spot, value[apart], look.marker, color=look.colour)
