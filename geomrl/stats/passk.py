"""The unbiased estimator of pass@k.

Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", arXiv 2107.03374,
equation 1: with c correct among n samples of a problem, pass@k = 1 - C(n-c, k) / C(n, k).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from geomrl.errors import GeomrlError

_NAMED = 5  # problems named in an error message


def pass_at_k(
    correct_counts: Sequence[int] | Int[np.ndarray, " problems"], n: int, k: int
) -> Float[np.ndarray, " problems"]:
    """Return each problem's unbiased pass@k.

    >>> pass_at_k([0, 1, 2, 4], n=4, k=2)
    array([0.        , 0.5       , 0.83333333, 1.        ])

    Args:
        correct_counts: correct samples of each problem, all of which have exactly `n` samples
            (`count_correct` makes them from rows and checks that).
        n: samples of every problem.
        k: how many samples the imagined user may draw, 1 to n.

    Raises:
        GeomrlError: k is not in 1..n, or a count is not a whole number in 0..n.
    """
    counts = np.asarray(correct_counts)
    if not 1 <= k <= n:
        raise GeomrlError(
            f"pass@{k} from {n} samples a problem: k must lie in 1..{n}; "
            f"draw at least {max(k, 1)} samples a problem or ask for another k"
        )
    wrong_type = counts.size and not np.equal(np.mod(counts, 1), 0).all()
    if wrong_type or (counts < 0).any() or (counts > n).any():
        bad = counts[~((counts >= 0) & (counts <= n) & (np.mod(counts, 1) == 0))]
        raise GeomrlError(
            f"correct counts {bad[:_NAMED].tolist()}: not whole numbers in 0..{n}; every problem "
            f"must have exactly n = {n} samples, so count them again with count_correct()"
        )
    # 1 - prod_{i=n-c+1}^{n} (1 - k/i), for every possible c at once; it never forms a binomial.
    factors = np.maximum(1.0 - k / np.arange(n, 0, -1), 0.0)  # i = n, n-1, ..., 1
    by_count = 1.0 - np.concatenate([[1.0], np.cumprod(factors)])  # c = 0..n
    return by_count[counts.astype(int)]


def count_correct(
    problem_ids: Sequence[str], correct: Sequence[bool], n: int
) -> tuple[list[str], Int[np.ndarray, " problems"]]:
    """Return the problems, in order of appearance, and their numbers of correct samples.

    Args:
        problem_ids: one per sample.
        correct: one per sample; `no_answer` and `timeout` are not correct.
        n: the samples that every problem must have.

    Raises:
        GeomrlError: a problem has another number of samples. (Dividing by n with fewer present
            silently deflates pass@k.)
    """
    totals: dict[str, int] = {}
    rights: dict[str, int] = {}
    for problem, right in zip(problem_ids, correct, strict=True):
        totals[problem] = totals.get(problem, 0) + 1
        rights[problem] = rights.get(problem, 0) + bool(right)
    uneven = [f"{problem} ({total})" for problem, total in totals.items() if total != n]
    if uneven:
        shown = ", ".join(uneven[:_NAMED]) + (", ..." if len(uneven) > _NAMED else "")
        raise GeomrlError(
            f"pass@k needs exactly n = {n} samples of every problem; {len(uneven)} of "
            f"{len(totals)} have another number: {shown}. Finish the missing samples (resume the "
            f"rollout) or leave these problems out"
        )
    return list(totals), np.array(list(rights.values()), dtype=int)
