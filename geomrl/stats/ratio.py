"""The ratio of two means over the same clusters, with Fieller's interval."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from geomrl.stats.distributions import t_quantile
from geomrl.stats.intervals import Interval

_UNBOUNDED = "the denominator is not told apart from 0, so the ratio has no bounded interval"
_TOO_FEW = "fewer than three clusters"


def ratio_of_means(
    numerator: Float[np.ndarray, " clusters"], denominator: Float[np.ndarray, " clusters"]
) -> Interval:
    """Return mean(numerator) / mean(denominator) with its 95 % interval.

    Fieller's interval: all r for which the mean of numerator - r * denominator is not told apart
    from 0 by Student's t test. It is bounded only where the denominator's mean itself is told apart
    from 0; elsewhere `low` and `high` are NaN, as no honest interval exists. Source: Fieller 1954,
    Journal of the Royal Statistical Society B 16.

    Args:
        numerator: one value a cluster (problem).
        denominator: one value a cluster, in the same order.

    Returns:
        The interval; `n_boot` and `seed` are 0, nothing is drawn.

    >>> found = ratio_of_means(np.array([1.0, 2.0, 3.0, 2.0]), np.array([2.0, 4.0, 5.0, 5.0]))
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (0.5, 0.304, 0.696)
    """
    a, b = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    n = len(a)
    value = float(a.mean() / b.mean()) if n and b.mean() != 0 else float("nan")
    if n < 3:
        return Interval.missing(value, n, 0, _TOO_FEW)
    cov = np.cov(np.stack([a, b])) / n
    t2 = t_quantile(0.975, n - 1) ** 2
    # (mean_a - r mean_b)^2 <= t^2 (v_aa - 2 r v_ab + r^2 v_bb), a quadratic in r.
    square = b.mean() ** 2 - t2 * cov[1, 1]
    if square <= 0:
        return Interval.missing(value, n, 0, _UNBOUNDED)
    half = a.mean() * b.mean() - t2 * cov[0, 1]
    constant = a.mean() ** 2 - t2 * cov[0, 0]
    reach = float(np.sqrt(max(half**2 - square * constant, 0.0)))
    return Interval(
        value,
        float((half - reach) / square),
        float((half + reach) / square),
        n_clusters=n,
        n_boot=0,
        seed=0,
    )
