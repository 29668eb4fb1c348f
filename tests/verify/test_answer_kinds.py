"""Verdicts by kind of answer: units, words, Unicode, bases, times, conditions, several guesses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verify_cases import DIFFERENT, EQUAL

from geomrl.verify.grading import quick_equal
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


SAME_QUANTITY = [("km", "m", 1000), ("hours", "min", 60), ("kg", "g", 1000), ("ft", "inches", 12)]
SAME_QUANTITY += [("m^2", "cm^2", 10_000), ("dollars", "cents", 100), ("kJ", "J", 1000)]


@given(st.integers(1, 10**6), st.sampled_from(SAME_QUANTITY))
def test_units_are_converted_and_never_dropped_on_both_sides(number, units):
    large, small, factor = units
    gold = rf"{number}\text{{ {large}}}"
    assert quick_equal(gold, rf"{number * factor}\text{{ {small}}}") is True
    assert quick_equal(rf"{number * factor}\text{{ {small}}}", gold) is True
    assert quick_equal(gold, rf"{number}\text{{ {small}}}") is False
    assert quick_equal(gold, str(number)) is True
    assert quick_equal(gold, str(number * factor)) is False


@given(st.text("0123456789ABCDEF", min_size=1, max_size=6), st.integers(2, 16), st.integers(2, 16))
def test_a_base_is_part_of_a_numeral(digits, base, other):
    digits = "1" + "".join(digit for digit in digits if int(digit, 16) < min(base, other))
    same = quick_equal(rf"{digits}_{{{base}}}", rf"{digits.lower()}_{{{other}}}")
    assert same is (base == other)
    assert quick_equal(rf"{digits}_{{{base}}}", digits) is True
