"""One problem's residual share: how far its correct rollouts scatter, beside all variance there is.

On un-normalised states, and from the same number of correct rollouts of every problem: a problem has
many correct rollouts where it is easy, and an estimate from few is not only noisier but also mostly too
low (its law is skewed), so that ranks of estimates from all rollouts would go with difficulty. One draw of
so many rollouts wastes the others and leaves the result to the draw's luck; the mean over draws does
neither, and each draw has the equal number (within-cluster resampling: Hoffman, Sen and Weinberg 2001,
Biometrika 88; Follmann, Proschan and Leifer 2003, Biometrics 59).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from geomrl.errors import GeomrlError
from geomrl.seeds import derive_rng
from geomrl.stats.partial import PartialCorrelation, correlation_interval, partial_spearman

_ROUNDING = 1e-12  # a variance below this share of the mean squared norm is float32's rounding
N_CORRECT = 4
"""Correct rollouts of each problem in a draw; those with twice as many give its reliability."""


N_DRAWS = 200
"""Draws of so many correct rollouts, over which a share's rank is averaged."""


@dataclass(frozen=True, kw_only=True)
class ProblemShares:
    """Residual shares of the P problems that have enough correct rollouts, in D draws of k.

    Attributes:
        problems: their names, sorted.
        draws: [D, P] variance within the problem over `total`, from k correct rollouts.
        others: [D, P] the same from k others of them, NaN where a problem has fewer than 2k.
        n_correct: [P] correct rollouts that were drawn from.
        total: trace of the variance within problems (mean) plus between them (unbiased).
        k: correct rollouts behind each number.
        n_left_out: problems with fewer than k correct rollouts, but at least one.
        seed: of the draws.
    """

    problems: tuple[str, ...]
    draws: Float[np.ndarray, "d p"]
    others: Float[np.ndarray, "d p"]
    n_correct: Int[np.ndarray, " p"]
    total: float
    k: int
    n_left_out: int
    seed: int

    @property
    def share(self) -> Float[np.ndarray, " p"]:
        """Each problem's share, the mean over draws; their mean is the within-group share."""
        return self.draws.mean(axis=0)

    @property
    def rank(self) -> Float[np.ndarray, " p"]:
        """Each problem's rank among all, from 1, the mean over draws: what correlations are taken of.

        Its expectation is that of one draw, whatever the number of correct rollouts.
        """
        from scipy.stats import rankdata

        return rankdata(self.draws, axis=1).mean(axis=0)


def problem_shares(
    states: Float[np.ndarray, "n d"],
    problems: Sequence[str],
    rollouts: Sequence[str],
    *,
    k: int = N_CORRECT,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> ProblemShares:
    """Return each problem's residual share from exactly k of its correct rollouts, in many draws.

    s_p = trace of the problem's covariance (divisor k - 1) over T = MSW + (MSB - MSW) / k, with MSW the
    mean of these traces and MSB the mean square between problems: the parts of one-way random
    effects on traces, as in `spectrum.residual_share`, which at equal k is the mean of s_p. T is one
    number for all problems (the mean over draws), so that they are ordered by their variance within.

    A problem's draws depend on its name, its rollouts' ids and the seed, not on other problems.

    Args:
        states: un-normalised states of correct rollouts at one layer and anchor.
        problems: each row's problem.
        rollouts: each row's rollout id, unique.
        k: correct rollouts a problem.
        n_draws: draws of k.
        seed: of the draws.

    Raises:
        GeomrlError: k is below 2, fewer than two problems have k correct rollouts, or all states
            are equal.
    """
    if k < 2:
        raise GeomrlError(f"k = {k}: a variance needs two correct rollouts of each problem or more")
    rows = _rows_by_problem(problems, rollouts)
    enough = [name for name, own in rows.items() if len(own) >= k]
    if len(enough) < 2:
        raise GeomrlError(
            f"{len(enough)} of {len(rows)} problems have {k} correct rollouts, and shares of variance "
            "need two such problems: sample more rollouts a problem, or take easier problems"
        )
    x = np.asarray(states, dtype=float)
    x = x - x.mean(axis=0)  # variances are blind to a shift; sums of squares are not
    within, others = np.full((2, n_draws, len(enough)), np.nan)
    means = np.empty((n_draws, len(enough), x.shape[1]))
    for p, name in enumerate(enough):
        repeated = np.tile(rows[name], (n_draws, 1))
        order = derive_rng(seed, "residual share", name).permuted(repeated, axis=1)  # [D, own]
        within[:, p], means[:, p] = _traces(x[order[:, :k]]), x[order[:, :k]].mean(axis=1)
        if order.shape[1] >= 2 * k:
            others[:, p] = _traces(x[order[:, k : 2 * k]])
    msw = within.mean(axis=1)
    total = float((msw + (k * _traces(means) - msw) / k).mean())
    if total <= _ROUNDING * float(np.mean(np.square(states).sum(axis=1))):
        raise GeomrlError(
            "all states are equal here, so there is no variance to have a share of: take a later "
            "layer or another anchor"
        )
    return ProblemShares(
        problems=tuple(enough),
        draws=within / total,
        others=others / total,
        n_correct=np.array([len(rows[n]) for n in enough]),
        total=total,
        k=k,
        n_left_out=len(rows) - len(enough),
        seed=seed,
    )


def share_reliability(shares: ProblemShares) -> tuple[PartialCorrelation, float]:
    """Return the rank correlation of shares from disjoint rollouts, and how much more there is.

    The correlation is that of k rollouts with k others, the mean over draws, of problems with 2k
    correct ones; the factor is the mean number of correct rollouts of all problems over k.
    """
    twice = np.isfinite(shares.others).all(axis=0)
    each = [
        partial_spearman(one[twice], other[twice]).value
        for one, other in zip(shares.draws, shares.others, strict=True)
    ]
    found = correlation_interval(float(np.mean(each)), int(twice.sum()))
    return found, float(shares.n_correct.mean() / shares.k)


def _traces(x: Float[np.ndarray, "draws n d"]) -> Float[np.ndarray, " draws"]:
    """Return the trace of the unbiased covariance of each draw's rows."""
    return np.var(x, axis=1, ddof=1).sum(axis=1)


def _rows_by_problem(
    problems: Sequence[str], rollouts: Sequence[str]
) -> dict[str, Int[np.ndarray, " own"]]:
    """Return each problem's rows, problems and their rollouts sorted by name."""
    rows: dict[str, list[int]] = {}
    for index in sorted(range(len(rollouts)), key=lambda i: rollouts[i]):
        rows.setdefault(problems[index], []).append(index)
    return {name: np.array(rows[name]) for name in sorted(rows)}
