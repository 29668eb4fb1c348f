"""Whether two policies' rollouts tell them apart."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomrl.compare.policy_change import _permuted, answer_distances, policy_evidence
from geomrl.errors import GeomrlError


def rollouts(chance, n=8, seed=0, length=60.0):
    """Rollouts with one correct answer (class 0) and three wrong ones."""
    rng = np.random.default_rng(seed)
    rows = []
    for p, c in enumerate(chance):
        for sample in range(n):
            right = rng.random() < c
            rows.append(
                {
                    "problem": f"sums/{p}", "sample": sample,
                    "verdict": "correct" if right else "wrong",
                    "answer_class": 0 if right else int(rng.integers(1, 4)),
                    "length": round(length * np.exp(0.2 * rng.normal())),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 6), st.integers(0, 2**31))
def test_answer_distance_is_agreement_within_less_agreement_between(n, seed):
    one, other = np.random.default_rng(seed).integers(0, 3, (2, 1, n))
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    expected = np.mean(
        [
            int(one[0, i] == one[0, j])
            + int(other[0, i] == other[0, j])
            - 2 * int(one[0, i] == other[0, j])
            for i, j in pairs
        ]
    )
    assert answer_distances(one, other)[0] == pytest.approx(expected)


def test_answer_distance_is_unbiased():
    rng = np.random.default_rng(1)
    p, q = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.3, 0.5])
    same = answer_distances(rng.choice(3, (20_000, 4), p=p), rng.choice(3, (20_000, 4), p=p))
    assert abs(same.mean()) < 4 * same.std() / np.sqrt(len(same))
    apart = answer_distances(rng.choice(3, (20_000, 4), p=p), rng.choice(3, (20_000, 4), p=q))
    assert apart.mean() == pytest.approx(((p - q) ** 2).sum(), abs=4 * apart.std() / 140)


def test_permutations_are_swaps_of_sample_pairs():
    one, other = np.array([[0, 1, 1]]), np.array([[2, 1, 0]])
    swapped = set()
    for flips in itertools.product([False, True], repeat=3):
        a, b = np.where(flips, other, one), np.where(flips, one, other)
        swapped.add(round(float(answer_distances(a, b)[0]), 9))
    drawn = set(_permuted(one, other, 400, seed=0).round(9).tolist())
    assert drawn == swapped


def test_level_where_the_policies_are_one():
    chance = np.random.default_rng(2).beta(2, 2, 25)
    found = [
        policy_evidence(
            rollouts(chance, seed=2 * i), rollouts(chance, seed=2 * i + 1), n_perm=199, n_boot=100
        )
        for i in range(100)
    ]
    for name in ("pass_at_1", "answers", "log_length"):
        rejected = np.mean([getattr(f, name).p <= 0.05 for f in found])
        assert rejected <= 0.11, name


def test_changes_are_found_where_they_are():
    chance = np.random.default_rng(3).beta(2, 2, 60)
    better = policy_evidence(rollouts(chance), rollouts(chance**0.5, seed=1))
    assert better.pass_at_1.low > 0
    assert better.answers.p < 0.01
    assert better.log_length.p > 0.01
    longer = policy_evidence(rollouts(chance), rollouts(chance, seed=1, length=90.0))
    assert longer.log_length.value == pytest.approx(np.log(1.5), abs=0.05)
    other = rollouts(chance, seed=1)
    other["answer_class"] = other["answer_class"].replace({1: 2, 3: 2})  # other wrong answers
    assert policy_evidence(rollouts(chance), other).answers.p < 0.01


def test_equal_rollouts_change_nothing():
    found = policy_evidence(rollouts([0.5] * 12), rollouts([0.5] * 12))
    assert found.pass_at_1.p == found.log_length.p == found.answers.p == 1.0


def test_a_missing_sample_or_problem_is_refused():
    whole = rollouts([0.5] * 5)
    with pytest.raises(GeomrlError, match="another number"):
        policy_evidence(whole, whole.iloc[1:])
    with pytest.raises(GeomrlError, match="one policy only"):
        policy_evidence(whole, whole[whole["problem"] != "sums/4"])
