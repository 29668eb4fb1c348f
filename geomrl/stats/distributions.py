"""Student's t and the normal distribution: quantiles and tails.

The same numbers as `scipy.stats`, of which these are the formulas. Importing that takes a third of a
second, which every training and every rank would pay, and one call of it fifty of these.
"""

from __future__ import annotations

import scipy.special


def t_quantile(p: float, df: float) -> float:
    """Return what Student's t with `df` degrees of freedom stays below with chance p.

    >>> round(t_quantile(0.975, 4), 3)
    2.776
    """
    return float(scipy.special.stdtrit(df, p))


def t_tail(t: float, df: float) -> float:
    """Return the chance that Student's t with `df` degrees of freedom exceeds t.

    >>> round(t_tail(2.776, 4), 3)
    0.025
    """
    return float(scipy.special.stdtr(df, -t))


def normal_quantile(p: float) -> float:
    """Return what a standard normal number stays below with chance p.

    >>> round(normal_quantile(0.975), 2)
    1.96
    """
    return float(scipy.special.ndtri(p))
