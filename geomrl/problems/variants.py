"""Variants of the bundled problems: another sentence, another order, other numbers.

A variant asks what its original asks in another form, so that a model's accuracy on it says whether
it can do the kind of problem, not whether it knows the problem. Each variant's `meta` names its
original (`variant_of`) and its kind (`variant`). Everything here is a pure function of its seed; a
variant depends on its problem and, in `renumbered`, on those before it, never on how many follow.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from geomrl.problems.arithmetic import (
    BENCHMARK,
    CYCLE,
    LARGEST_ANSWER,
    STATEMENTS,
    Level,
    Term,
    canonical_key,
    is_heldout,
    make_problem,
    terms_of,
)
from geomrl.problems.problem import Problem
from geomrl.seeds import derive_seed

_TRIES = 2000  # draws with the original's signs before they are drawn anew
_LEVELS = {level.name: level for level in CYCLE}


def reworded(originals: Sequence[Problem], seed: int = 0) -> list[Problem]:
    """Return each problem under another statement sentence: same expression, same answer."""
    found = []
    for problem in originals:
        others = [w for w in range(len(STATEMENTS)) if w != problem.meta["wording"]]
        wording = _rng(seed, "reworded", problem).choice(others)
        found.append(_variant(problem, "reworded", terms_of(problem), wording=wording))
    return found


def reordered(originals: Sequence[Problem], seed: int = 0) -> list[Problem]:
    """Return each problem with its terms in another order: same sentence, same answer.

    The first term stays one that is added, as in every problem of this task.
    """
    found = []
    for problem in originals:
        terms = list(terms_of(problem))
        rng = _rng(seed, "reordered", problem)
        while terms[0].sign < 0 or tuple(terms) == terms_of(problem):
            rng.shuffle(terms)
        found.append(_variant(problem, "reordered", terms))
    return found


def renumbered(originals: Sequence[Problem], seed: int = 0) -> list[Problem]:
    """Return each problem with other numbers in the places of the old: same level, same sentence.

    Signs and products stay where they are. The new problem is held out of training, and is a
    permutation of no original and of no other variant. Small levels have few problems of some
    signs (all of them added, say), and the originals may be all of these: the signs are then
    drawn anew, and meta's `same_signs` is False.

    Args:
        originals: all of the split that the variants must differ from, not some of it.
        seed: of the numbers.
    """
    seen = {canonical_key(terms_of(problem)) for problem in originals}
    found = []
    for problem in originals:
        rng = _rng(seed, "renumbered", problem)
        level, old = _LEVELS[problem.meta["level"]], terms_of(problem)
        tries, terms = 0, old
        while not _usable(terms) or canonical_key(terms) in seen:
            terms = _other_numbers(old, level, rng, same_signs=tries < _TRIES)
            tries += 1
        seen.add(canonical_key(terms))
        same = [t.sign for t in terms] == [t.sign for t in old]
        found.append(_variant(problem, "renumbered", terms, same_signs=same))
    return found


VARIANTS: dict[str, Callable[[Sequence[Problem], int], list[Problem]]] = {
    f"{BENCHMARK}_reworded": reworded,
    f"{BENCHMARK}_reordered": reordered,
    f"{BENCHMARK}_renumbered": renumbered,
}
"""The benchmarks of variants, and what makes each of the originals and a seed."""


def _rng(seed: int, kind: str, problem: Problem) -> random.Random:
    return random.Random(derive_seed(seed, BENCHMARK, "variant", kind, problem.problem_id))


def _usable(terms: Sequence[Term]) -> bool:
    return 1 <= sum(t.value for t in terms) <= LARGEST_ANSWER and is_heldout(terms)


def _other_numbers(
    old: Sequence[Term], level: Level, rng: random.Random, *, same_signs: bool
) -> tuple[Term, ...]:
    """Draw numbers as the level does, for terms of the old structure."""
    spans = list(level.products)
    rng.shuffle(spans)
    n_single = sum(len(term.factors) == 1 for term in old)
    low, high = level.numbers
    singles = rng.sample(range(low, high + 1), n_single)
    terms = []
    for number, term in enumerate(old):
        sign = term.sign
        if not same_signs:
            sign = -1 if number and rng.random() < level.minus else 1
        if len(term.factors) == 1:
            terms.append(Term(sign, (singles.pop(),)))
        else:
            terms.append(Term(sign, tuple(rng.randint(*span) for span in spans.pop())))
    return tuple(terms)


def _variant(
    problem: Problem,
    kind: str,
    terms: Sequence[Term],
    *,
    wording: int | None = None,
    **meta: bool,
) -> Problem:
    made = make_problem(
        f"{problem.problem_id}-{kind}", terms,
        wording=problem.meta["wording"] if wording is None else wording,
        level=problem.meta["level"], variant_of=problem.problem_id, variant=kind, **meta,
    )  # fmt: skip
    return replace(made, benchmark=f"{BENCHMARK}_{kind}")
