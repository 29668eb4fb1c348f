"""Responses cut off at the limit of tokens are told of at once, and afterwards."""

import pandas as pd
import pytest

from geomrl.rollout.cut_off import CutOffs, cut_off_note
from geomrl.rollout.engine import Completion


def completions(cut: int, whole: int) -> list[Completion]:
    return [Completion([1], [0.0], "length")] * cut + [Completion([1], [0.0], "stop")] * whole


def test_many_cut_off_are_told_of_once_while_sampling():
    said = []
    counting = CutOffs(320, said.append)
    counting.count(completions(8, 8))  # too few to say
    assert said == []
    counting.count(completions(1, 15))
    counting.count(completions(16, 0))
    assert len(said) == 1
    assert "9 of the first 32 responses were cut off at 320 tokens" in said[0]
    assert "--max-tokens" in said[0]


def test_few_cut_off_are_not_told_of():
    said = []
    counting = CutOffs(320, said.append)
    for _ in range(10):
        counting.count(completions(1, 31))
    assert said == []


def rollouts(ends, verdicts, max_tokens=320) -> pd.DataFrame:
    return pd.DataFrame({"finish_reason": ends, "verdict": verdicts, "max_tokens": max_tokens})


def test_an_answer_before_the_limit_counts_as_given():
    note = cut_off_note(
        rollouts(
            ["length", "length", "stop", "stop"], ["no_answer", "wrong", "no_answer", "correct"]
        )
    )
    assert note is not None
    assert note.startswith("1 of 4 responses (25 %) were cut off at 320 tokens before an answer")


@pytest.mark.parametrize(
    ("ends", "verdicts"),
    [
        (["stop"] * 3, ["no_answer"] * 3),
        ([None] * 3, ["no_answer"] * 3),  # another tool did not say how responses end
        (["length"] + ["stop"] * 19, ["no_answer"] + ["correct"] * 19),
        ([], []),
    ],
)
def test_no_note_where_few_or_unknown(ends, verdicts):
    assert cut_off_note(rollouts(ends, verdicts)) is None
