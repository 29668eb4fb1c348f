"""Similarity cells before and after: the four corners of the 2x2, and paired differences.

Corners are (policy, encoder). A difference between encoders is over the same rollouts, one between
policies over the same problems; both are taken by problem, over the problems that have the cell on
both sides. Unmatched means would compare easy problems with hard ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float

from geomrl.compare.encoder_change import PairedStates, SpaceCells, space_cells
from geomrl.compare.measures.measure import (
    BLUE,
    GREY,
    PINK,
    RED,
    Compared,
    Line,
    Measure,
    Panel,
)
from geomrl.compare.rows import BOTH, CHANGE, ENCODERS, Place, Row
from geomrl.geometry.cells import CONTRASTS, WITHIN_CELLS, Cell, estimate_cells
from geomrl.geometry.groups import Groups
from geomrl.geometry.spaces import SPACES, Refusal, SpaceName, build_space
from geomrl.stats.effect import mean_effect
from geomrl.stats.intervals import Interval, pair_interval

_LABEL = "comparison"  # all intervals over the same number of problems share their draws

Corner = tuple[str, str]
ByProblem = dict[str, float]


def cell_rows(at: Compared) -> Iterator[Row]:
    """Yield the cosines of one layer and anchor; see `similarity_rows`."""
    settings = at.settings
    yield from similarity_rows(at.sets, at.place, seed=settings.seed, n_boot=settings.n_boot)


def similarity_rows(
    sets: Mapping[str, PairedStates], place: Place, *, seed: int, n_boot: int
) -> Iterator[Row]:
    """Yield cells, contrasts and floors of each corner, and their differences, in each space.

    Measure "cosine". A space that one corner refuses (whitening needs two problems a dimension) is
    left out for all. Rows with encoder or policy "rl-base" are differences; "both" averages over
    the two policies' rollouts.

    Args:
        sets: by policy.
        place: layer and anchor.
        seed: of folds and bootstrap.
        n_boot: bootstrap draws.
    """
    for space in SPACES:
        found: dict[Corner, SpaceCells] = {}
        for policy, paired in sets.items():
            cells = _cells(paired, space, seed)
            if cells is not None:
                found |= {(policy, "base"): cells[0], (policy, "rl"): cells[1]}
        if len(found) < 2 * len(sets):
            continue
        for (policy, encoder), each in found.items():
            for estimate in estimate_cells(
                each.within, each.across, seed=seed, label=_LABEL, n_boot=n_boot
            ):
                if estimate.weighting == "problem":
                    yield place.row(
                        "cosine", policy, encoder, estimate.interval, cell=estimate.cell,
                        space=space, n_problems=estimate.n_problems,
                    )  # fmt: skip
        groups = {policy: paired.groups for policy, paired in sets.items()}
        yield from _differences(found, groups, place=place, space=space, seed=seed, n_boot=n_boot)


def _cells(
    paired: PairedStates, name: SpaceName, seed: int
) -> tuple[SpaceCells, SpaceCells] | None:
    """Return both encoders' cells in a space; None where one refuses it."""
    if name == "raw":
        return paired.raw
    if name == "centred":
        return paired.centred
    found = []
    for states in paired.both:
        space = build_space(name, states, paired.groups, seed=seed)
        if isinstance(space, Refusal):
            return None
        found.append(space_cells(space, paired.groups))
    return found[0], found[1]


def _differences(
    found: Mapping[Corner, SpaceCells],
    groups: Mapping[str, Groups],
    place: Place,
    space: str,
    seed: int,
    n_boot: int,
) -> Iterator[Row]:
    """Yield each named difference of two corners."""
    values = {c: _values(cells.within, groups[c[0]]) for c, cells in found.items()}
    for policy, encoder, plus, minus in _contrasts(list(groups)):
        for name in values[plus[0]]:
            one, other = (_mean([values[c][name] for c in corners]) for corners in (plus, minus))
            shared = [p for p in one if p in other]
            changes = np.array([one[p] - other[p] for p in shared])
            effect = mean_effect(changes, seed=seed, label=f"{_LABEL}/{name}", n_boot=n_boot)
            yield place.row("cosine", policy, encoder, effect, cell=name, space=space)
        floors = [
            _mean_floor([(found[c].across["floor"], groups[c[0]]) for c in corners])
            for corners in (plus, minus)
        ]
        yield place.row(
            "cosine", policy, encoder, _floor_difference(*floors, seed=seed, n_boot=n_boot),
            cell="floor", space=space,
        )  # fmt: skip


def _contrasts(
    policies: list[str],
) -> Iterator[tuple[str, str, list[Corner], list[Corner]]]:
    """Yield (policy, encoder) of the row, and the corners that are added and subtracted."""
    for policy in policies:
        yield policy, CHANGE, [(policy, "rl")], [(policy, "base")]
    if len(policies) < 2:
        return
    yield BOTH, CHANGE, [(p, "rl") for p in policies], [(p, "base") for p in policies]
    for encoder in ENCODERS:
        yield CHANGE, encoder, [("rl", encoder)], [("base", encoder)]
    yield CHANGE, CHANGE, [("rl", "rl")], [("base", "base")]


def _values(within: Mapping[str, Cell], groups: Groups) -> dict[str, ByProblem]:
    """Return, by cell and contrast, the problems' values; problems without one are left out."""
    means = {name: within[name].means for name in WITHIN_CELLS}
    means |= {f"{a}-{b}": means[a] - means[b] for a, b in CONTRASTS}
    return {
        name: {p: float(v) for p, v in zip(groups.problem_ids, each, strict=True) if np.isfinite(v)}
        for name, each in means.items()
    }


def _mean(parts: list[ByProblem]) -> ByProblem:
    return {
        p: sum(part[p] for part in parts) / len(parts)
        for p in parts[0]
        if all(p in part for part in parts)
    }


Floor = tuple[list[str], Float[np.ndarray, "p p"]]


def _mean_floor(parts: list[tuple[Cell, Groups]]) -> Floor:
    """Return problem ids, and mean cosines by pair of problems, NaN where there is none."""
    ids = [p for p in parts[0][1].problem_ids if all(p in g.problem_ids for _, g in parts[1:])]
    return ids, np.mean([_among(cell, groups, ids) for cell, groups in parts], axis=0)


def _among(cell: Cell, groups: Groups, ids: list[str]) -> Float[np.ndarray, "k k"]:
    at = {p: i for i, p in enumerate(groups.problem_ids)}
    index = [at[p] for p in ids]
    return cell.means[np.ix_(index, index)]


def _floor_difference(one: Floor, other: Floor, *, seed: int, n_boot: int) -> Interval:
    """Return the mean difference over pairs of problems that both sides have."""
    shared = [p for p in one[0] if p in set(other[0])]
    tables = []
    for ids, means in (one, other):
        at = {p: i for i, p in enumerate(ids)}
        index = [at[p] for p in shared]
        tables.append(means[np.ix_(index, index)])
    change = tables[0] - tables[1]
    weights = np.isfinite(change).astype(float)
    return pair_interval(np.nan_to_num(change), weights, seed=seed, label=_LABEL, n_boot=n_boot)


def _panel(space: str, title: str) -> Panel:
    looks = {"CC": (BLUE, "o"), "II": (RED, "s"), "CI": (PINK, "^"), "floor": (GREY, "X")}
    return Panel(
        picture="cells",
        name=space,
        title=title,
        unit="Cosine",
        lines=tuple(
            Line(
                series=f"{cell} {encoder}", label=f"{cell}, {when}", measure="cosine",
                encoder=encoder, cell=cell, space=space, colour=colour, marker=marker,
                dashed=encoder == "base",
            )
            for cell, (colour, marker) in looks.items()
            for encoder, when in zip(ENCODERS, ("before", "after"), strict=True)
        ),
    )  # fmt: skip


MEASURE = Measure(
    rows=cell_rows,
    labels={"cosine": ""},  # the page draws cosines beside their floor, by itself
    panels=(_panel("raw", "Raw cosine"), _panel("centred", "Centred cosine")),
)
