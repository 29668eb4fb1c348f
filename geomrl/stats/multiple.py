"""Corrections for several tests, such as one per benchmark."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def holm(p_values: Sequence[float] | Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Return Holm's step-down adjusted p values: they bound the chance of any false rejection.

    Valid under any dependence. NaN (a test that could not be made) stays NaN and is not counted.
    Source: Holm 1979, Scandinavian Journal of Statistics 6.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    made = np.flatnonzero(~np.isnan(p))
    order = made[np.argsort(p[made], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def benjamini_hochberg(
    p_values: Sequence[float] | Float[np.ndarray, " tests"],
) -> Float[np.ndarray, " tests"]:
    """Return adjusted p values that bound the expected share of false ones among the rejections.

    Valid for independent or positively dependent tests. NaN stays NaN and is not counted.
    Source: Benjamini and Hochberg 1995, Journal of the Royal Statistical Society B 57.

    >>> benjamini_hochberg([0.01, 0.04, 0.03])
    array([0.03, 0.04, 0.04])
    """
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    made = ~np.isnan(p)
    if made.any():
        from scipy.stats import false_discovery_control

        adjusted[made] = false_discovery_control(p[made], method="bh")
    return adjusted
