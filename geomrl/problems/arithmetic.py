"""The bundled task: sums of signed numbers and products, and solutions written out in words.

A problem is a multiset of signed terms. A solution works on it the way a pupil may: combine any
two of the terms that are left, directly or by splitting a number into tens and units, until one
is left; say each step in one of several wordings; close with one of many phrases and
`\\boxed{answer}`. One problem therefore has hundreds of correct paths, which is what makes the
geometry of its correct rollouts worth measuring.

Everything here is a pure function of its seed and knows nothing of models.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

from geomrl.errors import GeomrlError
from geomrl.problems.problem import Problem
from geomrl.seeds import derive_seed

BENCHMARK = "arithmetic"
TRAINING_BENCHMARK = "arithmetic_train"
HELDOUT_SHARE = 8  # one canonical key in eight belongs to the held-out split
SPLITTING = 0.6  # probability that a term is taken in two parts where it can be


class Term(NamedTuple):
    """One signed term: a number (one factor) or a product (two factors); all factors >= 1."""

    sign: int
    factors: tuple[int, ...]

    @property
    def value(self) -> int:
        """Signed value."""
        return self.sign * self.magnitude

    @property
    def magnitude(self) -> int:
        """Absolute value: the product of the factors."""
        product = 1
        for factor in self.factors:
            product *= factor
        return product


class Step(NamedTuple):
    """One written operation: `left op right = result`, with op one of `+`, `-`, `×`."""

    op: str
    left: int
    right: int
    result: int


@dataclass(frozen=True)
class Level:
    """One level of difficulty.

    `numbers` is an inclusive range. The numbers of a problem are distinct: a repeated one would
    make some of its paths the same. `products` contains, for each product among the `n_terms` terms,
    its two factors' ranges; `minus` is the probability that a term after the first is subtracted.
    """

    name: str
    n_terms: int
    numbers: tuple[int, int]
    products: tuple[tuple[tuple[int, int], tuple[int, int]], ...] = ()
    _: KW_ONLY
    minus: float = 0.25


EASY = Level("easy", 5, (1, 9))
MEDIUM = Level("medium", 6, (1, 9))
PRODUCT = Level("product", 5, (1, 9), (((2, 5), (2, 5)),))
HARD = Level("hard", 4, (11, 99), (((6, 9), (12, 49)),))

# Held-out problem i has level CYCLE[i % 20], so that the first few problems are as mixed as all.
CYCLE = (
    *(MEDIUM, PRODUCT, EASY, MEDIUM, PRODUCT, HARD, MEDIUM, PRODUCT, EASY, MEDIUM),
    *(PRODUCT, MEDIUM, EASY, PRODUCT, MEDIUM, HARD, PRODUCT, MEDIUM, EASY, PRODUCT),
)
# Training sees hard problems rarely, so that they stay nearly impossible.
TRAINING_SHARES = {EASY: 0.3, MEDIUM: 0.3, PRODUCT: 0.35, HARD: 0.05}
LARGEST_ANSWER = 999
MOST_HELDOUT = 500

STATEMENTS = (
    "What is {expression}?",
    "Compute {expression}.",
    "Find the value of {expression}.",
    "Work out {expression}.",
)

OPENINGS = ("First", "To start,", "Begin with", "I take", "Note that")
LINKS = (", then", ". Next,", "; now", ". After that", ", and")
WORDINGS = {
    "+": (
        "{left}+{right}={result}",
        "{left} plus {right} is {result}",
        "{left} and {right} make {result}",
    ),
    "-": (
        "{left}-{right}={result}",
        "{left} minus {right} is {result}",
        "{left} less {right} leaves {result}",
    ),
    "×": ("{left}×{right}={result}", "{left} times {right} is {result}"),
}
# Most last words of a closing go on to something else in another closing, each to its own: the
# state before the marker then contains more than "the marker comes next", and depends on its word.
CLOSINGS = (
    ", so the total is",
    ", so the total is now",
    ". The result is then",
    ", so we get",
    ", so we get a total of",
    ". Thus",
    ". Thus it makes",
    ". Thus it makes exactly",
    ". Hence",
    ". Hence the answer is just",
    ". Therefore",
    ". Therefore we end with",
    ", which gives",
    ", which gives us",
    ". It all comes to",
    ". It all comes to the number",
    ", making",
    ", making altogether",
    ". So {answer} is the answer:",
)


# --- problems ------------------------------------------------------------------------------


def canonical_key(terms: Sequence[Term]) -> str:
    """Text that two problems share exactly when they are the same up to the order of their terms.

    The order of a product's factors does not count either.

    >>> canonical_key([Term(1, (7,)), Term(-1, (3, 2))]) == canonical_key(
    ...     [Term(-1, (2, 3)), Term(1, (7,))]
    ... )
    True
    """
    signed = sorted((term.sign, tuple(sorted(term.factors))) for term in terms)
    return " ".join(f"{sign:+d}*{'*'.join(map(str, factors))}" for sign, factors in signed)


def is_heldout(terms: Sequence[Term]) -> bool:
    """Whether a problem belongs to the held-out split: a property of its canonical key alone.

    No seed enters, so no choice of seeds can make training see a held-out problem, nor a
    permutation of one.
    """
    return derive_seed(0, BENCHMARK, "split", canonical_key(terms)) % HELDOUT_SHARE == 0


def draw_terms(level: Level, rng: random.Random) -> tuple[Term, ...]:
    """Draw the terms of one problem whose value lies between 1 and `LARGEST_ANSWER`."""
    while True:
        factors = [tuple(rng.randint(*span) for span in spans) for spans in level.products]
        low, high = level.numbers
        factors += [(n,) for n in rng.sample(range(low, high + 1), level.n_terms - len(factors))]
        rng.shuffle(factors)
        signs = [1, *(-1 if rng.random() < level.minus else 1 for _ in factors[1:])]
        terms = tuple(Term(sign, each) for sign, each in zip(signs, factors, strict=True))
        if 1 <= sum(term.value for term in terms) <= LARGEST_ANSWER:
            return terms


def expression_text(terms: Sequence[Term]) -> str:
    """Write terms as an expression, e.g. `12+3×4-5`."""
    signed = (f"{'+-'[term.sign < 0]}{'×'.join(map(str, term.factors))}" for term in terms)
    return "".join(signed).removeprefix("+")


def make_problem(
    problem_id: str, terms: Sequence[Term], *, wording: int = 0, **meta: Any
) -> Problem:
    """Make a problem of its terms; `wording` picks the statement's sentence.

    The terms go into `meta`, so that a variant (other wording, order or numbers) can be made of
    any problem: `make_problem(new_id, changed(terms_of(problem)), wording=...)`.

    Raises:
        GeomrlError: there are no terms, or their sum is negative (solutions never write a negative
            number).
    """
    total = sum(term.value for term in terms)
    if not terms or total < 0:
        raise GeomrlError(
            f"{problem_id}: {expression_text(terms) or 'no terms'} = {total}; a problem of this "
            "task needs terms whose sum is not negative"
        )
    return Problem(
        problem_id=problem_id,
        benchmark=BENCHMARK,
        statement=STATEMENTS[wording].format(expression=expression_text(terms)),
        gold=str(total),
        meta={
            "terms": [[term.sign, list(term.factors)] for term in terms],
            "wording": wording,
            **meta,
        },
    )


def terms_of(problem: Problem) -> tuple[Term, ...]:
    """Return the terms that `make_problem` stored in a problem of this benchmark."""
    return tuple(Term(sign, tuple(factors)) for sign, factors in problem.meta["terms"])


def heldout_problems(n: int, seed: int = 0) -> list[Problem]:
    """Return the first `n` problems of the held-out split, `arith-000` onwards.

    Problem i is the same whatever n is, no two are permutations of each other, and
    `is_heldout` is true of all of them.

    Raises:
        GeomrlError: `n` exceeds what the levels can surely fill with different problems.
    """
    if n > MOST_HELDOUT:
        raise GeomrlError(
            f"{n} held-out arithmetic problems: the split is sure to hold only {MOST_HELDOUT}; "
            "ask for fewer, or draw a second set with another seed"
        )
    problems: list[Problem] = []
    seen: set[str] = set()
    for index in range(n):
        level = CYCLE[index % len(CYCLE)]
        rng = random.Random(derive_seed(seed, BENCHMARK, "heldout", index))
        terms = draw_terms(level, rng)
        while not is_heldout(terms) or canonical_key(terms) in seen:
            terms = draw_terms(level, rng)
        seen.add(canonical_key(terms))
        wording = rng.randrange(len(STATEMENTS))
        problems.append(
            make_problem(f"arith-{index:03d}", terms, wording=wording, level=level.name)
        )
    return problems


def training_problems(seed: int = 0) -> Iterator[Problem]:
    """Yield training problems without end, levels drawn by `TRAINING_SHARES`; none is held out."""
    rng = random.Random(derive_seed(seed, BENCHMARK, "train"))
    levels, shares = list(TRAINING_SHARES), list(TRAINING_SHARES.values())
    index = 0
    while True:
        level = rng.choices(levels, shares)[0]
        terms = draw_terms(level, rng)
        if is_heldout(terms):
            continue
        wording = rng.randrange(len(STATEMENTS))
        yield make_problem(f"arith-train-{index}", terms, wording=wording, level=level.name)
        index += 1


# --- solutions -----------------------------------------------------------------------------


def solution_text(problem: Problem, rng: random.Random) -> str:
    """Write one correct solution: a random path, in random words, closed by `\\boxed{answer}`."""
    pieces: list[str] = []
    for step in solution_steps(terms_of(problem), rng):
        pieces.append(rng.choice(LINKS if pieces else OPENINGS))
        pieces.append(" " + rng.choice(WORDINGS[step.op]).format(**step._asdict()))
    pieces.append(rng.choice(CLOSINGS).format(answer=problem.gold))
    return "".join(pieces) + f" \\boxed{{{problem.gold}}}"


def solution_steps(terms: Sequence[Term], rng: random.Random) -> list[Step]:
    """Draw one correct path from the terms to their sum.

    The terms are taken into a running total in a random order among those that never leave it
    negative; each is added or subtracted at once or in two parts.
    """
    total, *rest = drawn_order(terms, rng)
    steps = multiplication_steps(total.factors, rng)
    running = total.magnitude
    for term in rest:
        steps += multiplication_steps(term.factors, rng)
        for part in parts_of(term.magnitude, rng):
            result = running + term.sign * part
            steps.append(Step("+" if term.sign > 0 else "-", running, part, result))
            running = result
    return steps


def drawn_order(terms: Sequence[Term], rng: random.Random) -> list[Term]:
    """Return the terms in a random order of which no partial sum is negative."""
    order = list(terms)
    while True:
        rng.shuffle(order)
        if min(itertools.accumulate(term.value for term in order)) >= 0:
            return order


def parts_of(number: int, rng: random.Random) -> tuple[int, ...]:
    """Return `number` whole, or its tens and its units in either order."""
    tens, units = number - number % 10, number % 10
    if rng.random() >= SPLITTING or not (tens and units):
        return (number,)
    first = rng.choice((tens, units))
    return (first, number - first)


def multiplication_steps(factors: tuple[int, ...], rng: random.Random) -> list[Step]:
    """Work out a product: at once, or by the tens and units of a factor above 10."""
    if len(factors) == 1:
        return []
    left, right = sorted(factors) if max(factors) > 10 else rng.sample(factors, 2)
    tens, units = right - right % 10, right % 10
    if not (tens and units):
        return [Step("×", left, right, left * right)]
    one, two = rng.sample((tens, units), 2)
    return [
        Step("×", left, one, left * one),
        Step("×", left, two, left * two),
        Step("+", left * one, left * two, left * right),
    ]


# --- reading a solution back ---------------------------------------------------------------


def _wording_pattern(op: str, wording: str) -> re.Pattern[str]:
    # No operation of the task has a number of a thousand digits, and `int` refuses some.
    digits = {
        name: rf"(?<![\d.])(?P<{name}>\d{{1,1000}})(?!\d)" for name in ("left", "right", "result")
    }
    return re.compile(re.escape(wording).replace(r"\{", "{").replace(r"\}", "}").format(**digits))


_PATTERNS = [
    (op, _wording_pattern(op, wording)) for op, wordings in WORDINGS.items() for wording in wordings
]


def written_steps(response: str) -> list[Step]:
    """Return the operations that a response states, in their order, right or wrong."""
    found = [
        (match.start(), Step(op, *(int(match[name]) for name in ("left", "right", "result"))))
        for op, pattern in _PATTERNS
        for match in pattern.finditer(response)
    ]
    return [step for _, step in sorted(found)]


def operation_path(response: str) -> tuple[Step, ...]:
    """Return a response's path: its operations in order, whatever their wording.

    The operands of `+` and `×` are sorted, so `3+5=8` and `5 and 3 make 8` are one operation:
    two paths differ only if they do different sums or do them in a different order.

    >>> operation_path("First 5 and 3 make 8, then 8-2=6. Thus")
    (Step(op='+', left=3, right=5, result=8), Step(op='-', left=8, right=2, result=6))
    """
    return tuple(
        step if step.op == "-" else step._replace(left=min(step[1:3]), right=max(step[1:3]))
        for step in written_steps(response)
    )
