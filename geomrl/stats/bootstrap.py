"""The draws of a bootstrap over problems, and the limits that studentising them gives.

Sources: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 12.5 (bootstrap-t,
variance stabilising); Wilson 1927, Journal of the American Statistical Association 22.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from geomrl.stats.distributions import normal_quantile, t_quantile

TAILS = (0.025, 0.975)
"""Quantiles of a 95 % interval."""
_Map = Callable[[Any], Any]  # elementwise, on a float or an array
_FLAT = 1e-6  # a draw's standard error is a root of a difference, or of float32 sums: coarser


@lru_cache(maxsize=12)
def resample_counts(n: int, n_boot: int, seed: int) -> Float[np.ndarray, "boot n"]:
    """Return how often each of n clusters is drawn in each of n_boot draws of n (read-only)."""
    drawn = np.random.default_rng(seed).integers(0, n, size=(n_boot, n))
    flat = (drawn + n * np.arange(n_boot)[:, None]).ravel()
    counts = np.bincount(flat, minlength=n * n_boot).reshape(n_boot, n).astype(float)
    counts.flags.writeable = False
    return counts


def bootstrap_t(
    value: float,
    se: float,
    shifts: Float[np.ndarray, " boot"],
    errors: Float[np.ndarray, " boot"],
    bounds: tuple[float, float] | None,
    n: int,
    share: float = 1.0,
) -> tuple[float, float, str | None]:
    """Return the limits, and why they are weak if the bootstrap could not be studentised.

    The statistic varies at most as much as a mean of `share` * n values does.
    """
    scale, slope, back = _stabiliser(bounds)
    centre, width = scale(value), se * slope(value)
    with np.errstate(invalid="ignore", divide="ignore"):
        ts = (scale(value + shifts) - centre) / (errors * slope(value + shifts))
    flat = errors <= _FLAT * max(se, float(np.abs(shifts).max(initial=0.0)))
    ts[flat] = np.where(shifts[flat] == 0, 0.0, np.copysign(np.inf, shifts[flat]))
    # Order statistics, never interpolated: infinite draws are ranked, not averaged.
    t_low, t_high = np.quantile(ts, TAILS, method="inverted_cdf") if len(ts) else (-np.inf, np.inf)
    weak = None
    if not np.isfinite([t_low, t_high]).all():
        weak = "too many draws without spread to studentise them all"
        if bounds is None:
            t_high = t_quantile(TAILS[1], n - 1)
            t_low, weak = -t_high, f"{weak}: a Student t interval instead"
    low, high = float(back(centre - t_high * width)), float(back(centre - t_low * width))
    if bounds is not None:
        # Where most values lie on a bound, draws without spread stretch the interval to the other
        # bound. Simulated: as often right with these limits, and up to half as wide.
        widest_low, widest_high = wilson(value, bounds, n * share)
        low, high = max(low, widest_low), min(high, widest_high)
    return low, high, weak


def wilson(value: float, bounds: tuple[float, float], n: float) -> tuple[float, float]:
    """Return Wilson's score interval (Wilson 1927) of a mean of n values within bounds.

    No values within bounds vary more than those that lie on them, so it errs on the wide side.
    """
    low, span = bounds[0], bounds[1] - bounds[0]
    p, z = (value - low) / span, normal_quantile(TAILS[1])
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(max(p * (1 - p), 0.0) / n + z * z / (4 * n * n))
    return float(low + span * (centre - half)), float(low + span * (centre + half))


def _stabiliser(bounds: tuple[float, float] | None) -> tuple[_Map, _Map, _Map]:
    """Return the scale on which to studentise, its slope, and the way back.

    For cosines, bounds (-1, 1), the arcsine scale is half the angle.
    """
    if bounds is None:
        return (lambda x: x), (lambda x: np.ones_like(x)), (lambda x: x)
    low, span = bounds[0], bounds[1] - bounds[0]

    def share(x: Any) -> Any:
        return np.clip((x - low) / span, 0.0, 1.0)

    def slope(x: Any) -> Any:
        return 0.5 / (span * np.sqrt(share(x) * (1.0 - share(x))))

    return (
        lambda x: np.arcsin(np.sqrt(share(x))),
        slope,
        lambda y: low + span * np.sin(np.clip(y, 0.0, np.pi / 2)) ** 2,
    )
