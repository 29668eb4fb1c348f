"""Cosine along one axis of the run: by layer at one anchor, by position at one layer."""

from __future__ import annotations

import pandas as pd

from geomrl.viz import theme
from geomrl.viz.picture import Picture, Skipped
from geomrl.viz.scene import Scene
from geomrl.viz.tables import Axis, interval_note, profile, sample_note
from geomrl.viz.track import Track, draw_line

PROFILE_CELLS = ("CC", "II_same_answer", "II", "CI", "floor")

_HEIGHT = 1.4  # inches of a panel


def make_by_layer(scene: Scene) -> Picture | Skipped:
    """Draw the cosines by layer at the scene's anchor."""
    return _make(scene, "layer", "cosine_by_layer")


def make_by_position(scene: Scene) -> Picture | Skipped:
    """Draw the cosines by anchor at the scene's layer."""
    return _make(scene, "anchor", "cosine_by_position")


def _make(scene: Scene, by: Axis, name: str) -> Picture | Skipped:
    at, place = scene.held(by)
    frame = profile(scene.table, by=by, at=at, cells=PROFILE_CELLS)
    if frame.empty:
        return Skipped(name, f"the similarity table has no cosine at {place}")
    return draw_profile(frame, scene.source, by=by, place=place, methods=scene.methods, name=name)


@theme.style()
def draw_profile(
    frame: pd.DataFrame, source: theme.Provenance, *, by: Axis, place: str, methods: str, name: str
) -> Picture:
    """Draw `tables.profile`'s rows: a panel a space, a line a cell, bands for the intervals.

    Spaces have their own scales: raw and centred cosines are not comparable in level.

    Args:
        frame: rows of `tables.profile` with measure "cosine"; at least one.
        source: for the footnote.
        by: "layer" or "anchor", the horizontal axis.
        place: what is held: an anchor or a layer, in words.
        methods: how the intervals were made, for the footnote.
        name: the files' stem.
    """
    spaces = list(dict.fromkeys(frame["space"]))
    cells = list(dict.fromkeys(frame["cell"]))
    track = Track.of(frame, by)
    note = source.footnote(place, sample_note(frame), interval_note(frame, methods))
    figure, panels = track.grid(len(spaces), (_HEIGHT,), note)
    for index, (space, (axes,)) in enumerate(zip(spaces, panels, strict=True)):
        for number, cell in reversed(list(enumerate(cells))):  # the first cell on top
            rows = frame[(frame["space"] == space) & (frame["cell"] == cell)]
            draw_line(axes, track, rows=rows, cell=cell, series=number, of=len(cells))
        axes.set_ylabel("Cosine")
        axes.margins(y=0.06)
        theme.panel_title(axes, index, f"{theme.SPACES[space]} cosine", letters=len(spaces) > 1)
    theme.top_legend(figure, theme.cell_handles(cells), figure.get_figwidth())
    return Picture(name, figure, frame)
