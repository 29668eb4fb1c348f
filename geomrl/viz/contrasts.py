"""Matched contrasts between cells along one axis, over the permutation tests' p values."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from geomrl.viz import theme
from geomrl.viz.picture import Picture, Skipped
from geomrl.viz.scene import Scene
from geomrl.viz.tables import Axis, excludes_zero, interval_note, profile, sample_note
from geomrl.viz.track import Track, draw_line

CONTRASTS = ("CC-II", "CC-II_same_answer", "CC-CI")
TESTS = {
    "permutation_correctness": theme.Look(theme.INK, "o", "p, verdicts permuted"),
    "permutation_answer_class": theme.Look("#009E73", "D", "p, answer classes permuted"),
}
"""What each permutation test shuffles within problems (see `geomrl.geometry.label_tests`)."""

_LEVEL = 0.05
_HEIGHTS = (1.3, 0.55)  # inches of the contrasts and of the p values below


def make_by_layer(scene: Scene) -> Picture | Skipped:
    """Draw the contrasts by layer at the scene's anchor."""
    return _make(scene, "layer", "contrasts_by_layer")


def make_by_position(scene: Scene) -> Picture | Skipped:
    """Draw the contrasts by anchor at the scene's layer."""
    return _make(scene, "anchor", "contrasts_by_position")


def _make(scene: Scene, by: Axis, name: str) -> Picture | Skipped:
    at, place = scene.held(by)
    frame = contrast_profile(scene.table, by=by, at=at)
    if not (frame["measure"] == "cosine").any():
        return Skipped(name, f"no problem at {place} has two correct and two wrong rollouts")
    return draw_contrasts(frame, scene.source, by=by, place=place, methods=scene.methods, name=name)


def contrast_profile(table: pd.DataFrame, *, by: Axis, at: str) -> pd.DataFrame:
    """Return the contrasts and the permutation tests along one axis, the other held at `at`.

    Columns: measure ("cosine" or one of `TESTS`), then those of `tables.profile`.

    Args:
        table: a similarity table of one policy, encoder, step and benchmark.
        by: the axis along which to look.
        at: the anchor (`by="layer"`) or the layer (`by="anchor"`) that is held.
    """
    parts = [profile(table, by=by, at=at, cells=CONTRASTS)]
    for test in TESTS:
        cells = table.loc[table["measure"] == test, "cell"].astype(str).unique().tolist()
        parts.append(profile(table, by=by, at=at, cells=cells, measure=test))
    for part, measure in zip(parts, ("cosine", *TESTS), strict=True):
        part.insert(0, "measure", measure)
    kept = [part for part in parts if len(part)]
    return pd.concat(kept, ignore_index=True) if kept else parts[0]


@theme.style()
def draw_contrasts(
    frame: pd.DataFrame, source: theme.Provenance, *, by: Axis, place: str, methods: str, name: str
) -> Picture:
    """Draw `contrast_profile`'s rows: contrasts with intervals above, p values below.

    A filled marker's interval excludes zero, an open one's does not. Contrasts pair the cells of
    each problem, so they are not the differences of the cells' own means.

    Args:
        frame: at least one row of measure "cosine".
        source: for the footnote.
        by: "layer" or "anchor", the horizontal axis.
        place: what is held: an anchor or a layer, in words.
        methods: how the intervals were made, for the footnote.
        name: the files' stem.
    """
    cosine = frame[frame["measure"] == "cosine"]
    tests = frame[(frame["measure"] != "cosine") & frame["p"].notna()]
    spaces = list(dict.fromkeys(cosine["space"]))
    cells = list(dict.fromkeys(cosine["cell"]))
    track = Track.of(frame, by)
    notes = [place, sample_note(cosine), interval_note(cosine, methods)]
    if not track.many:
        notes.append("filled: interval excludes zero (pointwise)")
    if len(tests):
        notes.append("p two-sided, adjusted over layers; dashed, 0.05")
    heights = _HEIGHTS if len(tests) else _HEIGHTS[:1]
    figure, panels = track.grid(len(spaces), heights, source.footnote(*notes))
    draw = draw_line if track.many else _draw_points
    for index, (space, (above, *below)) in enumerate(zip(spaces, panels, strict=True)):
        above.axhline(0, color=theme.INK, linewidth=0.6)
        for number, cell in enumerate(cells):
            rows = cosine[(cosine["space"] == space) & (cosine["cell"] == cell)]
            draw(above, track, rows, cell=cell, series=number, of=len(cells))
        above.set_ylabel("Difference")
        above.margins(y=0.1)
        words = f"{theme.SPACES[space]} cosine"
        theme.panel_title(above, index, words, letters=len(spaces) > 1)
        for axes in below:
            _draw_p_values(axes, track, tests[tests["space"] == space], tests["p"].min())
    handles = [*theme.cell_handles(cells), *_test_handles(tests)]
    theme.top_legend(figure, handles, figure.get_figwidth())
    return Picture(name, figure, frame)


def _draw_points(
    axes: Axes, track: Track, rows: pd.DataFrame, cell: str, series: int, of: int
) -> None:
    look = theme.cell_look(cell)
    x = track.x(rows[track.by], series, of)
    value, filled = rows["value"].to_numpy(float), excludes_zero(rows).to_numpy()
    axes.vlines(x, rows["low"], rows["high"], color=look.colour, linewidth=1.0)
    for mask, face in ((filled, look.colour), (~filled, "white")):
        axes.plot(
            x[mask],
            value[mask],
            linestyle="none",
            marker=look.marker,
            color=look.colour,
            markerfacecolor=face,
            markeredgewidth=0.8,
            zorder=3,
        )


def _draw_p_values(axes: Axes, track: Track, tests: pd.DataFrame, smallest: float) -> None:
    """Draw one space's p values; the scale goes down to the smallest of all spaces."""
    axes.axhline(_LEVEL, color=theme.GREY, linewidth=0.6, linestyle=(0, (4, 3)))
    for number, (test, look) in enumerate(TESTS.items()):
        rows = tests[tests["measure"] == test]
        x = track.x(rows[track.by], number, len(TESTS))
        size = 2.2 if track.many else 3.5
        axes.plot(x, rows["p"], look.marker, color=look.colour, markersize=size)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_ylim(min(smallest, _LEVEL) / 2.5, 2.5)
    axes.set_ylabel("p", style="italic")


def _test_handles(tests: pd.DataFrame) -> list[Line2D]:
    shown = [look for test, look in TESTS.items() if (tests["measure"] == test).any()]
    return [
        Line2D(
            [], [], color=look.colour, marker=look.marker, linestyle="none",
            label=look.label,
        )
        for look in shown
    ]  # fmt: skip
