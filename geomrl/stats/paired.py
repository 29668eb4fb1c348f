"""Differences between two treatments over a few seeds: t intervals, tests, and what they could see.

The seed is the unit: each gives one difference, and five of them are too few for a bootstrap.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np
from jaxtyping import Float

from geomrl.stats.distributions import t_quantile, t_tail
from geomrl.stats.power import detectable_effect

_LEVEL = 0.05
_ZERO = 1e-12  # spreads below this share of the differences' scale are rounding


@dataclass(frozen=True)
class PairedDifference:
    """A mean difference with its 95 % t interval and two-sided p.

    `sd` is that of the differences. `low`, `high`, `sd` and `p` are NaN where fewer than two seeds
    are known; `low`, `high` and `p` also where all differences are equal: no spread, no test.
    """

    value: float
    low: float
    high: float
    _: KW_ONLY
    sd: float
    p: float
    n: int

    @property
    def detectable(self) -> float:
        """The smallest true difference that a test at 5 % finds with 80 % power.

        The seen spread is taken for the true one. NaN without a spread: then it is not known, not 0.
        """
        return detectable_difference(self.sd or np.nan, self.n)


def paired_difference(differences: Float[np.ndarray, " seeds"]) -> PairedDifference:
    """Return the mean of one difference a seed, with Student's t interval and paired t test.

    Args:
        differences: treatment minus reference, by seed; NaN where either is missing.

    >>> found = paired_difference(np.array([0.02, 0.05, 0.03, 0.04, 0.01]))
    >>> round(found.value, 3), round(found.low, 4), round(found.high, 4)
    (0.03, 0.0104, 0.0496)
    """
    known = np.asarray(differences, dtype=float)
    known = known[~np.isnan(known)]
    n = len(known)
    value = float(known.mean()) if n else np.nan
    if n < 2:
        return PairedDifference(value, np.nan, np.nan, sd=np.nan, p=np.nan, n=n)
    sd = float(known.std(ddof=1))
    if sd <= _ZERO * max(float(np.abs(known).max()), 1e-300):
        return PairedDifference(value, np.nan, np.nan, sd=0.0, p=np.nan, n=n)
    se = sd / np.sqrt(n)
    reach = float(t_quantile(1 - _LEVEL / 2, n - 1) * se)
    p = 2 * t_tail(abs(value) / se, n - 1)
    return PairedDifference(value, value - reach, value + reach, sd=sd, p=p, n=n)


def detectable_difference(sd: float, n: int, *, power: float = 0.8, level: float = _LEVEL) -> float:
    """Return the smallest true mean difference that a paired t test would find with this power.

    Solves for d: P(|T| > t_crit) = power, T noncentral t with n-1 degrees of freedom and
    noncentrality d sqrt(n) / sd. Source: Cohen 1988, "Statistical Power Analysis for the
    Behavioral Sciences", chapter 2. `sd` is taken for the true one; as an estimate from five seeds
    it may be 40 % too small or three times too large (chi-square interval), so this is a rough
    figure.

    Args:
        sd: standard deviation of the paired differences.
        n: number of pairs.
        power: the chance of finding it.
        level: of the two-sided test; for m comparisons under Holm, at worst 0.05 / m.

    Returns:
        The difference, in the units of `sd`; NaN with fewer than two pairs or an unknown sd.

    >>> round(detectable_difference(1.0, 5), 2), round(detectable_difference(1.0, 100), 2)
    (1.68, 0.28)
    """
    if n < 2:
        return float("nan")
    return detectable_effect(sd / np.sqrt(n), n - 1, power=power, level=level)
