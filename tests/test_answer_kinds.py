"""Verdicts by kind of answer: units, words, Unicode, bases, times, conditions, several guesses."""

import pytest
from verify_cases import DIFFERENT, EQUAL

from geomrl.verify.verifier import MathVerifier

KINDS = sorted(EQUAL)


@pytest.fixture(scope="module")
def verifier():
    with MathVerifier(workers=1, timeout_s=20) as verifier:
        yield verifier


def wrongly_graded(verifier, pairs, verdict):
    """The pairs that get another verdict, each as (gold, answer, verdict, reason)."""
    responses = [f"So it is \\boxed{{{answer}}}." for _, answer in pairs]
    grades = verifier.grade(responses, [gold for gold, _ in pairs])
    return [
        (*pair, grade.verdict, grade.reason)
        for pair, grade in zip(pairs, grades, strict=True)
        if grade.verdict != verdict
    ]


def test_every_kind_has_right_and_wrong_answers():
    assert sorted(DIFFERENT) == KINDS
    assert all(len(EQUAL[kind]) >= 5 and len(DIFFERENT[kind]) >= 5 for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_answer_is_right_however_it_is_spelled(verifier, kind):
    assert wrongly_graded(verifier, EQUAL[kind], "correct") == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_different_answer_is_never_paid_for(verifier, kind):
    assert wrongly_graded(verifier, DIFFERENT[kind], "wrong") == []
