"""Distributions of pairwise cosine by cell, as in the paper's Appendix A, with the controls.

One row a cell, so that no distribution hides another. Each problem (each pair of problems, in
cells across problems) has the same weight, as in the similarity table: a distribution's mean is
its cell's value, and problems with many correct rollouts do not speak for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes

from geomrl.geometry.cells import pair_cosines
from geomrl.viz import theme
from geomrl.viz.picture import Picture, Skipped
from geomrl.viz.scene import Scene
from geomrl.viz.tables import profile

DISTRIBUTION_CELLS = ("CC", "II_same_answer", "II", "CI", "floor")

MOST_PAIRS = 50_000
N_BINS = 50
_NAME = "cosine_distributions"
_EXACT = ["mean", "low", "high", "n_problems", "n_pairs"]
_COLUMNS = ["space", "cell", "bin_low", "bin_high", "density", "n_drawn", *_EXACT]
_TAIL = 0.01  # share of a cell's weight that may lie below the drawn range
_TALLEST = 0.86  # height of a distribution's peak, in rows
_MIDDLE = 0.4  # where a row is labelled, above its base line


def make(scene: Scene) -> Picture | Skipped:
    """Draw the cosines of pairs by cell, raw and centred, at the scene's layer and anchor."""
    pairs = {
        space: pair_cosines(
            scene.states, scene.rows, space=space, max_pairs=MOST_PAIRS, seed=scene.seed
        )
        for space in ("raw", "centred")
    }
    here = scene.table[scene.table["layer"] == scene.layer]
    values = profile(here, by="layer", at=scene.anchor, cells=DISTRIBUTION_CELLS)
    histogram = cosine_histogram(pairs, values)
    if histogram.empty:
        return Skipped(_NAME, f"no pair of graded rollouts has a state at {scene.place}")
    return draw_distributions(
        histogram, scene.source, place=scene.place, methods=scene.methods, name=_NAME
    )


def pair_weights(pairs: pd.DataFrame) -> Float[np.ndarray, " pairs"]:
    """Return each pair's weight: one over the number of pairs with its cell and problem(s).

    Args:
        pairs: cell, problem_id, other_problem_id, one row a pair.
    """
    low = np.minimum(pairs["problem_id"].astype(str), pairs["other_problem_id"].astype(str))
    high = np.maximum(pairs["problem_id"].astype(str), pairs["other_problem_id"].astype(str))
    groups = pd.DataFrame({"cell": pairs["cell"], "low": low, "high": high})
    return 1.0 / groups.groupby(["cell", "low", "high"])["cell"].transform("size").to_numpy(float)


def cosine_histogram(
    pairs: Mapping[str, pd.DataFrame],
    values: pd.DataFrame,
    *,
    cells: Sequence[str] = DISTRIBUTION_CELLS,
    bins: int = N_BINS,
) -> pd.DataFrame:
    """Return the histogram of each cell in each space, with its mean and numbers.

    Columns: space, cell, bin_low, bin_high, density (weighted by problem, area 1 over the bins
    and the tail below them), n_drawn (pairs in the histogram), mean, n_problems, n_pairs. The
    last three are the similarity table's, over all pairs, so that no second figure of the same
    name goes round. Bins are shared by the cells of a space and begin where no cell has more
    than 1 % of its weight below. A cell without pairs has no rows.

    Args:
        pairs: by space, columns cell, cosine, problem_id, other_problem_id.
        values: the table's rows at this layer and anchor: space, cell, value, n_problems, n_pairs.
        cells: the cells, in drawing order.
        bins: number of bins.
    """
    parts = []
    for space, frame in pairs.items():
        kept = frame[frame["cell"].isin(list(cells)) & frame["cosine"].notna()]
        if kept.empty:
            continue
        weight = pair_weights(kept)
        edges = _edges(kept, weight, bins)
        for cell in cells:
            mask = (kept["cell"] == cell).to_numpy()
            if mask.any():
                parts.append(
                    _one_histogram(space, cell, pairs=kept[mask], weight=weight[mask], edges=edges)
                )
    if not parts:
        return pd.DataFrame(columns=_COLUMNS)
    exact = values.rename(columns={"value": "mean"})[["space", "cell", *_EXACT]]
    return pd.concat(parts).merge(exact, on=["space", "cell"], how="left")[_COLUMNS]


def _edges(
    pairs: pd.DataFrame, weight: Float[np.ndarray, " pairs"], bins: int
) -> Float[np.ndarray, " edges"]:
    """Return bin edges from the lowest cell's tail to the highest cosine of all."""
    cosine = pairs["cosine"].to_numpy(float)
    lows = []
    for cell in pairs["cell"].unique():
        own = (pairs["cell"] == cell).to_numpy()
        order = np.argsort(cosine[own], kind="stable")
        mass = np.cumsum(weight[own][order]) / weight[own].sum()
        lows.append(cosine[own][order][np.searchsorted(mass, _TAIL)])
    low, high = min(lows), cosine.max()
    if high - low < 1e-6:  # identical states: one bar of visible width
        low, high = low - 0.005, high + 0.005
    return np.linspace(low, high, bins + 1)


def _one_histogram(
    space: str,
    cell: str,
    pairs: pd.DataFrame,
    weight: Float[np.ndarray, " pairs"],
    edges: Float[np.ndarray, " edges"],
) -> pd.DataFrame:
    share, _ = np.histogram(pairs["cosine"].to_numpy(float), edges, weights=weight / weight.sum())
    return pd.DataFrame(
        {
            "space": space,
            "cell": cell,
            "bin_low": edges[:-1],
            "bin_high": edges[1:],
            "density": share / np.diff(edges),
            "n_drawn": len(pairs),
        }
    )


@theme.style()
def draw_distributions(
    histogram: pd.DataFrame,
    source: theme.Provenance,
    *,
    place: str,
    methods: str = "",
    name: str = _NAME,
) -> Picture:
    """Draw `cosine_histogram`'s rows: a panel a space, a row a cell, means marked and printed.

    Args:
        histogram: at least one row.
        source: for the footnote.
        place: the layer and anchor, in words.
        methods: how the intervals of the means were made.
        name: the files' stem.
    """
    spaces = list(dict.fromkeys(histogram["space"]))
    cells = [c for c in theme.CELL_LOOKS if c in set(histogram["cell"])]
    width = theme.DOUBLE_COLUMN if len(spaces) > 1 else theme.SINGLE_COLUMN + 1.4
    drawn = histogram["n_drawn"].max()
    thinned = (histogram["n_drawn"] < histogram["n_pairs"]).any()
    footnote = source.footnote(
        place,
        "each problem (or pair of problems) has the same weight, each row its own height",
        "vertical line, mean; dashed, mean of the floor",
        f"histograms of at most {drawn:,} pairs, means of all" if thinned else "",
        methods,
    )
    figure = theme.new_figure(width, 0.7 + 0.42 * len(cells), footnote)
    panels = figure.subplots(1, len(spaces), squeeze=False, gridspec_kw={"wspace": 0.04})[0]
    for index, (space, axes) in enumerate(zip(spaces, panels, strict=True)):
        _draw_space(axes, histogram[histogram["space"] == space], cells)
        theme.panel_title(axes, index, f"{theme.SPACES[space]} cosine", letters=len(spaces) > 1)
        axes.xaxis.set_major_locator(theme.few_ticks(4))
        axes.set_xlabel("Cosine of two rollouts’ states")
        labels = [_row_label(cell, histogram) if index == 0 else "" for cell in cells]
        axes.set_yticks(np.arange(len(cells)) - _MIDDLE, labels)
    return Picture(name, figure, histogram)


def _row_label(cell: str, histogram: pd.DataFrame) -> str:
    rows = histogram[histogram["cell"] == cell]
    problems, pairs = theme.count(int(rows["n_problems"].iloc[0]), "problem"), rows["n_pairs"]
    return f"{theme.cell_label(cell)}\n{problems}, {theme.span(pairs, 'pair')}"


def _mean_label(row: pd.Series) -> str:
    """Return the mean with its interval below it, where it has one."""
    mean = theme.signed(row["mean"])
    if pd.isna(row["low"]):
        return mean
    return f"{mean}\n[{theme.signed(row['low'])}, {theme.signed(row['high'])}]"


def _draw_space(axes: Axes, rows: pd.DataFrame, cells: Sequence[str]) -> None:
    floor = rows.loc[rows["cell"] == "floor", "mean"]
    if len(floor):
        axes.axvline(floor.iloc[0], color=theme.GREY, linewidth=0.6, linestyle=(0, (4, 3)))
    for row, cell in enumerate(cells):
        part = rows[rows["cell"] == cell]
        axes.axhline(row, color=theme.PALE, linewidth=0.5, zorder=0.5)
        if part.empty:
            continue
        colour = theme.cell_look(cell).colour
        height = part["density"].to_numpy() / part["density"].max() * _TALLEST
        edges = np.append(part["bin_low"].to_numpy(), part["bin_high"].iloc[-1])
        axes.stairs(row - height, edges, baseline=row, fill=True, color=colour, alpha=0.45, lw=0)
        axes.stairs(row - height, edges, baseline=None, color=colour, linewidth=0.8)
        mean = part["mean"].iloc[0]
        axes.plot([mean, mean], [row, row - _TALLEST], color=colour, linewidth=1.2)
        axes.annotate(
            _mean_label(part.iloc[0]),
            (1.0, row - _MIDDLE),
            xycoords=("axes fraction", "data"),
            xytext=(2, 0),
            textcoords="offset points",
            va="center",
        )
    axes.annotate(
        "mean [95 %]",
        (1.0, 1.0),
        xycoords="axes fraction",
        xytext=(2, 5),
        textcoords="offset points",
    )
    axes.set_ylim(len(cells) - 0.85, -1.0)
    axes.set_xlim(rows["bin_low"].min(), rows["bin_high"].max())
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
