"""How well and how fast the verifier grades: cases of public graders, and real rollouts.

    python benchmarks/verifier.py verifier_cases.jsonl rollouts.jsonl ...

CASES holds lines `{"kind": "pair", "gold", "pred", "expected", "source", ...}`. A pair is graded
as an answer: the content of the last closed box where there is one, else the whole string. A
disagreement whose expectation is another library's policy and not the truth for ours is listed,
with its reason and ruling, in tests/data/verifier_adjudication.csv; those with the ruling
"set aside" leave the count, every other one stays in it.

ROLLOUTS hold lines `{"gold", "response", "label", ...}`, where `label` is another grader's.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from geomrl.files import text_hash
from geomrl.verify.marker import BOXED, parse_marker
from geomrl.verify.verifier import MathVerifier

ADJUDICATION = Path(__file__).parents[1] / "tests" / "data" / "verifier_adjudication.csv"
WHOLE = r"re:(?s)\A(.*)\Z"


def main() -> None:
    """Grade the cases, then time the rollouts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path)
    parser.add_argument("rollouts", type=Path, nargs="*")
    parser.add_argument("--adjudication", type=Path, default=ADJUDICATION)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    report_cases(read_lines([options.cases]), read_adjudication(options.adjudication), options)
    if options.rollouts:
        report_rollouts(read_lines(options.rollouts), options)


def report_cases(
    cases: list[dict[str, Any]], rulings: dict[str, str], options: argparse.Namespace
) -> None:
    """Print the agreement on pairs, before and after adjudication, and every disagreement."""
    pairs = [case for case in cases if case["kind"] == "pair" and not case["conflict"]]
    with MathVerifier(WHOLE, workers=options.workers) as verifier:
        grades = verifier.grade(
            [as_answer(case["pred"]) for case in pairs], [as_answer(case["gold"]) for case in pairs]
        )
    agree = [
        grade.verdict in (("correct",) if case["expected"] else ("wrong", "no_answer"))
        for case, grade in zip(pairs, grades, strict=True)
    ]
    set_aside = [
        not right and rulings.get(case_key(case)) == "set aside"
        for case, right in zip(pairs, agree, strict=True)
    ]
    counted = len(pairs) - sum(set_aside)
    print(f"pairs: {len(pairs)}, agree {sum(agree)} ({sum(agree) / len(pairs):.1%})")
    print(f"after adjudication: {sum(agree)} of {counted} ({sum(agree) / counted:.1%})")
    for case, grade, right, aside in zip(pairs, grades, agree, set_aside, strict=True):
        if not right:
            mark = "set aside" if aside else "COUNTED"
            print(
                f"  {mark}: expected {case['expected']}, ours {grade.verdict}"
                f" {grade.reason or ''} | {case['gold'][:50]!r} | {case['pred'][-60:]!r}"
            )


def report_rollouts(rollouts: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print responses graded per second, cold and warm, and disagreements with the labels."""
    responses = [row["response"] for row in rollouts]
    golds = [row["gold"] for row in rollouts]
    with MathVerifier(workers=options.workers) as verifier:
        for state in ("cold, start-up of the workers included", "warm"):
            begin = time.perf_counter()
            grades = verifier.grade(responses, golds)
            seconds = time.perf_counter() - begin
            print(f"{len(responses) / seconds:.0f} responses a second ({state})")
    print("verdicts:", dict(Counter(grade.verdict for grade in grades)))
    disagreements = Counter(
        (row["gold"], grade.answer, grade.verdict, row["label"])
        for row, grade in zip(rollouts, grades, strict=True)
        if (grade.verdict == "correct") != row["label"]
    )
    print(f"disagreements with the labels: {disagreements.total()}")
    for (gold, answer, verdict, label), times in disagreements.items():
        print(f"  {times} x gold {gold!r}, answer {answer!r}: ours {verdict}, label {label}")


def as_answer(text: str) -> str:
    """The content of the last closed box, else the whole text."""
    span = parse_marker(BOXED).find(text)
    return text if span is None else text[span.answer_start : span.answer_end]


def case_key(case: dict[str, Any]) -> str:
    """Identifies a case in the adjudication table without repeating a long response there."""
    return text_hash(case["gold"], case["pred"])


def read_adjudication(path: Path) -> dict[str, str]:
    """The ruling of each adjudicated case, by its key."""
    with path.open(newline="") as file:
        return {row["key"]: row["ruling"] for row in csv.DictReader(file)}


def read_lines(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """All rows of some JSONL files."""
    return [json.loads(line) for path in paths for line in path.open()]


if __name__ == "__main__":
    main()
