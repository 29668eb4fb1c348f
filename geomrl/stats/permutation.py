"""p values from permutations, alone and over a family such as the layers of a model."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

_TIE = 1e-5  # statistics this close (relative) are ties: rounding must not make p smaller


def permutation_p(
    observed: float, permuted: Float[np.ndarray, " permutations"], *, two_sided: bool = True
) -> float:
    """Return p = (b + 1) / (m + 1), with b of m permuted statistics at least as extreme.

    The observed labelling counts as one of the permutations, so p is never 0 and the test is
    exact. Source: Phipson and Smyth 2010, arXiv 1603.05766.

    >>> permutation_p(3.0, np.array([0.0, 1.0, -4.0, 2.0]))
    0.4

    Returns NaN where the observed statistic is NaN.
    """
    return float(max_statistic_p(np.array([observed]), permuted[:, None], two_sided=two_sided)[0])


def max_statistic_p(
    observed: Float[np.ndarray, " family"],
    permuted: Float[np.ndarray, "permutations family"],
    *,
    two_sided: bool = True,
) -> Float[np.ndarray, " family"]:
    """Return p values adjusted over a family by the permuted maximum.

    Each member is compared with the maximum over the family under the *same* relabelling, which
    bounds the chance of any false rejection and, unlike Bonferroni, does not punish members that
    say nearly the same (neighbouring layers do). Source: Westfall and Young 1993.

    Args:
        observed: statistics on the true labels. Members that are NaN could not be computed: they
            are left out of the maximum and stay NaN.
        permuted: statistics on relabelled data; row r is one relabelling for all members.
        two_sided: compare absolute values.
    """
    side = np.abs if two_sided else np.asarray
    adjusted = np.full(observed.shape, np.nan)
    made = ~np.isnan(observed)
    if not made.any():
        return adjusted
    value, maxima = side(observed[made]), side(permuted[:, made]).max(axis=1)  # [k], [m]
    reach = value - _TIE * np.maximum(np.abs(value), 1e-12)
    exceed = (maxima[:, None] >= reach[None, :]).sum(axis=0)
    adjusted[made] = (exceed + 1) / (len(maxima) + 1)
    return adjusted
