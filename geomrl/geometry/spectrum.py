"""How states spread: within-group share of variance, effective rank, participation ratio.

All on un-normalised states: on unit vectors "residual variance" is 1 - CC, which an alignment loss
minimises directly, so it cannot serve as evidence about that loss's premise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Bool, Float, Int

from geomrl.geometry.groups import CANCELS, Groups, group_sums
from geomrl.stats.intervals import Interval, jackknife_interval

JACKKNIFE_GROUPS = 20
"""Most groups of problems that the jackknife of a spectrum leaves out in turn."""

Spectrum = Float[np.ndarray, " k"]
_MANY = 2**17  # numbers of which spectra without a group come from one Gram matrix
_ROUNDING = 1e-6  # a spread this small beside the states is float32 rounding


def residual_share(
    states: Float[np.ndarray, "n d"], groups: Groups, chosen: Bool[np.ndarray, " n"]
) -> Interval:
    """Return the share of the states' total variance that lies within problems.

    One-way random effects on traces: MSW estimates the variance within problems, (MSB - MSW) / n0
    that between them, and the share is within / (within + between); both parts are unbiased
    (Searle, Casella and McCulloch 1992, section 3.6). It may exceed 1 by chance where problems
    do not differ. The jackknife-t interval leaves out one problem at a time.

    Args:
        states: [N, d], un-normalised, in the groups' order.
        groups: who is who.
        chosen: rows that take part (correct ones, wrong ones, all).
    """
    return residual_shares(states, groups, [chosen])[0]


def residual_shares(
    states: Float[np.ndarray, "n d"], groups: Groups, chosen: Sequence[Bool[np.ndarray, " n"]]
) -> list[Interval]:
    """Return `residual_share` of several choices of rows."""
    taken = np.logical_or.reduce(chosen)
    if not taken.any():
        return [jackknife_interval(np.nan, np.empty(0), n_clusters=0) for _ in chosen]
    # Variances are blind to a shift; sums of squares are not.
    x = states - states[taken].mean(axis=0, dtype=float)
    lengths = np.einsum("nd,nd->n", x, x)
    return [_residual_share(x, lengths, groups, rows) for rows in chosen]


def _residual_share(
    x: Float[np.ndarray, "n d"],
    lengths: Float[np.ndarray, " n"],
    groups: Groups,
    chosen: Bool[np.ndarray, " n"],
) -> Interval:
    """Return the share of some rows; `lengths` are the squared lengths of all."""
    counts = np.bincount(groups.problem[chosen], minlength=groups.n_problems)
    present = counts > 0
    n_problems = int(present.sum())
    if not n_problems:
        return jackknife_interval(np.nan, np.empty(0), n_clusters=0)
    sizes = counts[present].astype(float)  # [P]
    sums = groups.sums(x, chosen)[present]  # [P, d]
    shift = sums.sum(axis=0) / sizes.sum()  # to the mean of the rows chosen
    squares = group_sums((lengths * chosen)[:, None], groups.starts)[present, 0]
    squares = squares - 2.0 * sums @ shift + sizes * (shift @ shift)  # [P], sum of |x|^2
    sums = sums - sizes[:, None] * shift
    raised = np.einsum("pd,pd->p", sums, sums) / sizes  # [P], size * |mean|^2
    total = sums.sum(axis=0)
    within = squares - raised  # [P], sum of squares around the problem's own mean
    between = raised.sum() - total @ total / sizes.sum()
    value = _share(
        within.sum(), between, n=sizes.sum(), n_squares=(sizes**2).sum(), n_problems=n_problems
    )
    others, rest = sizes.sum() - sizes, total - sums  # without each problem: [P], [P, d]
    with np.errstate(invalid="ignore", divide="ignore"):
        between = raised.sum() - raised - np.einsum("pd,pd->p", rest, rest) / others
        replicates = _share(
            within.sum() - within,
            between,
            n=others,
            n_squares=(sizes**2).sum() - sizes**2,
            n_problems=n_problems - 1,
        )
    return jackknife_interval(float(value), replicates, n_clusters=n_problems)


def _share(within: Any, between: Any, n: Any, n_squares: Any, n_problems: int) -> Any:
    """Return the within share from sums of squares, NaN where a variance has no freedom.

    Args:
        within, between: sums of squares.
        n: number of states.
        n_squares: sum over problems of their squared numbers of states.
        n_problems: number of problems.
    """
    free = n - n_problems
    ok = (free > 0) & (n_problems > 1)
    msw = within / np.where(ok, free, 1)
    msb = between / max(n_problems - 1, 1)
    n0 = (n - n_squares / n) / max(n_problems - 1, 1)
    total = msw + (msb - msw) / np.where(ok, n0, 1)
    return np.where(ok & (total > 0), msw / np.where(total > 0, total, 1), np.nan)


def matched_spectra(
    states: Float[np.ndarray, "n d"], groups: Groups, *, seed: int
) -> tuple[dict[tuple[str, str], Interval], int]:
    """Return effective rank and participation ratio of correct and of wrong states, at equal n.

    Both grow with the number of states, so each problem that has both gives one correct and one
    wrong state, drawn by seed; states are centred on their own mean. Even so they measure the
    spread of n states, not of the distribution: compare C with I, not with other runs of another
    n. Jackknife-t intervals leave out one of at most 20 groups of problems in turn.

    Args:
        states: [N, d], un-normalised, in the groups' order.
        groups: who is who.
        seed: of the states drawn and the jackknife's groups.

    Returns:
        By (measure, cell), cell "C" or "I"; and the number of problems.
    """
    both = np.flatnonzero((groups.n_correct > 0) & (groups.n_correct < groups.sizes))
    right, all_ = groups.n_correct[both], groups.sizes[both]
    pick = groups.draw(seed, "spectrum")[both]
    first = groups.starts[:-1][both]  # correct rollouts come first
    rows = {
        "C": first + (pick * right).astype(int),
        "I": first + right + (pick * (all_ - right)).astype(int),
    }
    rank = np.argsort(np.argsort(groups.draw(seed, "spectrum groups")[both]))
    left_out = rank % JACKKNIFE_GROUPS
    found = {}
    for cell, chosen in rows.items():
        n_groups = min(JACKKNIFE_GROUPS, len(both))
        whole, *parts = spectra_without(states[chosen].astype(float), left_out, n_groups)
        for measure, of in MEASURES.items():
            found[measure, cell] = jackknife_interval(
                of(whole), np.array([of(part) for part in parts]), n_clusters=len(both)
            )
    return found, len(both)


def spectra_without(
    x: Float[np.ndarray, "n d"], group: Int[np.ndarray, " n"], n_groups: int
) -> list[Spectrum]:
    """Return the singular values of the centred states, then of those without each group.

    Of many states that are wider still one Gram matrix serves all, centred anew. It differs from
    single ones in the eighth digit of an effective rank, as they do from the exact value: the root
    of a zero eigenvalue's rounding.
    """
    kept = [np.flatnonzero(group != g) for g in range(n_groups)]
    if len(x) >= x.shape[1] or x.size < _MANY:
        return [singular_values(x), *(singular_values(x[rows]) for rows in kept)]
    away = x - x.mean(axis=0)
    gram = away @ away.T

    def of(rows: Int[np.ndarray, " m"]) -> Spectrum:
        part = gram[np.ix_(rows, rows)]
        means = part.mean(axis=0)
        part = part - means - means[:, None] + means.mean()
        # A state's longest coordinate is at least its length over sqrt(d): mostly that suffices.
        least = np.sqrt(max(np.diag(part).max(), 0.0) / x.shape[1])
        small = np.trace(part) <= CANCELS * np.trace(gram)
        if small or least <= 2 * _ROUNDING * np.abs(x).max():
            return singular_values(x[rows])
        return np.sqrt(np.maximum(np.linalg.eigvalsh(part), 0.0))

    return [of(rows) for rows in (np.arange(len(x)), *kept)]


def singular_values(x: Float[np.ndarray, "n d"]) -> Spectrum:
    """Return the singular values of the centred states, none where they are all equal."""
    if len(x) < 2:
        return np.empty(0)
    centred = x - x.mean(axis=0)
    if np.abs(centred).max() <= _ROUNDING * np.abs(x).max():
        return np.empty(0)
    # The smaller Gram matrix: squaring loses only values below 1e-8 of the largest.
    gram = centred @ centred.T if len(x) < x.shape[1] else centred.T @ centred
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0.0))


def effective_rank(singular_values: Spectrum) -> float:
    """Return exp(entropy of the singular values as shares of their sum); NaN without any.

    The definition of Roy and Vetterli 2007 (EUSIPCO), on singular values, not their squares. It
    lies between 1 and the number of non-zero values.

    >>> effective_rank(np.array([2.0, 2.0, 0.0]))
    2.0
    """
    if not singular_values.size:
        return float("nan")
    return float(np.exp(scipy.special.entr(singular_values / singular_values.sum()).sum()))


def participation_ratio(singular_values: Spectrum) -> float:
    """Return (sum of variances)^2 / sum of squared variances; NaN without any.

    A variance is a singular value squared. It lies between 1 and the number of non-zero values.

    >>> participation_ratio(np.array([1.0, 1.0, 1.0, 0.0]))
    3.0
    """
    if not singular_values.size:
        return float("nan")
    variances = singular_values**2
    return float(variances.sum() ** 2 / (variances**2).sum())


MEASURES = {"effective_rank": effective_rank, "participation_ratio": participation_ratio}
