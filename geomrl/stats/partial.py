"""Rank correlation of two quantities with others held fixed, and what it could have seen.

Ranks, not values: a share of variance and an accuracy are bounded, skewed, and bend towards each
other. A covariate that is measured with error is only partly held fixed: what it should have taken
away stays in the partial correlation (Cochran 1970). `corrected_partial` says how much that is, for one
covariate of known reliability.

Sources: Fieller, Hartley and Pearson 1957, Biometrika 44 (variance of Fisher's z for ranks); Bonett
and Wright 2000, Psychometrika 65 (the same, growing with the correlation); Fisher 1924, Metron 3
(each covariate costs one degree of freedom).
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np
import scipy.optimize
import scipy.stats
from jaxtyping import Float

from geomrl.errors import GeomrlError
from geomrl.stats.power import LEVEL, POWER

_ROUNDING = 1e-9  # residual spreads below this share of the ranks' own are arithmetic


@dataclass(frozen=True)
class PartialCorrelation:
    """A rank correlation with its 95 % interval, two-sided p, and what it could have seen.

    `detectable` is the smallest true correlation, of either sign, that a test at 5 % finds with 80 %
    power at this n. All numbers but `n` and `detectable` are NaN where a quantity does not vary once
    the covariates are held fixed, and also `detectable` where n is too small for a test.
    """

    value: float
    low: float
    high: float
    _: KW_ONLY
    p: float
    n: int
    n_covariates: int
    detectable: float


def partial_spearman(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    covariates: Float[np.ndarray, "n c"] | None = None,
) -> PartialCorrelation:
    """Return Spearman's correlation of x and y with the covariates' ranks held fixed.

    All columns are ranked (ties share their mean rank); x and y are reduced to residuals of a linear
    regression on the covariates' ranks, and these are correlated. The interval is Fisher's z with
    variance (1 + r^2 / 2) / (n - c - 3); p is that of Student's t with n - c - 2 degrees of freedom.
    Without covariates it is Spearman's correlation.

    >>> found = partial_spearman(np.arange(20.0), np.arange(20.0) ** 2)
    >>> round(found.value, 3), found.n
    (1.0, 20)

    Args:
        x, y: one value a problem, finite.
        covariates: one column each; None for none.

    Raises:
        GeomrlError: lengths differ, or a value is not finite.
    """
    columns = [np.asarray(x, float), np.asarray(y, float)]
    columns += [] if covariates is None else list(np.asarray(covariates, float).T)
    if len({len(column) for column in columns}) != 1:
        raise GeomrlError(
            f"columns of {[len(c) for c in columns]} values: give one value of each for every problem"
        )
    if not np.isfinite(columns).all():
        raise GeomrlError(
            "a value is not finite: leave out the problems that lack one before correlating"
        )
    n, c = len(x), len(columns) - 2
    value = _residual_correlation(np.array([scipy.stats.rankdata(column) for column in columns]))
    return correlation_interval(value, n, c)


def correlation_interval(value: float, n: int, n_covariates: int = 0) -> PartialCorrelation:
    """Return a (partial) rank correlation with the interval and p that n problems give it."""
    detectable = detectable_correlation(n, n_covariates)
    if n - n_covariates < 4 or np.isnan(value):
        return PartialCorrelation(
            value, np.nan, np.nan, p=np.nan, n=n, n_covariates=n_covariates, detectable=detectable
        )
    inside = float(np.clip(value, -1 + 1e-12, 1 - 1e-12))
    reach = scipy.stats.norm.ppf(1 - LEVEL / 2) * _z_error(inside, n, n_covariates)
    low, high = np.tanh([np.arctanh(inside) - reach, np.arctanh(inside) + reach])
    free = n - n_covariates - 2
    p = float(2 * scipy.stats.t.sf(abs(inside) * np.sqrt(free / (1 - inside**2)), free))
    return PartialCorrelation(
        value, float(low), float(high), p=p, n=n, n_covariates=n_covariates, detectable=detectable
    )


def _residual_correlation(ranks: Float[np.ndarray, "columns n"]) -> float:
    """Return the correlation of the first two rows given the others, NaN without spread."""
    if ranks.shape[1] < 2:
        return float("nan")
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    pair, held = centred[:2], centred[2:]
    if len(held):
        weights, *_ = np.linalg.lstsq(held.T, pair.T, rcond=None)
        pair = pair - weights.T @ held
    spreads = np.linalg.norm(pair, axis=1)
    if (spreads <= _ROUNDING * np.maximum(np.linalg.norm(centred[:2], axis=1), 1.0)).any():
        return float("nan")
    return float(np.clip(pair[0] @ pair[1] / spreads.prod(), -1.0, 1.0))


def _z_error(r: float, n: int, n_covariates: int) -> float:
    """Return the standard error of Fisher's z of a partial rank correlation."""
    return float(np.sqrt((1 + r * r / 2) / (n - n_covariates - 3)))


def detectable_correlation(
    n: int, n_covariates: int = 0, *, power: float = POWER, level: float = LEVEL
) -> float:
    """Return the smallest true rank correlation that the test of `partial_spearman` would find.

    The z that is exceeded by chance with probability `level`, on both sides, lies `power`'s quantile
    below the true one. NaN where n - c is below 4.

    >>> round(detectable_correlation(100), 2), round(detectable_correlation(100, 1), 2)
    (0.28, 0.28)
    """
    if n - n_covariates < 4:
        return float("nan")
    critical = scipy.stats.norm.ppf(1 - level / 2) * _z_error(0.0, n, n_covariates)
    quantile = scipy.stats.norm.ppf(power)

    def excess(z: float) -> float:
        return float(z - critical - quantile * _z_error(float(np.tanh(z)), n, n_covariates))

    return float(np.tanh(scipy.optimize.brentq(excess, 0.0, 20.0)))


def spearman_brown(reliability: float, times: float = 2.0) -> float:
    """Return the reliability of a measurement that is `times` as long.

    With `times` 2 it turns the correlation of two halves into the whole's. Sources: Spearman 1910,
    Brown 1910, both British Journal of Psychology 3.

    >>> spearman_brown(0.5)
    0.6666666666666666

    Returns:
        NaN where the parts go against each other so far that no sum of them measures anything.
    """
    whole = 1 + (times - 1) * reliability
    return times * reliability / whole if whole > 0 else float("nan")


def without_noise(correlation: float, *reliabilities: float) -> float:
    """Return the correlation of two quantities whose measurements correlate as given.

    r / sqrt(rho_x rho_y) (Spearman 1904, American Journal of Psychology 15). Beyond 1 the measurements
    are too noisy for so strong a correlation; infinite where a reliability is not positive.

    >>> round(without_noise(0.24, 0.5, 0.8), 3)
    0.379
    """
    if np.isnan(reliabilities).any():
        return float("nan")
    if min(reliabilities) <= 0:
        return float(np.copysign(np.inf, correlation))
    return float(correlation / np.sqrt(np.prod(reliabilities)))


def corrected_partial(xy: float, xz: float, yz: float, reliability: float) -> float:
    """Return the correlation of x and y given what z measures, not given z itself.

    (rho r_xy - r_xz r_yz) / sqrt((rho - r_xz^2)(rho - r_yz^2)) with rho the reliability of z: what the
    partial correlation would be if z were measured without error, and 1 gives the plain one. It
    assumes that z's error goes with neither x nor y. x and y keep their own errors, which make it
    smaller, never change its sign. Source: Cochran 1970, JASA 65; Cohen, Cohen, West and Aiken
    2003, "Applied Multiple Regression", section 4.3.

    Args:
        xy, xz, yz: correlations (of ranks) without anything held fixed.
        reliability: of z, between 0 and 1.

    Returns:
        NaN where a correlation with z exceeds what its reliability allows.
    """
    left = (reliability - xz**2) * (reliability - yz**2)
    if not (reliability > max(xz**2, yz**2)):
        return float("nan")
    return float((reliability * xy - xz * yz) / np.sqrt(left))
