"""The frame of a probed run's analyses: its pictures by name, and its cells in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.reproduce.finding import interval
from geomrl.reproduce.runs import ANCHORS, LAYER
from geomrl.runs.run import Run
from geomrl.viz.picture import Picture, Skipped
from geomrl.viz.probed import scenes
from geomrl.viz.scene import Make

CELLS = ("CC", "II", "II_same_answer", "CI", "floor", "CC-II", "CC-II_same_answer")


def named_pictures(
    run: Run, makes: Sequence[Make], *, anchor: str = ANCHORS[0], suffix: str = ""
) -> list[Picture]:
    """Return some of a run's pictures, once a benchmark; names end in `suffix` and the benchmark.

    Args:
        run: a probed run.
        makes: what draws each, of `geomrl.viz.probed.FIGURES`.
        anchor: the anchor that they are of.
        suffix: what their names have besides.

    Raises:
        GeomrlError: the run lacks the layer or the anchor.
    """
    found = []
    for folder, scene in scenes(run, layer=LAYER, anchor=anchor, umap=False):
        end = "".join(f"_{part}" for part in (suffix, folder) if part)
        drawn = [make(scene) for make in makes]
        found += [p.named(f"{p.name}{end}") for p in drawn if not isinstance(p, Skipped)]
    return found


def cell_table(run: Run) -> pd.DataFrame:
    """Return the cosines of `CELLS` at the final layer, at every anchor: a row a cell and space."""
    table = run.similarity
    return table[
        (table["measure"] == "cosine")
        & (table["weighting"] == "problem")
        & (table["layer"] == LAYER)
        & table["cell"].isin(CELLS)
    ].reset_index(drop=True)


def cell_sentences(run: Run, anchor: str) -> list[str]:
    """Return raw cells and matched contrasts at an anchor in words, a sentence a benchmark.

    Raises:
        GeomrlError: the run has none at the anchor.
    """
    table = cell_table(run)
    rows = table[(table["anchor"] == anchor) & (table["space"] == "raw")]
    if rows.empty:
        raise GeomrlError(
            f"{run.path}: no cosines at {anchor}, layer {LAYER}; probe it with --anchors default"
        )
    said = []
    for benchmark, part in rows.groupby("benchmark", sort=False):
        cells = {row["cell"]: cell_words(row) for row in part.to_dict("records")}
        words = {cell: cells.get(cell, "not to be had") for cell in CELLS}
        said.append(
            f"At `{anchor}`, final norm, raw, {benchmark}: CC {words['CC']}; II {words['II']}; floor "
            f"(different problems) {words['floor']}; matched CC - II {words['CC-II']}; against wrong "
            f"rollouts that agree on their answer {words['CC-II_same_answer']}."
        )
    return said


def cell_words(row: Mapping[Any, Any]) -> str:
    """Return a row's value, its interval and the problems that it rests on.

    >>> cell_words({"value": 0.5, "low": 0.4, "high": 0.6, "n_problems": 30})
    '.500 (95 % .400 to .600), n = 30'
    """
    return f"{interval(row['value'], row['low'], row['high'])}, n = {int(row['n_problems'])}"
