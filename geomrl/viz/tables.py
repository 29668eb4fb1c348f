"""Cut what a picture plots out of the tidy similarity table, in the order it is plotted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.probe.anchors import anchor_kind, anchor_order
from geomrl.viz.theme import SPACES, span

Axis = Literal["layer", "anchor"]

PLOTTED = ["value", "low", "high", "p", "n_problems", "n_pairs"]


def layer_order(layer: str) -> float:
    """Return a sort key for layer names: "0", "1", ..., then "final".

    >>> sorted(["final", "10", "2", "0"], key=layer_order)
    ['0', '2', '10', 'final']
    """
    return math.inf if layer == "final" else float(layer)


def ordered(names: Sequence[str], by: Axis) -> list[str]:
    """Return layer or anchor names without repeats, in the order of computation or of reading."""
    unique = list(dict.fromkeys(names))
    return sorted(unique, key=layer_order if by == "layer" else anchor_order)


def anchor_label(anchor: str) -> str:
    """Return an anchor's name as words for an axis.

    >>> anchor_label("fraction:0"), anchor_label("fraction:0.25"), anchor_label("before_marker-4")
    ('first token', '25 % of the way', 'before marker − 4')
    """
    kind, number = anchor_kind(anchor)
    return kind.label(number) if kind.label else kind.stem.replace("_", " ")


def layer_words(layer: str) -> str:
    """Return a layer's name for a footnote.

    >>> layer_words("final"), layer_words("12")
    ('final norm', 'layer 12')
    """
    return "final norm" if layer == "final" else f"layer {layer}"


def profile(
    table: pd.DataFrame,
    *,
    by: Axis,
    at: str,
    cells: Sequence[str],
    spaces: Sequence[str] = tuple(SPACES),
    measure: str = "cosine",
) -> pd.DataFrame:
    """Return a measure of `cells` along one axis of the run, the other held at `at`.

    Columns: space, cell, the axis's name ("layer" or "anchor"), then `PLOTTED`. Rows follow
    `spaces`, `cells` and the axis's own order. Cells and spaces that the table lacks, and values
    that are missing, are left out; a missing interval stays NaN.

    Args:
        table: a similarity table of one policy, encoder, step and benchmark.
        by: the axis along which to look.
        at: the anchor (`by="layer"`) or the layer (`by="anchor"`) that is held.
        cells: cells, or contrasts such as "CC-II".
        spaces: any of "raw", "centred", "whitened".
        measure: which measure; all but "cosine" are drawn by their own pictures.
    """
    held = "anchor" if by == "layer" else "layer"
    rows = weighted_by_problem(table, measure)
    rows = rows[
        (rows[held] == at) & rows["cell"].isin(list(cells)) & rows["space"].isin(list(spaces))
    ]
    places = ordered(rows[by].tolist(), by)
    order = pd.DataFrame(
        {
            "space": rows["space"].map({s: i for i, s in enumerate(spaces)}),
            "cell": rows["cell"].map({c: i for i, c in enumerate(cells)}),
            "place": rows[by].map({p: i for i, p in enumerate(places)}),
        }
    ).sort_values(["space", "cell", "place"], kind="stable")
    columns = ["space", "cell", by, *PLOTTED]
    return rows.loc[order.index, columns].reset_index(drop=True)


def weighted_by_problem(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return a measure's rows that weigh problems alike and have a value."""
    return table[
        (table["measure"] == measure) & (table["weighting"] == "problem") & table["value"].notna()
    ]


def excludes_zero(frame: pd.DataFrame) -> pd.Series:
    """Return whether each row's interval lies on one side of zero; a missing one does not."""
    return (frame["low"] > 0) | (frame["high"] < 0)


def sample_note(frame: pd.DataFrame) -> str:
    """Return a footnote's "n = ..." for rows with n_problems and n_pairs."""
    problems = span(frame["n_problems"], "problem")
    return f"n = {problems}, {span(frame['n_pairs'], 'pair')} a cell" if problems else ""


def interval_note(frame: pd.DataFrame, methods: str) -> str:
    """Return `methods` where any row has an interval, and says so where none has."""
    return methods if frame["low"].notna().any() or frame.empty else "no intervals"


def one_source(table: pd.DataFrame, benchmark: str) -> pd.DataFrame:
    """Return the rows of one benchmark, of one policy, encoder and step: what a picture may show.

    Raises:
        GeomrlError: the benchmark is absent, or has rows of several policies, encoders or steps.
    """
    rows = table[table["benchmark"].astype(str) == benchmark]
    if rows.empty:
        known = ", ".join(sorted(table["benchmark"].astype(str).unique()))
        raise GeomrlError(
            f"benchmark {benchmark!r}: not in the similarity table; choose among {known}"
        )
    for column in ("policy", "encoder", "step"):
        values = rows[column].astype(str).unique()
        if len(values) > 1:
            raise GeomrlError(
                f"similarity table: {len(values)} values of {column} ({', '.join(values[:4])}), "
                f"and a picture shows one; name the {column}"
            )
    return rows
