"""How many kinds a number of items shows: counts that do not grow with the sample."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb


def rarefied_count(counts: Sequence[int], m: int) -> float:
    """Return how many kinds m items show on average, drawn without replacement.

    sum_i 1 - C(n - n_i, m) / C(n, m): Hurlbert 1971, "The nonconcept of species diversity". A plain
    count of different paths grows with the number of correct rollouts, and so with accuracy; this
    does not. With m = 2 it is 1 + the share of pairs that differ.

    Args:
        counts: items of each kind; n is their sum.
        m: items drawn.

    Returns:
        The expected number, NaN where there are fewer than m items.

    >>> rarefied_count([4], 2), rarefied_count([1, 1, 1], 2), round(rarefied_count([2, 2], 2), 3)
    (1.0, 2.0, 1.667)
    """
    n = sum(counts)
    if n < m:
        return float("nan")
    return float(sum(1.0 - comb(n - c, m) / comb(n, m) for c in counts))
