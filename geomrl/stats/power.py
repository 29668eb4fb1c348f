"""What a two-sided t test could see: its power, and the smallest difference that it would find.

Source: Cohen 1988, "Statistical Power Analysis for the Behavioral Sciences", chapter 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats
from jaxtyping import Float

from geomrl.stats.distributions import t_quantile

LEVEL = 0.05
POWER = 0.8


def t_power(noncentrality: float, df: float, *, level: float = LEVEL) -> float:
    """Return the chance that a two-sided t test rejects: P(|T| > t_crit).

    T is noncentral t. It is taken as the mean over the chi-square quantiles of the estimated
    standard error, since SciPy's own noncentral t is NaN here and there.

    >>> round(t_power(0.0, 29), 3), round(t_power(2.8, 1000), 2)
    (0.05, 0.8)

    Args:
        noncentrality: the true difference over its true standard error.
        df: degrees of freedom of the estimated standard error.
        level: of the test.
    """
    ratio, weights = _error_ratios(df)
    critical = t_quantile(1 - level / 2, df) * ratio
    found = scipy.special.ndtr(noncentrality - critical)
    found += scipy.special.ndtr(-critical - noncentrality)
    return float(weights @ found / 2)


@lru_cache(maxsize=256)
def _error_ratios(df: float) -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    """Return quantiles of the estimated over the true standard error, and their weights."""
    nodes, weights = _gauss_legendre()
    return np.sqrt(scipy.stats.chi2.ppf((nodes + 1) / 2, df) / df), weights


@cache
def _gauss_legendre() -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    return np.polynomial.legendre.leggauss(400)


def detectable_effect(se: float, df: float, *, power: float = POWER, level: float = LEVEL) -> float:
    """Return the smallest true difference that a two-sided t test would find with this power.

    Args:
        se: standard error of the difference, taken for the true one.
        df: its degrees of freedom.
        power: the chance of finding the difference.
        level: of the test; for m comparisons under Holm, at worst 0.05 / m.

    Returns:
        The difference in the units of `se`; NaN with less than one degree of freedom or where `se`
        is not known.
    """
    if not df >= 1 or np.isnan(se):
        return float("nan")
    top = 2.0
    while t_power(top, df, level=level) < power:
        top *= 2.0

    def excess(noncentrality: float) -> float:
        return t_power(noncentrality, df, level=level) - power

    return float(scipy.optimize.brentq(excess, 0.0, top) * se)


def mean_of_means_error(
    strata: Sequence[Float[np.ndarray, " clusters"]],
) -> tuple[float, float]:
    """Return the standard error of an unweighted mean of strata's means, and its degrees of freedom.

    The variance is v = sum_b s_b^2 / (n_b B^2), its degrees of freedom are Welch and Satterthwaite's,
    v^2 / sum_b v_b^2 / (n_b - 1) (Satterthwaite 1946, Biometrics Bulletin 2). One stratum has n - 1.

    >>> mean_of_means_error([np.array([0.0, 1.0, 2.0])])[1]
    2.0

    Args:
        strata: one value a cluster (problem), by stratum (benchmark).

    Returns:
        Both NaN where a stratum has fewer than two clusters; NaN degrees of freedom where no
        stratum has any spread.
    """
    if any(len(part) < 2 for part in strata):
        return float("nan"), float("nan")
    b = len(strata)
    own = [float(np.var(part, ddof=1)) / (len(part) * b * b) for part in strata]
    total = sum(own)
    below = sum(v * v / (len(part) - 1) for v, part in zip(own, strata, strict=True))
    return float(np.sqrt(total)), total * total / below if below else float("nan")
