"""Two-dimensional maps of anchor states: PCA, and UMAP of the leading components beside it.

A map is for looking, not for testing: UMAP keeps neighbourhoods and invents distances, and both
can show clusters of problems where verdicts do not separate at all. The tests are in the
similarity table.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from geomrl.errors import MissingExtra
from geomrl.progress import Say
from geomrl.seeds import derive_rng, derive_seed
from geomrl.viz import theme
from geomrl.viz.picture import Picture, Skipped

if TYPE_CHECKING:
    from geomrl.viz.scene import Scene

FEWEST_STATES = 10
MOST_STATES = 10_000
N_COMPONENTS = 50
N_NEIGHBOURS = 15
N_PROBLEMS = 12

_BY_VERDICT, _BY_PROBLEM = "embedding_verdict", "embedding_problem"
_PROBLEM_MARKERS = "osD^vP<>Xph*"
_ROUNDING = 1e-12  # of a mean of equal unit vectors
_RASTER = 4_000  # points beyond which a vector file would be slow to open


def make_by_verdict(scene: Scene) -> Picture | Skipped:
    """Draw the maps of the scene's states, coloured by verdict."""
    if len(scene.states) < FEWEST_STATES:
        return Skipped(_BY_VERDICT, _too_few(scene))
    return draw_by_verdict(scene.embedding, scene.source, place=scene.place)


def make_by_problem(scene: Scene) -> Picture | Skipped:
    """Draw the maps of the scene's states, coloured by problem."""
    if len(scene.states) < FEWEST_STATES:
        return Skipped(_BY_PROBLEM, _too_few(scene))
    if most_mixed(scene.embedding.frame).empty:
        reason = f"no problem has two correct and two wrong rollouts at {scene.place}"
        return Skipped(_BY_PROBLEM, reason)
    return draw_by_problem(scene.embedding, scene.source, place=scene.place)


def _too_few(scene: Scene) -> str:
    states = theme.count(len(scene.states), "state")
    return f"{states} at {scene.place}; a map wants {FEWEST_STATES} or more"


@dataclass(frozen=True)
class Embedding:
    """Maps of some rollouts' states at one layer and anchor.

    `frame` has rollout_id, problem_id, verdict, pc1, pc2, pc1_share, pc2_share (of the variance,
    the same in each row) and, where UMAP was fitted, umap1 and umap2. `n_available` counts the
    states before any were left out to stay below `MOST_STATES`.
    """

    frame: pd.DataFrame
    n_components: int
    n_available: int
    umap: bool


def require_umap() -> None:
    """Check that umap-learn is there without importing it, which takes most of a minute.

    Raises:
        MissingExtra: it is not installed.
    """
    if importlib.util.find_spec("umap") is None:
        raise MissingExtra("umap-learn", "umap", "the UMAP panel (leave it out with --no-umap)")


def draws_umap(asked: bool | None, *, say: Say) -> bool:
    """Return whether UMAP is drawn: as asked, or by itself where umap-learn is installed.

    Raises:
        MissingExtra: it is asked for and not installed.
    """
    if asked is None and importlib.util.find_spec("umap") is None:
        say("pictures without the UMAP panel, for which: pip install 'geomrl[umap]'")
        return False
    if asked:
        require_umap()
    return asked is not False


def principal_components(
    states: Float[np.ndarray, "n d"], *, seed: int, n_components: int = N_COMPONENTS
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, " k"]]:
    """Return the scores of unit-length states on their first components, and variance shares.

    States are scaled to unit length first, so that the map shows the directions which cosines
    compare; a state of length zero stays there. k = min(n_components, n - 1, d). Each component's
    sign makes its largest score positive. Identical states have shares of zero.
    """
    from sklearn.decomposition import PCA

    exact = states.astype(np.float64)
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    unit = exact / np.where(length > 0, length, 1.0)
    centred = unit - unit.mean(axis=0)
    k = min(n_components, len(states) - 1, states.shape[1])
    if not np.abs(centred).max() > _ROUNDING:
        return np.zeros((len(states), k)), np.zeros(k)
    # The seed is for the randomised solver, which only large inputs get.
    pca = PCA(n_components=k, random_state=derive_seed(seed, "viz", "pca") % 2**32)
    scores = pca.fit_transform(centred)
    largest = scores[np.abs(scores).argmax(axis=0), np.arange(k)]
    share = (scores**2).sum(axis=0) / (centred**2).sum()
    return scores * np.where(largest < 0, -1.0, 1.0), share


def umap_coordinates(components: Float[np.ndarray, "n k"], seed: int) -> Float[np.ndarray, "n 2"]:
    """Return a seeded UMAP (McInnes et al. 2018, arXiv 1802.03426) of principal components.

    One job only: with several, equal seeds give different maps.

    Raises:
        MissingExtra: umap-learn is not installed.
    """
    require_umap()
    from umap import UMAP

    reducer = UMAP(
        n_neighbors=min(N_NEIGHBOURS, len(components) - 1),
        min_dist=0.1,
        n_jobs=1,
        random_state=derive_seed(seed, "viz", "umap") % 2**32,
    )
    return np.asarray(reducer.fit_transform(components), dtype=np.float64)


def embed(
    rows: pd.DataFrame, states: Float[np.ndarray, "n d"], *, seed: int, umap: bool
) -> Embedding:
    """Map the states; more than `MOST_STATES` are first thinned by a seeded draw.

    Args:
        rows: rollout_id, problem_id, verdict of each state.
        states: one a row; at least 3 rows of at least 2 dimensions.
        seed: for the draw and for UMAP.
        umap: whether to fit UMAP as well.
    """
    kept = np.arange(len(rows))
    if len(kept) > MOST_STATES:
        draw = derive_rng(seed, "viz", "embedding", "thin")
        kept = np.sort(draw.choice(len(rows), MOST_STATES, replace=False))
    components, share = principal_components(states[kept], seed=seed)
    frame = rows.iloc[kept][["rollout_id", "problem_id", "verdict"]].reset_index(drop=True)
    frame = frame.assign(
        pc1=components[:, 0], pc2=components[:, 1], pc1_share=share[0], pc2_share=share[1]
    )
    if umap:
        umap1, umap2 = umap_coordinates(components, seed).T
        frame = frame.assign(umap1=umap1, umap2=umap2)
    return Embedding(frame, components.shape[1], len(rows), umap)


def most_mixed(frame: pd.DataFrame, limit: int = N_PROBLEMS) -> pd.DataFrame:
    """Return the problems whose correct and wrong rollouts balance best, at least two of each.

    Columns: problem_id, n_correct, n_wrong; best balanced first (by the smaller of the two
    numbers), ties by name.
    """
    counts = pd.crosstab(frame["problem_id"], frame["verdict"])
    counts = counts.reindex(columns=["correct", "wrong"], fill_value=0).reset_index()
    counts.columns = pd.Index(["problem_id", "n_correct", "n_wrong"])
    fewer = counts[["n_correct", "n_wrong"]].min(axis=1)
    best = counts.assign(fewer=fewer).sort_values(
        ["fewer", "problem_id"], ascending=[False, True], kind="stable"
    )
    return best[best["fewer"] >= 2].head(limit).drop(columns="fewer").reset_index(drop=True)


@theme.style()
def draw_by_verdict(
    embedding: Embedding, source: theme.Provenance, *, place: str, name: str = _BY_VERDICT
) -> Picture:
    """Draw the maps coloured by verdict.

    Args:
        embedding: from `embed`.
        source: for the footnote.
        place: the layer and anchor, in words.
        name: the files' stem.
    """
    frame = embedding.frame
    panels = _maps(embedding)
    width = theme.DOUBLE_COLUMN if len(panels) > 1 else theme.SINGLE_COLUMN
    figure = theme.new_figure(width, 3.1, _footnote(embedding, source, place))
    counts = frame["verdict"].value_counts()
    shown = [v for v in theme.VERDICTS if counts.get(v, 0)]
    # A fixed random order: drawn class by class, the last would hide the others.
    order = derive_rng(0, "viz", "drawing order").permutation(len(frame))
    colours = frame["verdict"].map({v: look.colour for v, look in theme.VERDICTS.items()})
    for axes, (_, x, y) in _panel_axes(figure, embedding, panels):
        axes.scatter(
            frame[x].iloc[order],
            frame[y].iloc[order],
            s=_point_size(len(frame)),
            c=list(colours.iloc[order]),
            alpha=0.65,
            linewidths=0,
            rasterized=len(frame) > _RASTER,
        )
    handles = [
        Line2D(
            [], [], linestyle="none", marker="o", markersize=4, color=theme.VERDICTS[v].colour,
            label=f"{theme.VERDICTS[v].label} ({counts[v]:,})",
        )
        for v in shown
    ]  # fmt: skip
    theme.top_legend(figure, handles, width)
    return Picture(name, figure, frame)


@theme.style()
def draw_by_problem(
    embedding: Embedding, source: theme.Provenance, *, place: str, name: str = _BY_PROBLEM
) -> Picture:
    """Draw the same maps with the dozen problems of most mixed outcomes; the rest is pale.

    A problem has a colour and a marker of its own, filled for correct and open for wrong.

    Args:
        embedding: from `embed`; `most_mixed` finds at least one problem in it.
        source: for the footnote.
        place: the layer and anchor, in words.
        name: the files' stem.
    """
    mixed = most_mixed(embedding.frame)
    panels = _maps(embedding)
    width = theme.DOUBLE_COLUMN if len(panels) > 1 else theme.SINGLE_COLUMN + 1.4
    note = _footnote(
        embedding, source, place, "filled, correct; open, wrong; numbers, correct of graded"
    )
    figure = theme.new_figure(width, 2.7, note)
    looks = list(zip(theme.PROBLEM_COLOURS, _PROBLEM_MARKERS, strict=True))
    numbers = pd.Series(range(1, len(mixed) + 1), index=mixed["problem_id"], dtype="Int64")
    frame = embedding.frame.assign(shown_as=embedding.frame["problem_id"].map(numbers))
    others = frame[frame["shown_as"].isna()]
    for axes, (_, x, y) in _panel_axes(figure, embedding, panels):
        axes.scatter(
            others[x],
            others[y],
            s=3,
            color=theme.PALE,
            linewidths=0,
            rasterized=len(frame) > _RASTER,
        )
        for number, (colour, marker) in enumerate(looks, start=1):
            own = frame[frame["shown_as"] == number]
            for verdict, face in (("correct", colour), ("wrong", "none")):
                part = own[own["verdict"] == verdict]
                axes.scatter(
                    part[x], part[y], s=10, marker=marker, facecolors=face, edgecolors=colour,
                    linewidths=0.7,
                )  # fmt: skip
    graded = mixed["n_correct"] + mixed["n_wrong"]
    handles = [
        Line2D(
            [], [], linestyle="none", marker=marker, markersize=4, color=colour,
            label=theme.plain(f"{theme.shorten(str(problem), 22)}  {n_correct}/{n}"),
        )
        for problem, n_correct, n, (colour, marker) in zip(
            mixed["problem_id"], mixed["n_correct"], graded, looks, strict=False
        )
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside right upper", handlelength=1.0)
    return Picture(name, figure, frame)


def _maps(embedding: Embedding) -> list[tuple[str, str, str]]:
    """Return each panel's title and columns."""
    pca = ("PCA", "pc1", "pc2")
    umap = (f"UMAP of {embedding.n_components} principal components", "umap1", "umap2")
    return [pca, umap] if embedding.umap else [pca]


def _panel_axes(
    figure: Figure, embedding: Embedding, panels: Sequence[tuple[str, str, str]]
) -> Iterator[tuple[Axes, tuple[str, str, str]]]:
    """Yield each map's axes, titled and named, with its title and columns."""
    shares = embedding.frame[["pc1_share", "pc2_share"]].iloc[0]
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        theme.panel_title(axes, index, panel[0], letters=len(panels) > 1)
        if panel[1] == "pc1":
            axes.set_xlabel(f"Component 1 ({100 * shares.iloc[0]:.1f} % of variance)")
            axes.set_ylabel(f"Component 2 ({100 * shares.iloc[1]:.1f} %)")
            axes.xaxis.set_major_locator(theme.few_ticks())
            axes.yaxis.set_major_locator(theme.few_ticks())
        else:  # UMAP's units mean nothing
            axes.set(xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
        axes.set_aspect("equal", adjustable="datalim")
        yield axes, panel


def _point_size(n_points: int) -> float:
    """Return a marker area in square points: smaller where the points are many."""
    return float(np.clip(6000 / n_points, 2.0, 12.0))


def _footnote(embedding: Embedding, source: theme.Provenance, place: str, *notes: str) -> str:
    shown = theme.count(len(embedding.frame), "state")
    if len(embedding.frame) < embedding.n_available:
        shown += f", drawn from {embedding.n_available:,}"
    problems = theme.count(embedding.frame["problem_id"].nunique(), "problem")
    return source.footnote(f"{place}, unit length; {shown}, {problems}", *notes)
