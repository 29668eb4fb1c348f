"""A paired permutation test over problems: flip the signs of their differences.

Sources: Fisher 1935, "The Design of Experiments", section 21; Phipson and Smyth 2010 (p of a random
subset of the permutations).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from jaxtyping import Float

from geomrl.seeds import derive_rng
from geomrl.stats.permutation import permutation_p

N_FLIPS = 9999
_ALL = 12  # up to so many differences every pattern of signs is tried
_ROUNDING = 1e-12
_BLOCK = 1024  # patterns at a time: memory stays small with thousands of problems


def sign_flip_p(
    strata: Sequence[Float[np.ndarray, " problems"]],
    *,
    seed: int = 0,
    label: str = "sign flip",
    n_flips: int = N_FLIPS,
) -> float:
    """Return the two-sided p of "no difference" from flipping problems' differences.

    The statistic is the mean over strata of each stratum's mean difference; one stratum gives the
    plain mean. Where two models are alike on every problem, each difference is as likely as its
    negative, and the test is exact. Where they differ by problem and are equal only on average, it
    holds its level for many problems, as the t test does: the sum of squares does not change with
    the signs, so the mean orders the patterns as Student's t would, and no studentising is needed.

    With m problems that differ, p is at least 2^(1 - m).

    >>> sign_flip_p([np.array([0.1, 0.2, 0.1, 0.3])])
    0.125

    Args:
        strata: one difference a problem, by stratum (benchmark).
        seed: the run's seed.
        label: names the draw.
        n_flips: random patterns; with at most 12 problems that differ all are tried instead.

    Returns:
        p; 1 where the differences cancel or there are none, NaN where there is no problem.
    """
    parts = [np.asarray(values, dtype=float) for values in strata]
    if not parts or any(len(part) == 0 for part in parts):
        return float("nan")
    weighted = np.concatenate([part / (len(part) * len(parts)) for part in parts])
    pulls = weighted[weighted != 0]
    observed = float(pulls.sum())
    if abs(observed) <= _ROUNDING * np.abs(pulls).sum():
        return 1.0  # every pattern is at least as extreme
    if len(pulls) <= _ALL:
        signs = np.array(list(product((1.0, -1.0), repeat=len(pulls))))[1:]  # the first is ours
        return permutation_p(observed, signs @ pulls)
    rng = derive_rng(seed, "sign flip", label)
    flipped = [
        (1.0 - 2.0 * rng.integers(0, 2, (min(_BLOCK, n_flips - start), len(pulls)))) @ pulls
        for start in range(0, n_flips, _BLOCK)
    ]
    return permutation_p(observed, np.concatenate(flipped))


def least_p(n: int) -> float:
    """Return the smallest p that n differing problems allow.

    >>> least_p(5), least_p(6)
    (0.0625, 0.03125)
    """
    return float(2.0 ** (1 - n)) if n else 1.0
