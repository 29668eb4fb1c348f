"""Permutation tests of correctness: would other labels have given the same contrast?

Both tests relabel within problems and ask how extreme the true labels are.

1. *Verdicts*: permute who is correct; the statistic is the matched, studentised CC - II. Rollouts
   that agree on an answer may be close for that reason alone, and correct ones agree, so this
   rejects whenever states carry the answer.
2. *Answer classes*: permute which answer of the problem is called the correct one; the statistic
   is the matched, studentised CC - II_same_answer: both sides agree on an answer. CC - II would
   not do here. Call a rare wrong answer correct, and the big correct class moves into II and makes
   it cohesive: with states that carry the answer and nothing else, that test at 5 % rejected
   16-88 % of the time in simulations, this one 4-6 %.

The same relabellings serve every layer, so that the maximum over layers corrects for having looked
at all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from geomrl.geometry.cells import without_rounding
from geomrl.geometry.groups import UNKNOWN, Groups
from geomrl.seeds import derive_rng


@dataclass(frozen=True)
class VerdictDraws:
    """Relabellings of the problems that have two correct and two wrong rollouts.

    `masks[k]` is [1 + permutations, n] for problem `problems[k]`: who is called correct. Row 0
    contains the true labels; the number of correct rollouts of a problem never changes.
    """

    problems: Int[np.ndarray, " k"]
    masks: tuple[Bool[np.ndarray, "m1 n"], ...]


@dataclass(frozen=True)
class AnswerDraws:
    """Which answer class of a problem is called the correct one.

    A class is eligible with at least two rollouts. A problem takes part if its correct class and a
    wrong one are eligible, that is if it has both CC and II_same_answer pairs. `members[k]` is
    [classes, n]: who is in each eligible class, the correct one first. `chosen` is
    [1 + permutations, k], row 0 the correct class; classes are drawn uniformly.
    """

    problems: Int[np.ndarray, " k"]
    members: tuple[Bool[np.ndarray, "classes n"], ...]
    chosen: Int[np.ndarray, "m1 k"]


def draw_verdicts(groups: Groups, n_perm: int, *, seed: int) -> VerdictDraws:
    """Permute correctness within problems. A problem's draws depend on its id and size only."""
    wrong = groups.sizes - groups.n_correct
    problems = np.flatnonzero((groups.n_correct >= 2) & (wrong >= 2))
    masks = []
    for p in problems.tolist():
        true = groups.correct[groups.rows(p)]
        rng = derive_rng(seed, "permutation_correctness", groups.problem_ids[p])
        masks.append(np.vstack([true, rng.permuted(np.tile(true, (n_perm, 1)), axis=1)]))
    return VerdictDraws(problems, tuple(masks))


def draw_answers(groups: Groups, n_perm: int, *, seed: int) -> AnswerDraws:
    """Choose an eligible answer class of each problem to be called the correct one."""
    problems, members, chosen = [], [], []
    for p in range(groups.n_problems):
        rows = groups.rows(p)
        right, answer = groups.correct[rows], groups.answer[rows]
        classes = [right] + [
            ~right & (answer == a) for a in np.unique(answer[~right]) if a != UNKNOWN
        ]
        eligible = [who for who in classes if who.sum() >= 2]
        if len(eligible) >= 2 and eligible[0] is right:
            rng = derive_rng(seed, "permutation_answer_class", groups.problem_ids[p])
            problems.append(p)
            members.append(np.stack(eligible))
            chosen.append(np.append(0, rng.integers(0, len(eligible), n_perm)))
    table = np.stack(chosen, axis=1) if chosen else np.zeros((n_perm + 1, 0), int)
    return AnswerDraws(np.array(problems, dtype=int), tuple(members), table)


def verdict_statistics(
    grams: list[Float[np.ndarray, "n n"]], draws: VerdictDraws
) -> Float[np.ndarray, " m1"]:
    """Return the studentised matched CC - II for the true labels and each relabelling.

    Args:
        grams: cosines within each problem.
        draws: whose row 0 contains the true labels.
    """
    gaps = [
        _verdict_gaps(grams[p], mask) for p, mask in zip(draws.problems, draws.masks, strict=True)
    ]
    return studentised(np.array(gaps).T) if gaps else np.full(1, np.nan)


def answer_statistics(
    grams: list[Float[np.ndarray, "n n"]], draws: AnswerDraws
) -> Float[np.ndarray, " m1"]:
    """Return the studentised matched CC - II_same_answer, by which class is called correct."""
    gaps = [
        _class_gaps(grams[p], classes)[draws.chosen[:, k]]
        for k, (p, classes) in enumerate(zip(draws.problems, draws.members, strict=True))
    ]
    return studentised(np.array(gaps).T) if gaps else np.full(1, np.nan)


def studentised(values: Float[np.ndarray, "m p"]) -> Float[np.ndarray, " m"]:
    """Return mean / standard error over problems, row by row; 0 for rows of zeros.

    NaN with fewer than two problems: their spread is unknown.
    """
    n = values.shape[1]
    if n < 2:
        return np.full(len(values), np.nan)
    means = values.mean(axis=1)
    errors = values.std(axis=1, ddof=1) / np.sqrt(n)
    tiny = 1e-9 * np.abs(values).max(axis=1)
    return np.where(
        np.abs(means) <= tiny, 0.0, means / np.maximum(errors, np.maximum(tiny, 1e-300))
    )


def _verdict_gaps(
    gram: Float[np.ndarray, "n n"], called: Bool[np.ndarray, "m n"]
) -> Float[np.ndarray, " m"]:
    """Return mean cosine among the called minus that among the rest, for each row of `called`.

    Every row calls the same number of rollouts.
    """
    n = len(gram)
    # The gap is blind to a constant added to all pairs: without their mean, float32 is enough.
    away = gram - (gram.sum() - np.trace(gram)) / (n * (n - 1))
    np.fill_diagonal(away, 0.0)
    away = away.astype(np.float32)
    y = called.astype(np.float32)
    inside = np.einsum("mn,mn->m", y @ away, y).astype(float)
    outside = float(away.sum(dtype=float)) - 2.0 * (y @ away.sum(axis=0)) + inside
    size = int(called[0].sum())
    rest = n - size
    return without_rounding(inside / (size * (size - 1)) - outside / (rest * (rest - 1)))


def _class_gaps(
    gram: Float[np.ndarray, "n n"], classes: Bool[np.ndarray, "c n"]
) -> Float[np.ndarray, " c"]:
    """Return each class's mean cosine minus that of same-class pairs in all other classes."""
    y = classes.astype(float)
    size = y.sum(axis=1)
    sums = np.einsum("cn,cn->c", y @ gram, y) - y @ np.diag(gram)
    pairs = size * (size - 1)
    return without_rounding(sums / pairs - (sums.sum() - sums) / (pairs.sum() - pairs))
