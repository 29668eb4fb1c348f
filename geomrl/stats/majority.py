"""The unbiased estimator of majority@k: how often a vote among k samples finds the right answer.

Majority voting (self-consistency, Wang et al. 2022, arXiv 2203.11171) draws k samples of a problem
and takes the most frequent answer. majority@k is the chance that this answer is correct. As pass@k
does (Chen et al. 2021), the estimator here averages over all C(n, k) subsets of the n samples that
there are, so it is unbiased for k <= n; voting once among the first k of them is unbiased too, but
far noisier.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import scipy.stats
from jaxtyping import Float

from geomrl.errors import GeomrlError


def majority_at_k(
    answer_classes: Sequence[Sequence[int | None]], k: int
) -> Float[np.ndarray, " problems"]:
    """Return each problem's unbiased majority@k.

    A sample votes for its answer class. One without a class (no closed marker, or a blank one) casts
    no vote. Where several classes have the most votes, one of them is drawn with equal chances, so a
    tie with the correct class counts 1 / (number of tied classes). No vote at all is not correct.

    >>> majority_at_k([[0, 0, 1], [0, 1, None], [None, None, None]], k=3)
    array([1. , 0.5, 0. ])

    Args:
        answer_classes: by problem, the class of every sample: 0 is the correct one, None has no
            answer. Every problem may have its own number of samples n.
        k: how many samples vote, 1 to n.

    Raises:
        GeomrlError: k is not in 1..n for a problem.
    """
    found = []
    for classes in answer_classes:
        n = len(classes)
        if not 1 <= k <= n:
            raise GeomrlError(
                f"majority@{k} from {n} samples a problem: k must lie in 1..{n}; "
                f"draw at least {max(k, 1)} samples a problem or ask for another k"
            )
        votes: dict[int, int] = {}
        for one in classes:
            if one is not None:
                votes[one] = votes.get(one, 0) + 1
        correct = votes.pop(0, 0)
        found.append(_chance(correct, tuple(sorted(votes.values())), n, k))
    return np.array(found, dtype=float)


@lru_cache(maxsize=65536)
def _chance(correct: int, others: tuple[int, ...], n: int, k: int) -> float:
    """Return the chance that k of n samples, drawn without replacement, elect the correct class.

    Sums over the correct class's votes v. Given v, the others' votes have the generating function
    prod_i (sum_{j < v} C(c_i, j) x^j + y C(c_i, v) x^v), where y marks a tie. A tie among t others
    counts 1 / (t + 1), the integral of y^t over 0..1, and Gauss-Legendre nodes give that exactly.
    Binomial probabilities stand for the coefficients C(c, j): they differ by a factor that cancels,
    and never overflow.
    """
    share = k / n
    if correct == 0:
        return 0.0
    if share == 1.0:
        best = max(others, default=0)
        return 0.0 if correct < best else 1.0 / (1 + others.count(correct))
    total = 0.0
    for v in range(1, min(correct, k) + 1):
        rest = k - v
        rivals = [c for c in others if c >= v]  # smaller classes cannot tie: they only take room
        room = n - correct - sum(rivals)
        free = scipy.stats.binom.pmf(np.arange(rest + 1), room, share)  # [votes]
        nodes, weights = np.polynomial.legendre.leggauss(rest // v // 2 + 1)
        ties = (nodes + 1.0) / 2.0
        products = np.tile(free, (len(ties), 1))  # [nodes, votes]
        for c in rivals:
            pmf = scipy.stats.binom.pmf(np.arange(min(v, rest) + 1), c, share)
            factor = np.tile(pmf, (len(ties), 1))
            if v <= rest:
                factor[:, v] *= ties
            products = _multiply(products, factor)
        ways = float(weights @ products[:, rest]) / 2.0
        total += float(scipy.stats.binom.pmf(v, correct, share)) * ways
    return min(total / float(scipy.stats.binom.pmf(k, n, share)), 1.0)


def _multiply(
    one: Float[np.ndarray, "nodes votes"], other: Float[np.ndarray, "nodes few"]
) -> Float[np.ndarray, "nodes votes"]:
    """Multiply polynomials row by row, keeping the degree of the first."""
    product = np.zeros_like(one)
    for j in range(other.shape[1]):
        product[:, j:] += one[:, : one.shape[1] - j] * other[:, j, None]
    return product
