"""How much and in how many directions states spread, by layer: the controls beside the cosines.

A cosine near one may mean that correct rollouts agree, or that all states have collapsed onto a
few directions; these measures tell the two apart.
"""

from __future__ import annotations

import pandas as pd

from geomrl.viz import theme
from geomrl.viz.picture import Picture, Skipped
from geomrl.viz.scene import Scene
from geomrl.viz.tables import anchor_label, profile
from geomrl.viz.track import Track, draw_line

MEASURES = {
    "residual_share": "Share of variance within problems",
    "effective_rank": "Effective rank",
    "participation_ratio": "Participation ratio",
}
_NAME = "spectra_by_layer"
_HEIGHT = 1.4  # inches of a panel


def make(scene: Scene) -> Picture | Skipped:
    """Draw the spread of states by layer at the scene's anchor."""
    place = anchor_label(scene.anchor)
    frame = spectrum_profile(scene.table, at=scene.anchor)
    if frame.empty:
        return Skipped(_NAME, f"the similarity table has no spectrum at {place}")
    return draw_spectra(frame, scene.source, place=place, name=_NAME)


def spectrum_profile(table: pd.DataFrame, *, at: str) -> pd.DataFrame:
    """Return `MEASURES` of correct, wrong and all rollouts by layer.

    Columns: measure, then those of `tables.profile`. Measures that the table lacks are left out.

    Args:
        table: a similarity table of one policy, encoder, step and benchmark.
        at: the anchor.
    """
    cells = list(theme.ROLLOUTS)
    parts = [profile(table, by="layer", at=at, cells=cells, measure=m) for m in MEASURES]
    for part, measure in zip(parts, MEASURES, strict=True):
        part.insert(0, "measure", measure)
    kept = [part for part in parts if len(part)]
    return pd.concat(kept, ignore_index=True) if kept else parts[0]


@theme.style()
def draw_spectra(
    frame: pd.DataFrame, source: theme.Provenance, *, place: str, name: str
) -> Picture:
    """Draw `spectrum_profile`'s rows: a panel a measure, a line for correct, wrong, all rollouts.

    Args:
        frame: at least one row.
        source: for the footnote.
        place: the anchor, in words.
        name: the files' stem.
    """
    measures = list(dict.fromkeys(frame["measure"]))
    cells = [cell for cell in theme.ROLLOUTS if (frame["cell"] == cell).any()]
    track = Track.of(frame, "layer")
    problems = theme.span(frame["n_problems"], "problem")
    notes = [place, f"n = {problems}", "95 % jackknife-t intervals by problem"]
    if set(measures) - {"residual_share"}:
        notes.append("ranks of correct and of wrong rollouts at equal numbers of states")
    figure, panels = track.grid(len(measures), (_HEIGHT,), source.footnote(*notes))
    for index, (measure, (axes,)) in enumerate(zip(measures, panels, strict=True)):
        for number, cell in reversed(list(enumerate(cells))):
            rows = frame[(frame["measure"] == measure) & (frame["cell"] == cell)]
            draw_line(axes, track, rows=rows, cell=cell, series=number, of=len(cells))
        axes.margins(y=0.06)
        theme.panel_title(axes, index, MEASURES[measure], letters=len(measures) > 1)
    theme.top_legend(figure, theme.cell_handles(cells), figure.get_figwidth())
    return Picture(name, figure, frame)
