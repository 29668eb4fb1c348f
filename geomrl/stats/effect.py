"""An effect: a mean change with its interval, standard error and t test."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace

import numpy as np
from jaxtyping import Float

from geomrl.stats.distributions import t_quantile, t_tail
from geomrl.stats.intervals import Interval, jackknife_interval, mean_interval

N_BOOT = 1000
_ZERO = 1e-12
_REACH = 0.975


@dataclass(frozen=True)
class Effect:
    """A change from base to RL: 95 % interval over problems and two-sided p of "no change".

    `se` and `df` belong to the t test behind `p`. An effect that is exactly 0 for every problem has
    p = 1; one that cannot be estimated is NaN throughout, with `n_problems` what there was.
    """

    value: float
    low: float
    high: float
    _: KW_ONLY
    p: float
    se: float
    df: int
    n_problems: int

    def p_above(self, bound: float) -> float:
        """Return the one-sided p of "the effect is at most `bound`"."""
        if not np.isfinite(self.value) or self.df < 1:
            return float("nan")
        if self.se <= _ZERO:
            return 0.0 if self.value > bound + _ZERO else 1.0
        return t_tail((self.value - bound) / self.se, self.df)

    def p_below(self, bound: float) -> float:
        """Return the one-sided p of "the effect is at least `bound`"."""
        return replace(self, value=-self.value).p_above(-bound)

    def reach(self, level: float) -> float:
        """Return how far the one-sided confidence bound of this level lies from the value."""
        if not np.isfinite(self.se) or self.df < 1:
            return float("nan")
        return t_quantile(1 - level, self.df) * self.se


def unknown(value: float = float("nan"), n_problems: int = 0) -> Effect:
    """Return an effect without interval or test."""
    nan = float("nan")
    return Effect(value=value, low=nan, high=nan, p=nan, se=nan, df=0, n_problems=n_problems)


def _exact(value: float, df: int, n_problems: int) -> Effect:
    """Return an effect that is the same for every problem: its interval is the value."""
    value = 0.0 if abs(value) <= _ZERO else value
    return Effect(
        value=value,
        low=value,
        high=value,
        p=float(value == 0),
        se=0.0,
        df=df,
        n_problems=n_problems,
    )


def mean_effect(
    changes: Float[np.ndarray, " problems"],
    *,
    seed: int,
    label: str,
    n_boot: int = N_BOOT,
    bounds: tuple[float, float] | None = None,
) -> Effect:
    """Return the mean of one change a problem: paired t test, bootstrap-t interval.

    Args:
        changes: NaN where a problem lacks what is needed.
        seed: the run's seed.
        label: names the bootstrap's draws.
        n_boot: bootstrap draws.
        bounds: limits that the changes cannot leave, as in `mean_interval`.
    """
    known = changes[np.isfinite(changes)]
    n = len(known)
    if n < 2:
        return unknown(float(known.mean()) if n else float("nan"), n)
    value = float(known.mean())
    se = float(known.std(ddof=1) / np.sqrt(n))
    if se <= _ZERO:
        return _exact(value, n - 1, n)
    found = mean_interval(known, seed=seed, label=label, n_boot=n_boot, bounds=bounds)
    p = 2 * t_tail(abs(value) / se, n - 1)
    return Effect(value, found.low, found.high, p=p, se=se, df=n - 1, n_problems=n)


def jackknife_effect(
    value: float, replicates: Float[np.ndarray, " groups"], n_problems: int
) -> Effect:
    """Return a statistic of all problems with its jackknife-t interval and test.

    Args:
        value: the statistic.
        replicates: the statistic without each group of problems in turn.
        n_problems: problems behind it.
    """
    found: Interval = jackknife_interval(value, replicates, n_clusters=n_problems)
    if not np.isfinite(value) or not np.isfinite(replicates).all() or len(replicates) < 2:
        return unknown(value, n_problems)
    df = len(replicates) - 1
    if not np.isfinite(found.low):  # all replicates are equal
        return _exact(value, df, n_problems)
    se = (found.high - found.low) / 2 / t_quantile(_REACH, df)
    p = 2 * t_tail(abs(value) / se, df)
    return Effect(value, found.low, found.high, p=p, se=se, df=df, n_problems=n_problems)
