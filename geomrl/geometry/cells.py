"""Cells of a similarity analysis and the matched contrasts between them.

A cell is the mean over problems of each problem's mean over pairs of rollouts; a contrast is taken
over the problems that have both cells, paired. Pooling pairs compares easy problems, which have
most of the correct pairs, with hard ones, which have most of the wrong ones: with no effect at all
it gave CC - II = .123. Pooled figures are therefore a named extra (weighting "pair").

Cells within a problem: CC (both correct), II (both wrong), CI (one each), II_same_answer and
II_diff_answer (both wrong, same or different known answer class). Across problems: CC_cross,
CC_cross_same_answer (gold answers equal), floor (all graded rollouts): there a cell is the mean
over pairs of problems of their mean over pairs of rollouts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from geomrl.geometry.groups import UNKNOWN, Groups, group_rows, upper_triangle
from geomrl.geometry.spaces import Refusal, Space, SpaceName, build_space
from geomrl.seeds import derive_rng
from geomrl.stats.intervals import Interval, jackknife_interval, mean_interval, pair_interval

WITHIN_CELLS = ("CC", "II", "CI", "II_same_answer", "II_diff_answer")
CROSS_CELLS = ("CC_cross", "CC_cross_same_answer", "floor")
CONTRASTS = (
    ("CC", "II"),
    ("CC", "CI"),
    ("CC", "II_same_answer"),
    ("II_same_answer", "II_diff_answer"),
)
FLOOR_CONTRASTS = ("CC", "II")
"""Cells that are set against their own problem's mean cosine with all other problems."""
_POOLED = ("CC", "II", "CI")
_COSINE = (-1.0, 1.0)
_GAP = (-2.0, 2.0)  # of two cosines
_ROUNDING = 1e-12  # layer 0 often contains equal states, whose cosines differ by arithmetic only

CELL_WORDS = {
    "CC": "CC correct-correct",
    "II": "II wrong-wrong",
    "CI": "CI correct-wrong",
    "II_same_answer": "II same wrong answer",
    "II_diff_answer": "II other answers",
    "CC_cross": "CC across problems",
    "CC_cross_same_answer": "CC across, same answer",
    "floor": "FLOOR across problems",
    "CC-II": "CC - II",
    "CC-CI": "CC - CI",
    "CC-II_same_answer": "CC - II same answer",
    "II_same_answer-II_diff_answer": "II same - II other",
    "CC-floor": "CC - floor",
    "II-floor": "II - floor",
}
"""Cells and contrasts in words, in the order of tables."""


@dataclass(frozen=True)
class Cell:
    """Sums and numbers of pairs: by problem [P], or by ordered pair of problems [P, P]."""

    sums: Float[np.ndarray, ...]
    counts: Float[np.ndarray, ...]

    @property
    def means(self) -> Float[np.ndarray, ...]:
        """Mean cosine of each problem or pair of problems, NaN where there is no pair."""
        blank = np.full(self.sums.shape, np.nan)
        return np.divide(self.sums, self.counts, out=blank, where=self.counts > 0)


@dataclass(frozen=True)
class Estimate:
    """One cell or contrast in one space: its interval and what it rests on."""

    cell: str
    _: KW_ONLY
    weighting: str
    interval: Interval
    n_problems: int
    n_pairs: int


def within_masks(groups: Groups) -> dict[str, Bool[np.ndarray, " pairs"]]:
    """Return which of `groups.pairs` belong to each cell within problems."""
    i, j = groups.pairs
    right_i, right_j = groups.correct[i], groups.correct[j]
    answer_i, answer_j = groups.answer[i], groups.answer[j]
    wrong = ~right_i & ~right_j
    known = (answer_i != UNKNOWN) & (answer_j != UNKNOWN)
    return {
        "CC": right_i & right_j,
        "II": wrong,
        "CI": right_i != right_j,
        "II_same_answer": wrong & known & (answer_i == answer_j),
        "II_diff_answer": wrong & known & (answer_i != answer_j),
    }


def within_cells(grams: list[Float[np.ndarray, "n n"]], groups: Groups) -> dict[str, Cell]:
    """Return the cells within problems from each problem's cosines."""
    flat = [gram[upper_triangle(len(gram))] for gram in grams]
    cosines = np.concatenate(flat) if flat else np.empty(0)  # in the order of groups.pairs
    problem = groups.problem[groups.pairs[0]]

    def by_problem(mask: Bool[np.ndarray, " pairs"]) -> Cell:
        sums = np.bincount(problem[mask], cosines[mask], minlength=groups.n_problems)
        counts = np.bincount(problem[mask], minlength=groups.n_problems).astype(float)
        return Cell(sums, counts)

    return {name: by_problem(mask) for name, mask in within_masks(groups).items()}


def cross_counts(groups: Groups, space: Space) -> dict[str, Float[np.ndarray, "p p"]]:
    """Return the number of rollout pairs of each ordered pair of problems, by cell."""
    comparable = space.comparable
    correct = np.outer(groups.n_correct, groups.n_correct) * comparable
    same = (groups.gold[:, None] == groups.gold[None, :]) & (groups.gold != UNKNOWN)[:, None]
    return {
        "CC_cross": correct.astype(float),
        "CC_cross_same_answer": (correct * same).astype(float),
        "floor": (np.outer(groups.sizes, groups.sizes) * comparable).astype(float),
    }


def cross_cells(space: Space, groups: Groups) -> dict[str, Cell]:
    """Return the cells across problems."""
    counts, sums = cross_counts(groups, space), space.across()
    return {
        name: Cell(
            (sums.graded if name == "floor" else sums.correct) * (counts[name] > 0), counts[name]
        )
        for name in CROSS_CELLS
    }


def estimate_cells(
    within: dict[str, Cell], cross: dict[str, Cell], *, seed: int, label: str, n_boot: int
) -> Iterator[Estimate]:
    """Yield every cell and contrast of one space; empty ones are NaN over 0 problems.

    Args:
        within: `within_cells`.
        cross: `cross_cells`.
        seed: the run's seed.
        label: names the bootstrap draws, which all cells share.
        n_boot: bootstrap draws.
    """

    def mean(
        name: str, values: Float[np.ndarray, " p"], pairs: Float[np.ndarray, " p"]
    ) -> Estimate:
        has = np.isfinite(values)
        bounds = _COSINE if name in within else _GAP
        kept = np.clip(values[has], *bounds)
        interval = mean_interval(kept, seed=seed, label=label, n_boot=n_boot, bounds=bounds)
        return Estimate(
            name,
            weighting="problem",
            interval=interval,
            n_problems=int(has.sum()),
            n_pairs=int(pairs[has].sum()),
        )

    for name in WITHIN_CELLS:
        yield mean(name, within[name].means, within[name].counts)
    for one, other in CONTRASTS:
        a, b = within[one], within[other]
        yield mean(f"{one}-{other}", without_rounding(a.means - b.means), a.counts + b.counts)
    for name in CROSS_CELLS:
        weights = (cross[name].counts > 0).astype(float)
        found = pair_interval(
            np.nan_to_num(cross[name].means), weights,
            seed=seed, label=label, n_boot=n_boot, bounds=_COSINE,
        )  # fmt: skip
        n_pairs = int(cross[name].counts.sum() / 2)
        yield Estimate(
            name, weighting="problem", interval=found, n_problems=found.n_clusters, n_pairs=n_pairs
        )
    for name in FLOOR_CONTRASTS:
        yield _floor_contrast(
            name, within[name], floor=cross["floor"], seed=seed, label=label, n_boot=n_boot
        )
    yield from _pooled(within, cross["floor"], seed)


def _floor_contrast(
    name: str, cell: Cell, floor: Cell, seed: int, label: str, n_boot: int
) -> Estimate:
    """Return the mean over problems of (cell - the problem's mean cosine with all others).

    All problems take part in the floor of each, so the problems' differences are not independent:
    the interval is that of the pairwise kernel (cell_p - floor_pq), resampled like a floor. A
    plain mean's interval would be half as wide as it should be where the floor varies most.
    """
    has = np.isfinite(cell.means)[:, None] & (floor.counts > 0)  # [P, P]
    partners = np.maximum(has.sum(axis=1), 1)[:, None]
    weights = has / partners  # each problem with the cell has one vote
    gaps = np.where(has, without_rounding(cell.means[:, None] - floor.means), 0.0)
    interval = pair_interval(
        gaps * weights, weights, seed=seed, label=label, n_boot=n_boot, bounds=_GAP
    )
    problems = has.any(axis=1)
    n_pairs = int(cell.counts[problems].sum() + floor.counts[problems].sum())
    return Estimate(
        f"{name}-floor",
        weighting="problem",
        interval=interval,
        n_problems=int(problems.sum()),
        n_pairs=n_pairs,
    )


def without_rounding(gaps: Float[np.ndarray, ...]) -> Float[np.ndarray, ...]:
    """Return differences of cosines with those that come from arithmetic alone set to 0."""
    return np.where(np.abs(gaps) < _ROUNDING, 0.0, gaps)


def _pooled(within: dict[str, Cell], floor: Cell, seed: int) -> Iterator[Estimate]:
    """Yield the cells with every pair counted alike, and their unmatched difference."""

    def estimate(
        name: str, value: float, replicates: Float[np.ndarray, " p"], cells: list[Cell]
    ) -> Estimate:
        takes_part = np.any([cell.counts > 0 for cell in cells], axis=0)
        n = int(takes_part.sum())
        interval = jackknife_interval(value, replicates[takes_part], n_clusters=n, seed=seed)
        return Estimate(
            name,
            weighting="pair",
            interval=interval,
            n_problems=n,
            n_pairs=int(sum(cell.counts.sum() for cell in cells)),
        )

    pooled = {name: _pool(within[name]) for name in _POOLED}
    for name, (value, replicates) in pooled.items():
        yield estimate(name, value, replicates, [within[name]])
    (cc, cc_without), (ii, ii_without) = pooled["CC"], pooled["II"]
    yield estimate("CC-II", cc - ii, cc_without - ii_without, [within["CC"], within["II"]])
    # Each cross pair belongs to two problems: half its count to each, and it leaves with either.
    halves = Cell(floor.sums.sum(axis=1) / 2, floor.counts.sum(axis=1) / 2)
    value, replicates = _pool(halves, leaving=2)
    yield estimate("floor", value, replicates, [halves])


def _pool(cell: Cell, *, leaving: int = 1) -> tuple[float, Float[np.ndarray, " p"]]:
    """Return sum / count over all problems, and without each; NaN where nothing is left."""
    sums, counts = cell.sums.sum(), cell.counts.sum()
    value = float(sums / counts) if counts else float("nan")
    return value, Cell(sums - leaving * cell.sums, counts - leaving * cell.counts).means


def pair_cosines(
    states: Float[np.ndarray, "rows d"],
    rows: pd.DataFrame,
    space: SpaceName,
    max_pairs: int,
    seed: int,
) -> pd.DataFrame:
    """Return cosines of single pairs, for pictures of their distribution.

    Each problem (or pair of problems) gives at most its equal share of `max_pairs`, drawn by seed;
    where there are more problems (or pairs of problems) than `max_pairs`, that many of them are
    drawn. To weigh them as the table does, give each pair one over the number of rows with its
    cell and problems.

    Args:
        states: [rows, d], aligned with `rows`.
        rows: as for `group_rows`.
        space: "raw", "centred" or "whitened".
        max_pairs: most pairs a cell.
        seed: of the draws.

    Returns:
        cell, cosine, problem_id, other_problem_id; no rows where the space is refused (too few
        problems).
    """
    groups = group_rows(rows)
    made = build_space(space, states[groups.order], groups, seed=seed)
    columns = ["cell", "cosine", "problem_id", "other_problem_id"]
    if isinstance(made, Refusal):
        return pd.DataFrame({name: pd.Series(dtype=object) for name in columns})
    names = np.array(groups.problem_ids, dtype=object)
    parts = [pd.DataFrame(columns=columns)]
    i, j = groups.pairs
    drawn = {
        name: _draw_within(np.flatnonzero(mask), groups, max_pairs, derive_rng(seed, "pairs", name))
        for name, mask in within_masks(groups).items()
    }
    chosen = {name: (i[k], j[k]) for name, k in drawn.items()}
    for name, counts in cross_counts(groups, made).items():
        rng = derive_rng(seed, "pairs", name)
        chosen[name] = _draw_across(counts, groups, max_pairs, rng, correct=name != "floor")
    for name, (one, other) in chosen.items():
        if len(one):
            parts.append(
                pd.DataFrame(
                    {
                        "cell": name,
                        "cosine": made.cosines(one, other),
                        "problem_id": names[groups.problem[one]],
                        "other_problem_id": names[groups.problem[other]],
                    }
                )
            )
    return pd.concat(parts[1:] or parts, ignore_index=True)


def _draw_within(
    pairs: Int[np.ndarray, " k"], groups: Groups, most: int, rng: np.random.Generator
) -> Int[np.ndarray, " k"]:
    """Return at most `most` of these pairs, with no problem above its share."""
    problem = groups.problem[groups.pairs[0][pairs]]
    order = np.lexsort((rng.random(len(pairs)), problem))
    pairs, problem = pairs[order], problem[order]
    present, first = np.unique(problem, return_index=True)
    rank = np.arange(len(pairs)) - np.repeat(first, np.diff(np.append(first, len(pairs))))
    kept = rank < max(1, most // max(len(present), 1))
    if len(present) > most:
        kept &= np.isin(problem, rng.choice(present, most, replace=False))
    return np.sort(pairs[kept])


def _draw_across(
    counts: Float[np.ndarray, "p p"],
    groups: Groups,
    most: int,
    rng: np.random.Generator,
    *,
    correct: bool,
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Return at most `most` rollout pairs, shared evenly among the pairs of problems."""
    p, q = np.nonzero(np.triu(counts, 1))
    if len(p) > most:
        kept = np.sort(rng.choice(len(p), most, replace=False))
        p, q = p[kept], q[kept]
    sizes = groups.n_correct if correct else groups.sizes  # correct rollouts come first
    share = max(1, most // max(len(p), 1))
    ones, others = [np.empty(0, int)], [np.empty(0, int)]
    for a, b in zip(p, q, strict=True):
        total = int(sizes[a] * sizes[b])
        picked = rng.choice(total, min(share, total), replace=False)
        ones.append(groups.starts[a] + picked // sizes[b])
        others.append(groups.starts[b] + picked % sizes[b])
    return np.concatenate(ones), np.concatenate(others)
