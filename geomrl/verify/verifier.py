"""Verdicts on responses, and the answer classes of one problem."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

from geomrl.errors import GeomrlError
from geomrl.verify.blank import is_blank
from geomrl.verify.equivalence import equal_answers
from geomrl.verify.grading import Uncompared, quick_equal
from geomrl.verify.marker import BOXED, Marker, SearchTimeout, parse_marker
from geomrl.verify.workers import Outcome, WorkerPool

Verdict = Literal["correct", "wrong", "no_answer", "timeout"]


@dataclass(frozen=True)
class Grade:
    """The verdict on one response.

    `answer` is what is in the graded marker, stripped of white space, and None without a
    closed marker that contains something. `reason` says why a verdict is "timeout" ("cpu_time",
    "memory", "wall_clock" where a worker made no progress, "error: ...", or "marker" where the
    marker's own expression took too long, so that there is no answer either), or why a "wrong"
    answer was compared as text only.
    """

    verdict: Verdict
    answer: str | None
    reason: str | None = None


class Verifier(Protocol):
    """Grades responses against gold answers, and groups the answers of one problem."""

    @property
    def marker(self) -> Marker:
        """Where a response puts its answer."""
        ...

    def grade(
        self,
        responses: Sequence[str],
        golds: Sequence[str],
        progress: Callable[[int], None] | None = None,
    ) -> list[Grade]:
        """One grade a response, in order; `progress` is called with how many are done."""
        ...

    def answer_classes(self, grades: Sequence[Grade]) -> list[int | None]:
        """The answer class of each grade of one problem; 0 is the correct one."""
        ...


class MathVerifier:
    """The default verifier: exact rules, then math-verify in worker processes.

    Only the last closed marker of a response that is not blank is graded; a response without one is
    "no_answer". An answer whose comparison exceeds `timeout_s` seconds of CPU time or `memory_mb`
    MiB, or raises, gets the verdict "timeout" with its reason: it is never silently wrong. No
    verdict depends on what else the machine is doing.

    >>> with MathVerifier() as verifier:
    ...     [grade.verdict for grade in verifier.grade([r"So \\\\boxed{1/2}", ""], ["0.5", "1"])]
    ['correct', 'no_answer']
    """

    def __init__(
        self,
        marker: str | Marker = BOXED,
        *,
        workers: int = 2,
        timeout_s: float = 5.0,
        memory_mb: int = 1024,
    ) -> None:
        for name, value in (
            ("workers", workers),
            ("timeout_s", timeout_s),
            ("memory_mb", memory_mb),
        ):
            if value <= 0:
                raise GeomrlError(
                    f"verifier option {name}={value} is not positive: give a positive number"
                )
        self.marker: Marker = parse_marker(marker) if isinstance(marker, str) else marker
        self._pool = WorkerPool(workers, timeout_s, memory_mb)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes; a later call starts new ones."""
        self._pool.close()

    def grade(
        self,
        responses: Sequence[str],
        golds: Sequence[str],
        progress: Callable[[int], None] | None = None,
    ) -> list[Grade]:
        """Grade each response against its gold answer, in order.

        `progress` is called with the number of responses graded so far, out of `len(responses)`.

        Raises:
            GeomrlError: the two lists differ in length, or workers cannot be started.
        """
        if len(responses) != len(golds):
            raise GeomrlError(
                f"{len(responses)} responses but {len(golds)} gold answers: give one gold answer"
                " for each response"
            )
        read = [self._read(response) for response in responses]
        times = Counter(
            (gold, answer)
            for gold, answer in zip(golds, read, strict=True)
            if isinstance(answer, str)
        )
        outcomes: dict[tuple[str, str], Outcome] = {}
        done = len(responses) - times.total()
        if progress is not None and done:
            progress(done)
        for pair, outcome in self._compare(list(times)):
            outcomes[pair] = outcome
            done += times[pair]
            if progress is not None:
                progress(done)
        return [
            answer if isinstance(answer, Grade) else _grade(answer, outcomes[gold, answer])
            for gold, answer in zip(golds, read, strict=True)
        ]

    def extract(self, response: str) -> str | None:
        """The content of the graded marker, stripped; None without one.

        Raises:
            GeomrlError: the marker's regular expression takes too long on this response.
        """
        span = self.marker.find(response)
        return None if span is None else response[span.answer_start : span.answer_end].strip()

    def _read(self, response: str) -> str | Grade:
        """The answer of a response, or its grade where it has none."""
        try:
            answer = self.extract(response)
        except SearchTimeout:
            return Grade("timeout", None, "marker")
        return Grade("no_answer", None) if answer is None else answer

    def answer_classes(self, grades: Sequence[Grade]) -> list[int | None]:
        """Number the distinct answers among the grades of one problem.

        Class 0 contains the correct answers; the others are the connected components of equality
        among the remaining answers (`verify.equivalence`), numbered by first appearance. An answer
        that timed out joins another only when both are written alike. No answer, no class.
        """
        stuck = {g.answer for g in grades if g.answer is not None and g.verdict == "timeout"}
        others = dict.fromkeys(
            g.answer for g in grades if _has_answer(g) and g.verdict != "correct" and g.answer
        )
        components = equal_answers(list(others), self._compare, stuck)
        number = {answer: i for i, part in enumerate(components, 1) for answer in part}
        return [
            None if not _has_answer(g) else 0 if g.verdict == "correct" else number[str(g.answer)]
            for g in grades
        ]

    def _compare(
        self, pairs: Sequence[tuple[str, str]]
    ) -> Iterator[tuple[tuple[str, str], Outcome]]:
        """Each (gold, answer) pair with its outcome: first those that exact rules decide."""
        undecided: list[tuple[str, str]] = []
        for pair in pairs:
            decision = quick_equal(*pair)
            if decision is None:
                undecided.append(pair)
            elif isinstance(decision, Uncompared):
                yield pair, Outcome(False, decision.reason)
            else:
                yield pair, Outcome(decision)
        if undecided:
            yield from zip(undecided, self._pool.run(undecided), strict=True)


def _grade(answer: str, outcome: Outcome) -> Grade:
    if outcome.equal is None:
        return Grade("timeout", answer, outcome.reason)
    return Grade("correct" if outcome.equal else "wrong", answer, outcome.reason)


def _has_answer(grade: Grade) -> bool:
    """Whether it says something: tables of old hold blank answers, which are none."""
    return grade.answer is not None and not is_blank(grade.answer)
