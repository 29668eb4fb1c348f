"""One problem's residual share: how far its correct rollouts scatter, beside all variance there is.

On un-normalised states, and from the same number of correct rollouts of every problem: the estimate is
unbiased at any number, but noisier at a small one, and a problem has many correct rollouts where it is
easy. Without the equal number, how reliably the share is measured would go with difficulty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from geomrl.errors import GeomrlError
from geomrl.seeds import derive_rng

_ROUNDING = 1e-12  # a variance below this share of the mean squared norm is float32's rounding
N_CORRECT = 4
"""Correct rollouts of each problem that a share rests on; twice as many give its reliability."""


@dataclass(frozen=True)
class ProblemShares:
    """Residual shares of the problems that have enough correct rollouts.

    Attributes:
        problems: the P problems, sorted.
        share: [P] variance within the problem over `total`; their mean is the within-group share.
        other: [P] the same from k further correct rollouts, NaN where there are fewer than 2k.
        total: trace of the variance within problems (mean) plus between them (unbiased).
        k: correct rollouts behind each share.
        n_left_out: problems with fewer than k correct rollouts, but at least one.
        seed: of the draws.
    """

    problems: tuple[str, ...]
    share: Float[np.ndarray, " p"]
    other: Float[np.ndarray, " p"]
    total: float
    k: int
    n_left_out: int
    seed: int


def problem_shares(
    states: Float[np.ndarray, "n d"],
    problems: Sequence[str],
    rollouts: Sequence[str],
    *,
    k: int = N_CORRECT,
    seed: int = 0,
) -> ProblemShares:
    """Return each problem's residual share from exactly k of its correct rollouts, drawn by seed.

    s_p = trace of the problem's covariance (divisor k - 1) over T = MSW + (MSB - MSW) / k, with MSW the
    mean of these traces and MSB the mean square between problems: the parts of one-way random
    effects on traces, as in `spectrum.residual_share`, which at equal k is the mean of s_p. T is one
    number for all problems, so that problems are ordered by their variance within.

    A problem's draw depends on its name, its rollouts' ids and the seed, not on other problems.

    Args:
        states: un-normalised states of correct rollouts at one layer and anchor.
        problems: each row's problem.
        rollouts: each row's rollout id, unique.
        k: correct rollouts a problem.
        seed: of the draws.

    Raises:
        GeomrlError: k is below 2, or fewer than two problems have k correct rollouts.
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
    drawn = {n: derive_rng(seed, "residual share", n).permutation(rows[n]) for n in enough}
    means = np.stack([x[own[:k]].mean(axis=0) for own in drawn.values()])  # [P, d]
    within = np.array([_trace(x[own[:k]]) for own in drawn.values()])
    msw = within.mean()
    total = float(msw + (k * _trace(means) - msw) / k)
    if total <= _ROUNDING * float(np.mean(np.square(states).sum(axis=1))):
        raise GeomrlError(
            "all states are equal here, so there is no variance to have a share of: take a later "
            "layer or another anchor"
        )
    other = np.array(
        [_trace(x[own[k : 2 * k]]) if len(own) >= 2 * k else np.nan for own in drawn.values()]
    )
    return ProblemShares(
        tuple(enough), within / total, other / total, total, k, len(rows) - len(enough), seed
    )


def _trace(x: Float[np.ndarray, "n d"]) -> float:
    """Return the trace of the unbiased covariance of rows."""
    return float(np.var(x, axis=0, ddof=1).sum())


def _rows_by_problem(
    problems: Sequence[str], rollouts: Sequence[str]
) -> dict[str, Int[np.ndarray, " own"]]:
    """Return each problem's rows, problems and their rollouts sorted by name."""
    rows: dict[str, list[int]] = {}
    for index in sorted(range(len(rollouts)), key=lambda i: rollouts[i]):
        rows.setdefault(problems[index], []).append(index)
    return {name: np.array(rows[name]) for name in sorted(rows)}
