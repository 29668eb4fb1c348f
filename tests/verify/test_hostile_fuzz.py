"""Random grammar and long repetitions: the caller's own process reads any text in a moment."""

import importlib.util
import sys
from pathlib import Path

import pytest
from cpu_limit import cpu_limit

from geomrl.problems.arithmetic import operation_path
from geomrl.verify.verifier import MathVerifier

PATH = Path(__file__).parents[2] / "benchmarks" / "hostile_text.py"
LIMIT_S = 0.2  # CPU time of one text; milliseconds are usual


@pytest.fixture(scope="module")
def hostile_text():
    spec = importlib.util.spec_from_file_location("hostile_text", PATH)
    module = sys.modules["hostile_text"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_five_thousand_texts_are_read_in_a_moment(hostile_text):
    def read(text):
        with cpu_limit(10 * LIMIT_S):
            hostile_text.read_in_this_process(text)

    texts = list(hostile_text.hostile_texts(5_000, seed=1))
    seconds = hostile_text.cpu_seconds(read, texts)
    slow = [texts[i] for i in (seconds > LIMIT_S).nonzero()[0]]
    # Neighbours on the same core make CPU seconds longer too, but not twice in a row.
    again = hostile_text.cpu_seconds(read, slow)
    assert [text[:80] for text, taken in zip(slow, again, strict=True) if taken > LIMIT_S] == []


def test_every_text_gets_a_verdict(hostile_text):
    texts = list(hostile_text.hostile_texts(60, seed=2))
    with MathVerifier(workers=1, timeout_s=1) as verifier:
        grades = verifier.grade([f"\\boxed{{{text}}}" for text in texts], ["2x"] * len(texts))
        classes = verifier.answer_classes(grades)
    assert {grade.verdict for grade in grades} <= {"correct", "wrong", "no_answer", "timeout"}
    for grade, number in zip(grades, classes, strict=True):
        assert (number is None) == (grade.answer is None)
        assert (grade.reason is not None) or grade.verdict != "timeout"


def test_a_number_of_thousands_of_digits_is_no_operation():
    assert operation_path("1" * 5000 + "+2=3, then 1+" + "2" * 5000 + "=3, so 3+4=7") == (
        operation_path("3+4=7")
    )
