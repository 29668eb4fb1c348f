"""Negative controls: what they keep, and that what they draw is independent of the truth."""

from typing import get_args

import numpy as np
import pytest
import torch
from alignment_tables import build_table
from hypothesis import given, settings
from hypothesis import strategies as st

from geomrl.errors import GeomrlError
from geomrl.train.negative_controls import ARMS, random_position, relabel
from geomrl.train.values import Arm


def test_configuration_names_the_arms_that_exist():
    assert get_args(Arm) == ARMS


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_arms_keep_the_numbers_of_each_group(seed):
    _, group, correct = build_table(seed)
    sizes = torch.bincount(group[correct], minlength=200)
    for arm in ARMS:
        new_group, new_correct = relabel(arm, group, correct, seed)
        again = relabel(arm, group, correct, seed)
        assert torch.equal(new_group, again[0])
        assert torch.equal(new_correct, again[1])
        if arm == "wrong":
            assert torch.equal(new_correct, ~correct)
            assert torch.equal(new_group, group)
            continue
        assert torch.equal(torch.bincount(new_group[new_correct], minlength=200), sizes)
        assert torch.equal(new_group.sort().values, group.sort().values)
        if arm == "shuffled_groups":
            assert torch.equal(new_correct, correct)
            assert torch.equal(new_group[~correct], group[~correct])
        else:
            assert torch.equal(new_group, group)


def test_shuffled_labels_are_independent_of_the_true_ones():
    group = torch.arange(400).repeat_interleave(8)
    correct = torch.arange(3200) % 8 < 4
    _, drawn = relabel("shuffled_correct", group, correct, 0)
    assert len(drawn.view(400, 8).unique(dim=0)) > 60  # of 70: groups do not share a draw
    assert (drawn & correct).float().mean().item() == pytest.approx(1 / 4, abs=0.02)
    dealt, _ = relabel("shuffled_groups", group, correct, 0)
    assert (dealt == group)[correct].float().mean() < 0.02  # 1 in 400 comes home
    _, other = relabel("shuffled_correct", group, correct, 1)
    assert not torch.equal(drawn, other)


def test_a_shuffled_group_does_not_depend_on_the_others():
    _, group, correct = build_table(groups=8)
    _, whole = relabel("shuffled_correct", group, correct, 5)
    kept = group != group[0]
    _, part = relabel("shuffled_correct", group[kept], correct[kept], 5)
    assert torch.equal(whole[kept], part)


def test_the_true_arm_changes_nothing_and_an_unknown_one_is_named():
    _, group, correct = build_table()
    assert all(map(torch.equal, relabel("correct", group, correct, 0), (group, correct)))
    with pytest.raises(GeomrlError, match="'random': there is no such arm"):
        relabel("random", group, correct, 0)


def test_random_positions_cover_the_response_evenly():
    drawn = [random_position(4, seed) for seed in range(2000)]
    assert np.bincount(drawn) == pytest.approx(500, rel=0.15)
    assert random_position(1000, 3) == random_position(1000, 3)
    assert random_position(1, 9) == 0
    with pytest.raises(GeomrlError, match="no position to draw"):
        random_position(0, 0)
