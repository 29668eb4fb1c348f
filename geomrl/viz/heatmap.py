"""Layer by position: where in the network and in the response a similarity or a contrast lies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from geomrl.viz import theme
from geomrl.viz.picture import Picture, Skipped
from geomrl.viz.scene import Scene
from geomrl.viz.tables import (
    PLOTTED,
    anchor_label,
    excludes_zero,
    interval_note,
    ordered,
    sample_note,
    weighted_by_problem,
)
from geomrl.viz.track import layer_ticks

HEAT_PANELS = (
    ("CC", "raw"),
    ("CC", "centred"),
    ("CC-II", "centred"),
    ("CC-II_same_answer", "centred"),
)
"""(cell or contrast, space): what the paper looks at, then what the controls leave of it."""

_NAME = "heatmap_layer_position"
_ROW_INCH = 0.16


def make(scene: Scene) -> Picture | Skipped:
    """Draw cosines and contrasts at every layer and anchor."""
    grid = heat_grid(scene.table)
    if grid.empty:
        return Skipped(_NAME, "the similarity table has no cosine of correct rollouts")
    return draw_heatmap(grid, scene.source, methods=scene.methods, name=_NAME)


def heat_grid(table: pd.DataFrame, panels: Sequence[tuple[str, str]] = HEAT_PANELS) -> pd.DataFrame:
    """Return the values at every layer and anchor, for each (cell, space) that the table has.

    Columns: cell, space, layer, anchor, `tables.PLOTTED`, excludes_zero. Rows follow `panels`,
    layers and anchors; missing values are left out.

    Args:
        table: a similarity table of one policy, encoder, step and benchmark.
        panels: cells or contrasts, and the space to show each in.
    """
    rows = weighted_by_problem(table, "cosine")
    layers = ordered(rows["layer"].tolist(), "layer")
    anchors = ordered(rows["anchor"].tolist(), "anchor")
    parts = []
    for cell, space in panels:
        part = rows[(rows["cell"] == cell) & (rows["space"] == space)]
        order = pd.DataFrame(
            {"l": part["layer"].map(layers.index), "a": part["anchor"].map(anchors.index)}
        )
        parts.append(part.loc[order.sort_values(["l", "a"], kind="stable").index])
    grid = pd.concat(parts)[["cell", "space", "layer", "anchor", *PLOTTED]]
    return grid.assign(excludes_zero=excludes_zero(grid)).reset_index(drop=True)


@theme.style()
def draw_heatmap(
    grid: pd.DataFrame, source: theme.Provenance, *, methods: str, name: str = _NAME
) -> Picture:
    """Draw `heat_grid`'s rows, a panel a (cell, space); contrasts diverge from white at zero.

    All contrasts share one scale. A dot marks a contrast whose 95 % interval excludes zero,
    cell by cell, with no correction for their number: the footnote says so.

    Args:
        grid: at least one row.
        source: for the footnote.
        methods: how the intervals were made, for the footnote.
        name: the files' stem.
    """
    panels = list(dict.fromkeys(zip(grid["cell"], grid["space"], strict=True)))
    layers = ordered(grid["layer"].tolist(), "layer")
    anchors = ordered(grid["anchor"].tolist(), "anchor")
    contrasts = grid[grid["cell"].str.contains("-")]
    notes = [sample_note(grid), interval_note(contrasts, methods)]
    if len(contrasts):
        notes.append("dot: interval excludes zero (pointwise, uncorrected)")
    if len(grid) < len(panels) * len(layers) * len(anchors):
        notes.append("grey: not measured")
    rows = -(-len(panels) // 2)
    columns = min(2, len(panels))
    figure = theme.new_figure(
        theme.DOUBLE_COLUMN if columns > 1 else theme.SINGLE_COLUMN + 0.9,
        rows * (0.62 + _ROW_INCH * max(4, len(anchors))),
        source.footnote(*notes),
    )
    limit = contrasts["value"].abs().max() if len(contrasts) else 1.0
    grid_axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for index, (cell, space) in enumerate(panels):
        part = grid[(grid["cell"] == cell) & (grid["space"] == space)]
        axes = grid_axes.flat[index]
        _draw_panel(
            figure,
            axes,
            part=part,
            layers=layers,
            anchors=anchors,
            limit=limit if "-" in cell else None,
        )
        words = f"{theme.SPACES[space]} cosine, {theme.cell_label(cell)}"
        theme.panel_title(axes, index, words, letters=len(panels) > 1)
    for unused in grid_axes.flat[len(panels) :]:
        unused.remove()
    _name_axes(grid_axes, layers, anchors, len(panels))
    return Picture(name, figure, grid)


def _matrix(
    part: pd.DataFrame, column: str, layers: Sequence[str], anchors: Sequence[str]
) -> Float[np.ndarray, "anchors layers"]:
    wide = part.pivot(index="anchor", columns="layer", values=column)
    return wide.reindex(index=list(anchors), columns=list(layers)).to_numpy(float)


def _draw_panel(
    figure: Figure,
    axes: Axes,
    part: pd.DataFrame,
    layers: Sequence[str],
    anchors: Sequence[str],
    limit: float | None,
) -> None:
    """Draw one panel; `limit` is the end of the diverging scale, None for a plain cosine."""
    values = _matrix(part, "value", layers, anchors)
    low, high = (np.nanmin(values), np.nanmax(values)) if limit is None else (-limit, limit)
    axes.set_facecolor(theme.PALE)
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(values),
        norm=Normalize(low, max(high, low + 1e-3)),
        cmap=theme.SEQUENTIAL if limit is None else theme.DIVERGING,
        edgecolors="white" if values.size <= 300 else "face",
        linewidth=0.4 if values.size <= 300 else 0.05,
    )
    if "final" in layers and len(layers) > 1:
        axes.axvline(len(layers) - 1, color="white", linewidth=2.0)
    if limit is not None:
        marked = _matrix(part, "excludes_zero", layers, anchors) == 1
        y, x = np.nonzero(marked)
        size = float(np.clip(60 / len(layers), 1.2, 2.6))
        axes.plot(
            *(x + 0.5, y + 0.5),
            linestyle="none",
            marker="o",
            markersize=size,
            color=theme.INK,
            markeredgecolor="white",
            markeredgewidth=0.3,
        )
    bar = figure.colorbar(mesh, ax=axes, aspect=22, pad=0.02, fraction=0.06)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(length=2, width=0.5)
    bar.locator = theme.few_ticks()
    bar.update_ticks()


def _name_axes(
    grid_axes: np.ndarray, layers: Sequence[str], anchors: Sequence[str], n_panels: int
) -> None:
    """Name anchors at the left and layers at the bottom, once for the panels that share them."""
    ticks = layer_ticks(layers)
    columns = grid_axes.shape[1]
    for index in range(n_panels):
        axes = grid_axes.flat[index]
        axes.set_xticks([i + 0.5 for i in ticks], [layers[i] for i in ticks])
        axes.set_yticks(np.arange(len(anchors)) + 0.5, [anchor_label(a) for a in anchors])
        axes.set_ylim(len(anchors), 0)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        lowest = index + columns >= n_panels
        axes.tick_params(labelbottom=lowest, labelleft=index % columns == 0)
        if lowest:
            axes.set_xlabel("Layer")
