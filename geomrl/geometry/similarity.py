"""The similarity table: every cell, contrast, test and spectrum, by layer and anchor.

A raw cosine proves nothing by itself, so the table contains each figure with its controls side by
side: three spaces, the cells that share an answer, the floor, and permutation tests. Only verdicts
`correct` and `wrong` take part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from geomrl.errors import GeomrlError
from geomrl.geometry.cells import Estimate, cross_cells, estimate_cells, within_cells
from geomrl.geometry.groups import Groups, group_rows
from geomrl.geometry.label_tests import (
    AnswerDraws,
    VerdictDraws,
    answer_statistics,
    draw_answers,
    draw_verdicts,
    verdict_statistics,
)
from geomrl.geometry.spaces import SPACES, Refusal, build_space
from geomrl.geometry.spectrum import matched_spectra, residual_shares
from geomrl.runs.parts import Parts
from geomrl.stats.draws import Draws
from geomrl.stats.permutation import max_statistic_p

CONTEXT = ("policy", "encoder", "step", "benchmark")
_PLURALS = dict(zip(CONTEXT, ("policies", "encoders", "steps", "benchmarks"), strict=True))
COLUMNS = (
    *CONTEXT, "layer", "anchor", "measure", "cell", "space", "weighting", "value", "low", "high",
    "p", "n_problems", "n_pairs", "n_boot", "seed",
)  # fmt: skip
TESTED = {"permutation_correctness": "CC-II", "permutation_answer_class": "CC-II_same_answer"}
"""The contrast that each permutation test studentises."""
_LABEL = "similarity"  # all intervals over the same number of problems share their draws

_PAIRED = ("CC", "II", "CI")

Row = dict[str, Any]
Statistics = dict[tuple[str, str], dict[str, Float[np.ndarray, " m1"]]]
"""By (measure, space), then layer: a test's statistics, on the true labels first."""
ReadStates = Callable[[str, str], tuple[pd.DataFrame, Float[np.ndarray, "rows d"]]]


@dataclass(frozen=True)
class SimilarityResult:
    """The tidy table, one value a row, and what the user should know about it."""

    table: pd.DataFrame
    notes: tuple[str, ...]


def similarity_table(
    read_states: ReadStates,
    layers: Sequence[str],
    anchors: Sequence[str],
    *,
    context: Mapping[str, object],
    seed: int = 0,
    n_boot: int = 2000,
    n_perm: int = 1000,
    progress: Callable[[str], None] | None = None,
    parts: Parts | None = None,
) -> SimilarityResult:
    """Return the similarity table of one encoder's states.

    One layer's states are in memory at a time. Draws depend on the seed, the problem ids and the
    measure, so that adding a layer or an anchor changes no other row, except for p values, which
    are adjusted over all layers of their anchor and space.

    Args:
        read_states: (layer, anchor) -> rows (rollout_id, problem_id, verdict, answer_class, gold;
            a rollout without the anchor has no row) and float states [rows, d], aligned. All
            layers of an anchor have the same rollouts.
        layers: layer names, as stored.
        anchors: anchor names, as stored.
        context: policy, encoder, step and benchmark: constant columns.
        seed: of every draw.
        n_boot: bootstrap draws of each interval.
        n_perm: relabellings of each permutation test.
        progress: called with "anchor, layer" after each.
        parts: where finished places are kept, an (anchor, layer) each; they are not computed again.

    Returns:
        Columns as in `COLUMNS`. Measures:

        - "cosine": cells and contrasts (see `geomrl.geometry.cells`), by space and weighting. The
          contrasts named in `TESTED` carry their test's p.
        - "permutation_correctness", "permutation_answer_class": value is the studentised contrast,
          p two-sided and adjusted over the anchor's layers (see `geomrl.geometry.label_tests`).
        - "residual_share" (cells C, I, all), "effective_rank" and "participation_ratio" (cells C
          and I, at equal n): on un-normalised states, `space` "raw".

        Intervals are nominally 95 %; `n_boot` 0 marks jackknife-t. What could not be computed is
        NaN with `n_problems` 0 (the whole space is left out where it is refused) and has a note.

    Raises:
        GeomrlError: no anchor has a problem with two graded rollouts, or the input is broken.
    """
    missing = [name for name in CONTEXT if name not in context]
    if missing:
        raise GeomrlError(f"similarity context lacks {', '.join(missing)}: give these constants")
    rows: list[Row] = []
    notes = _Notes()
    draws = Draws(seed, n_boot, n_perm)
    for anchor in anchors:
        rows += _anchor_rows(
            read_states,
            layers,
            anchor=anchor,
            draws=draws,
            notes=notes,
            progress=progress,
            parts=parts,
        )
    if not any(
        row["measure"] == "cosine" and row["cell"] in _PAIRED and row["n_pairs"] for row in rows
    ):
        raise GeomrlError(
            f"states at anchors {', '.join(anchors) or '(none)'}: no problem has two graded "
            f"rollouts (verdict correct or wrong) there, so there is no pair to compare. Draw "
            f"several rollouts a problem, give longer responses room to reach the answer marker, "
            f"or probe an anchor that needs no marker, such as response_last"
        )
    constant = {name: context[name] for name in CONTEXT}
    table = pd.DataFrame(rows).assign(**constant, seed=seed)  # type: ignore[arg-type]
    return SimilarityResult(table[list(COLUMNS)], notes.lines())


def headline(
    table: pd.DataFrame, layer: str = "final", anchor: str = "before_marker"
) -> pd.DataFrame:
    """Return the cells at one layer and anchor, raw and centred side by side, for printing.

    Columns: cell, raw, raw_low, raw_high, centred, centred_low, centred_high, n_problems. Rows are
    the cells, the floor among them, then the matched contrasts, weighted by problem. Falls back on
    the last layer and the first anchor of the table where the named ones are not in it; the frame
    has them in `attrs`.

    Raises:
        GeomrlError: the table contains several benchmarks, encoders, policies or steps, each with cells
            of its own.
    """
    for column in CONTEXT:
        if column not in table:
            continue
        several = table[column].dropna().astype(str).unique()
        if len(several) > 1:
            raise GeomrlError(
                f"similarity table of {len(several)} {_PLURALS[column]} ({', '.join(several[:4])}): a "
                f"headline is of one, so choose it: table[table['{column}'] == '{several[0]}']"
            )
    layer = layer if layer in set(table["layer"]) else str(table["layer"].iloc[-1])
    anchor = anchor if anchor in set(table["anchor"]) else str(table["anchor"].iloc[0])
    rows = table[
        (table["layer"] == layer)
        & (table["anchor"] == anchor)
        & (table["measure"] == "cosine")
        & (table["weighting"] == "problem")
    ]
    cells = rows.drop_duplicates("cell").set_index("cell")
    frame = pd.DataFrame(index=cells.index)
    for space in ("raw", "centred"):
        here = rows[rows["space"] == space].set_index("cell")
        for column, name in (("value", space), ("low", f"{space}_low"), ("high", f"{space}_high")):
            frame[name] = here[column].reindex(frame.index)
    frame["n_problems"] = cells["n_problems"]
    frame = frame.reset_index()
    frame.attrs.update(layer=layer, anchor=anchor)
    return frame


@dataclass(frozen=True)
class _Labels:
    """What an anchor's labels fix for all its layers."""

    groups: Groups
    verdicts: VerdictDraws
    answers: AnswerDraws


@dataclass
class _Notes:
    """Notes without repeats, each with the places it holds for."""

    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, text: str, place: str) -> None:
        """Note `text`, which holds at `place`."""
        self.places.setdefault(text, []).append(place)

    def lines(self, most: int = 3) -> tuple[str, ...]:
        """Return one line a note, with its first places."""
        found = []
        for text, places in self.places.items():
            unique = list(dict.fromkeys(places))
            more = f" and {len(unique) - most} more" if len(unique) > most else ""
            found.append(f"{text} [{'; '.join(unique[:most])}{more}]")
        return tuple(found)


class Places:
    """The places of a table, a layer and an anchor each, computed one by one and kept.

    What an anchor's labels fix is computed at the first of its layers, and used at the next ones.

    Args:
        parts: where finished places are kept; None keeps none.
        draws: seed, bootstrap draws of each interval, relabellings of each permutation test.
    """

    def __init__(self, parts: Parts | None, draws: Draws) -> None:
        self._parts = parts
        self._draws = draws
        self._labels: tuple[str, _Labels] | None = None  # of the last anchor

    def read(self, layer: str, anchor: str) -> dict[str, Any] | None:
        """Return a place that is finished: rows, notes and statistics, in JSON's types."""
        return None if self._parts is None else self._parts.read(anchor, layer)

    def make(
        self, layer: str, anchor: str, table: pd.DataFrame, states: Float[np.ndarray, "rows d"]
    ) -> dict[str, Any]:
        """Compute a place of its rows and states, as `similarity_table` reads them, and keep it.

        Raises:
            GeomrlError: the input is broken.
        """
        groups = group_rows(table)
        if self._labels is None or self._labels[0] != anchor:
            self._labels = anchor, _labels(groups, self._draws)
        labels = self._labels[1]
        where = f"layer {layer}, anchor {anchor}"
        _check_aligned(table, states, here=groups, first=labels.groups, place=where)
        place = _place(states, labels, layer=layer, anchor=anchor, draws=self._draws)
        if self._parts is not None:
            self._parts.write(place, anchor, layer)
        return place


def _anchor_rows(
    read_states: ReadStates,
    layers: Sequence[str],
    anchor: str,
    draws: Draws,
    notes: _Notes,
    progress: Callable[[str], None] | None,
    parts: Parts | None,
) -> list[Row]:
    """Return one anchor's rows over all layers."""
    rows: list[Row] = []
    statistics: Statistics = {}
    places = Places(parts, draws)
    for layer in layers:
        place = places.read(layer, anchor)
        if place is None:
            place = places.make(layer, anchor, *read_states(layer, anchor))
        rows += place["rows"]
        for text, where in place["notes"]:
            notes.add(text, where)
        for measure, space, values in place["statistics"]:
            statistics.setdefault((measure, space), {})[layer] = np.array(values)
        if progress:
            progress(f"{anchor}, layer {layer}")
    return rows + _test_rows(rows, statistics, draws)


def _place(
    states: Float[np.ndarray, "n d"],
    labels: _Labels,
    layer: str,
    anchor: str,
    draws: Draws,
) -> dict[str, Any]:
    """Return rows, notes and test statistics of one layer and anchor, in JSON's types."""
    notes = _Notes()
    _note_labels(labels, notes, anchor)
    rows: list[Row] = []
    statistics: dict[tuple[str, str], Float[np.ndarray, " m1"]] = {}
    if labels.groups.n_problems:
        ordered = states[labels.groups.order]
        rows, statistics = _layer_rows(
            ordered, labels, layer=layer, anchor=anchor, draws=draws, notes=notes
        )
    return {
        "rows": [{name: _plain(value) for name, value in row.items()} for row in rows],
        "notes": [(text, place) for text, places in notes.places.items() for place in places],
        "statistics": [(*test, values.tolist()) for test, values in statistics.items()],
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _labels(groups: Groups, draws: Draws) -> _Labels:
    return _Labels(
        groups,
        draw_verdicts(groups, draws.n_perm, seed=draws.seed),
        draw_answers(groups, draws.n_perm, seed=draws.seed),
    )


def _note_labels(labels: _Labels, notes: _Notes, anchor: str) -> None:
    groups = labels.groups
    if not groups.n_problems:
        notes.add("no graded rollout has this anchor", anchor)
    elif not (groups.n_correct >= 2).any():
        notes.add("no problem has two correct rollouts: CC is empty", anchor)
    if groups.n_problems and not (groups.sizes - groups.n_correct >= 2).any():
        notes.add("no problem has two wrong rollouts: II is empty", anchor)
    for n, rule in (
        (len(labels.verdicts.problems), "two correct and two wrong rollouts: no test of verdicts"),
        (
            len(labels.answers.problems),
            "two correct and two equally wrong answers: no test of answer classes",
        ),
    ):
        if groups.n_problems and n < 2:
            notes.add(f"{n} problems, of two needed, have {rule}", anchor)


def _check_aligned(
    table: pd.DataFrame,
    states: Float[np.ndarray, "rows d"],
    here: Groups,
    first: Groups,
    place: str,
) -> None:
    if len(table) != len(states):
        raise GeomrlError(
            f"{place}: {len(table)} rows but {len(states)} states; they must be aligned, so read "
            f"both from the same store"
        )
    if here.problem_ids != first.problem_ids or not np.array_equal(here.order, first.order):
        raise GeomrlError(
            f"{place}: its rollouts differ from those of the first layer; layers can only be "
            f"compared on the same rows in the same order, so probe this anchor again"
        )


def _layer_rows(
    states: Float[np.ndarray, "n d"],
    labels: _Labels,
    layer: str,
    anchor: str,
    draws: Draws,
    notes: _Notes,
) -> tuple[list[Row], dict[tuple[str, str], Float[np.ndarray, " m1"]]]:
    """Return the rows of one layer, and its test statistics by (measure, space)."""
    groups, place = labels.groups, f"layer {layer}, {anchor}"
    rows: list[Row] = []
    statistics: dict[tuple[str, str], Float[np.ndarray, " m1"]] = {}

    def add(measure: str, space: str, found: Estimate) -> None:
        if found.interval.warning and found.n_problems:
            notes.add(found.interval.warning, f"{found.cell} at {anchor}")
        rows.append({"layer": layer, "anchor": anchor, **_row(measure, space, found)})

    for name in SPACES:
        space = build_space(name, states, groups, seed=draws.seed)
        if isinstance(space, Refusal):
            notes.add(f"no {name} cosines: {space.reason}", place)
            continue
        if space.n_without_direction:
            notes.add(
                f"{name}: {space.n_without_direction} of {len(states)} states equal the centre, "
                f"their cosines count as 0",
                place,
            )
        grams = [space.within(p) for p in range(groups.n_problems)]
        within, across = within_cells(grams, groups), cross_cells(space, groups)
        for found in estimate_cells(
            within, across, seed=draws.seed, label=_LABEL, n_boot=draws.n_boot
        ):
            add("cosine", name, found)
        statistics["permutation_correctness", name] = verdict_statistics(grams, labels.verdicts)
        statistics["permutation_answer_class", name] = answer_statistics(grams, labels.answers)
    for found in _residual_shares(states, groups):
        add("residual_share", "raw", found)
    spectra, n = matched_spectra(states, groups, seed=draws.seed)
    for (measure, cell), interval in spectra.items():
        add(
            measure,
            "raw",
            Estimate(cell, weighting="problem", interval=interval, n_problems=n, n_pairs=0),
        )
    return rows, statistics


def _residual_shares(states: Float[np.ndarray, "n d"], groups: Groups) -> Iterator[Estimate]:
    everyone = np.ones(len(states), dtype=bool)
    choices = {"C": groups.correct, "I": ~groups.correct, "all": everyone}
    intervals = residual_shares(states, groups, list(choices.values()))
    for (cell, chosen), interval in zip(choices.items(), intervals, strict=True):
        sizes = np.bincount(groups.problem[chosen], minlength=groups.n_problems)
        n = interval.n_clusters if np.isfinite(interval.value) else 0
        yield Estimate(
            cell,
            weighting="problem",
            interval=interval,
            n_problems=n,
            n_pairs=int((sizes * (sizes - 1) // 2).sum()),
        )


def _row(measure: str, space: str, found: Estimate) -> Row:
    return {
        "measure": measure,
        "cell": found.cell,
        "space": space,
        "weighting": found.weighting,
        "value": found.interval.value,
        "low": found.interval.low,
        "high": found.interval.high,
        "p": np.nan,
        "n_problems": found.n_problems,
        "n_pairs": found.n_pairs,
        "n_boot": found.interval.n_boot,
    }


def _test_rows(rows: list[Row], statistics: Statistics, draws: Draws) -> list[Row]:
    """Return the tests' rows, and set the p of the contrasts among `rows` that they test."""
    contrasts = {
        (row["cell"], row["space"], row["layer"]): row
        for row in rows
        if row["measure"] == "cosine" and row["weighting"] == "problem"
    }
    found: list[Row] = []
    for (measure, space), by_layer in statistics.items():
        table = np.stack(list(by_layer.values()), axis=1)  # [1 + permutations, layers]
        ps = max_statistic_p(table[0], table[1:])
        for layer, value, p in zip(by_layer, table[0], ps, strict=True):
            contrast = contrasts[TESTED[measure], space, layer]
            contrast["p"] = p
            blank = {"measure": measure, "value": value, "low": np.nan, "high": np.nan}
            found.append({**contrast, **blank, "n_boot": draws.n_perm})
    return found
