"""Answer classes: which of one problem's answers are equal to one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations

from geomrl.verify.grading import quick_equal
from geomrl.verify.workers import Outcome

Pair = tuple[str, str]
Compare = Callable[[Sequence[Pair]], Iterable[tuple[Pair, Outcome]]]

TIMEOUTS = 2  # an answer whose comparisons hit a limit so often is asked about no more


def equal_answers(answers: Sequence[str], compare: Compare, stuck: set[str]) -> list[list[str]]:
    """Return the connected components of equality among distinct answers.

    Equality is asked both ways round and in an order that depends on the answers' spelling alone, so
    the partition does not depend on the order of `answers`. n answers take at most n(n - 1)
    comparisons in workers, of which at most `TIMEOUTS` * n hit a limit: an answer that hangs the
    comparison with two others joins only what exact rules find equal to it.

    Args:
        answers: no two alike.
        compare: decides pairs in worker processes.
        stuck: answers that hung before; no worker is asked about them.
    """
    component = {answer: answer for answer in answers}
    undecided: set[Pair] = set()
    for one, other in combinations(sorted(answers), 2):
        decisions = quick_equal(one, other), quick_equal(other, one)
        if True in decisions:
            _join(component, one, other)
        elif None in decisions and not stuck & {one, other}:
            undecided.add((one, other))
    timeouts: Counter[str] = Counter()
    for matches in rounds(sorted({answer for pair in undecided for answer in pair})):
        asked = [
            (one, other)
            for one, other in matches
            if (one, other) in undecided
            and _root(component, one) != _root(component, other)
            and max(timeouts[one], timeouts[other]) < TIMEOUTS
        ]
        for pair, outcome in compare([*asked, *((other, one) for one, other in asked)]):
            if outcome.equal:
                _join(component, *pair)
            elif outcome.is_limit:
                timeouts.update(pair)
    members: dict[str, list[str]] = {}
    for answer in answers:
        members.setdefault(_root(component, answer), []).append(answer)
    return list(members.values())


def rounds(players: Sequence[str]) -> Iterator[list[Pair]]:
    """Every pair once, in rounds where each player has one match at most (the circle method).

    >>> list(rounds("abcd"))
    [[('a', 'd'), ('b', 'c')], [('a', 'c'), ('b', 'd')], [('a', 'b'), ('c', 'd')]]
    """
    ring: list[str | None] = [*players, *([None] if len(players) % 2 else [])]
    for _ in range(len(ring) - 1):
        matches = zip(ring[: len(ring) // 2], reversed(ring), strict=False)
        yield [
            (min(one, other), max(one, other))
            for one, other in matches
            if one is not None and other is not None
        ]
        ring = [ring[0], ring[-1], *ring[1:-1]]


def _root(component: dict[str, str], answer: str) -> str:
    while component[answer] != answer:
        answer = component[answer]
    return answer


def _join(component: dict[str, str], one: str, other: str) -> None:
    component[_root(component, other)] = _root(component, one)
