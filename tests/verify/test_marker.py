"""The answer marker: last closed, outermost, and linear in the text."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomrl.errors import GeomrlError
from geomrl.verify.marker import BOXED, MarkerSpan, parse_marker

box = parse_marker(BOXED)


def content(marker, text):
    span = marker.find(text)
    return None if span is None else text[span.answer_start : span.answer_end]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{42} wait no, \boxed{43}", "43"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{7}}", r"\boxed{7}"),
        (r"\boxed{1} \boxed{x \boxed{2} y}", r"x \boxed{2} y"),
        (r"\boxed{3} and \boxed{never closed", "3"),
        (r"\boxed{open \boxed{5}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a \} b}", r"a \} b"),
        (r"\boxed{1\\}", r"1\\"),
        (r"line\\\boxed{4}", "4"),
        (r"\\boxed{4}", "4"),  # an over-escaped box is still a box
        (r"} {} \boxed{6} }", "6"),
        (r"\boxed{}", None),
        (r"{\boxed{8}", "8"),
        ("no box", None),
        (r"\boxed 9", None),
        (r"\boxed{", None),
        ("", None),
    ],
)
def test_the_last_closed_box_counts(text, answer):
    assert content(box, text) == answer


def test_offsets_name_every_part():
    text = r"so $\boxed{\frac{1}{2}}$."
    span = box.find(text)
    assert text[span.start : span.open_end] == "\\boxed{"
    assert text[span.answer_start : span.answer_end] == "\\frac{1}{2}"
    assert text[span.start : span.end] == "\\boxed{\\frac{1}{2}}"
    assert span == MarkerSpan(4, 11, answer_start=11, answer_end=22, end=23)


@pytest.mark.parametrize(
    ("spec", "text", "answer"),
    [
        ("<answer>...</answer>", "<answer>1</answer><answer>2</answer>", "2"),
        ("<answer>...</answer>", "<answer>1</answer> <answer>2", "1"),
        (
            "<answer>...</answer>",
            "<answer>a <answer>b</answer> c</answer>",
            "a <answer>b</answer> c",
        ),
        ("<answer>...</answer>", "</answer><answer>x", None),
        ("**...**", "**a** and **b**", "b"),
        (r"re:####\s*(.+)", "#### 10\nmore\n#### 20", "20"),
        (r"re:####\s*(.+)", "none", None),
        (r"re:(?i)Answer\s*:\s*([^\n]+)", "Answer: 5\nANSWER: 6", "6"),
        (r"re:a(\d)?", "a1 a", "1"),  # a match without its group is no answer
        ("\\fbox{", r"\boxed{1} \fbox{2}", "2"),
    ],
)
def test_other_markers(spec, text, answer):
    assert content(parse_marker(spec), text) == answer


def test_a_regular_expression_leaves_white_space_out_of_its_opening_string():
    span = parse_marker(r"re:####\s*(\d+)").find("so ####  42!")
    assert span == MarkerSpan(start=3, open_end=7, answer_start=9, answer_end=11, end=11)


@pytest.mark.parametrize("spec", [BOXED, "<a>...</a>", r"re:####\s*(.+)", "**...**", "\\fbox{"])
def test_specs_round_trip(spec):
    marker = parse_marker(spec)
    assert marker.spec == spec
    assert parse_marker(marker.spec) == marker
    assert parse_marker("\\boxed{...}") == box


@pytest.mark.parametrize(
    "spec", ["####", "", "...", "<a>...", "re:(", "re:no group", "re:(a)(b)", "\\boxed{\\text{"]
)
def test_a_bad_spec_is_named(spec):
    with pytest.raises(GeomrlError, match="answer marker"):
        parse_marker(spec)


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 50_000,
        "\\boxed{" * 20_000 + "}" * 20_000,
        "\\boxed{" + "1" * 100_000 + "}",
        "\\" * 100_000,
        "{" * 100_000 + "\\boxed{1}",
        "}" * 100_000 + "\\boxed{1}",
        "\\boxed{ and so " * 10_000 + "5" + "}" * 10_000,
        "\\boxed" + " " * 100_000 + "{",
        "\\boxed{" + " " * 100_000 + "}",
    ],
)
def test_hard_texts_take_linear_time(text):
    start = time.process_time()
    box.find(text)
    assert time.process_time() - start < 1.0  # some milliseconds; a quadratic search takes minutes


balanced = st.recursive(
    st.text(alphabet="12 ,+", max_size=4),
    lambda inner: st.one_of(
        inner.map(lambda s: "{" + s + "}"),
        inner.map(lambda s: "\\boxed{" + s + "}"),
        st.tuples(inner, inner).map("".join),
        inner.map(lambda s: s + "\\}"),
        inner.map(lambda s: s + "\\\\ "),
    ),
    max_leaves=8,
).filter(lambda answer: re.search(r"[12,+]|\\\\", answer))
unrelated = st.text(alphabet="ab \\}", max_size=10).map(lambda s: s + " ")


@given(answer=balanced, before=unrelated, after=st.text(alphabet="ab }1", max_size=10))
def test_a_balanced_answer_comes_back_whole(answer, before, after):
    assert content(box, before + "\\boxed{" + answer + "}" + after) == answer


pieces = st.lists(
    st.sampled_from(["\\", "{", "}", "a", "b ", "\\boxed{", "\\boxed{a}"]), max_size=40
).map("".join)


@given(text=pieces)
@settings(max_examples=300)
def test_the_span_is_the_one_that_counting_braces_gives(text):
    span = box.find(text)
    assert (span and (span.start, span.end)) == by_counting(text)


def by_counting(text):
    """For every box count braces forward to its end (quadratic); the greatest end wins.

    Blank boxes do not count, nor what holds a box that is not blank, and a word of its own.
    """
    units, position = [], 0
    while position < len(text):
        if text.startswith("\\boxed{", position):
            units.append(("box", position))
            position += len("\\boxed{")
        elif text[position] == "\\" and not text.startswith("\\boxed{", position + 1):
            position += 2
        else:
            units.append((text[position], position))
            position += 1
    closed = []
    for index, (unit, start) in enumerate(units):
        depth = 0
        for other, place in units[index:] if unit == "box" else []:
            depth += {"box": 1, "{": 1, "}": -1}.get(other, 0)
            if depth == 0:
                closed.append((place + 1, start))
                break
    full = [(end, start) for end, start in closed if not is_blank_by_hand(text[start:end])]
    counted = []
    for end, start in full:
        own = text[start + len("\\boxed{") : end - 1]
        for inner_end, inner_start in closed:
            if start < inner_start and inner_end < end:
                own = own.replace(text[inner_start:inner_end], "|")
        swallows = any(start < s and e < end for e, s in full)
        if not (swallows and re.search(r"(?<![\\A-Za-z])[A-Za-z]{2}", own)):
            counted.append((end, start))
    return max(counted)[::-1] if counted else None


def is_blank_by_hand(box):
    return not re.sub(r"[{} ]", "", box.replace("\\boxed", "").replace("\\ ", ""))
