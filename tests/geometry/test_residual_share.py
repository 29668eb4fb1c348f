"""Residual shares of single problems, at an equal number of correct rollouts."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from geomrl.errors import GeomrlError
from geomrl.geometry.groups import group_rows
from geomrl.geometry.residual import problem_shares
from geomrl.geometry.spectrum import residual_share


def draw(seed, sizes, spreads, between=1.0, d=3):
    """States of problems of given numbers of rollouts and spreads, with names and ids."""
    rng = np.random.default_rng(seed)
    states, problems, rollouts = [], [], []
    for p, (n, spread) in enumerate(zip(sizes, spreads, strict=True)):
        centre = between * rng.normal(size=d)
        states.append(centre + spread * rng.normal(size=(n, d)))
        problems += [f"p{p:03d}"] * n
        rollouts += [f"p{p:03d}/{i:02d}" for i in range(n)]
    return np.concatenate(states), problems, rollouts


@given(seed=st.integers(0, 2**31), k=st.integers(2, 5), n=st.integers(2, 8))
@settings(max_examples=30, deadline=None)
def test_with_exactly_k_each_the_mean_is_the_within_group_share(seed, k, n):
    states, problems, rollouts = draw(seed, [k] * n, np.linspace(0.5, 2, n))
    rows = pd.DataFrame({"rollout_id": rollouts, "problem_id": problems, "verdict": "correct"})
    groups = group_rows(rows)
    whole = residual_share(states[groups.order], groups, groups.correct)
    found = problem_shares(states, problems, rollouts, k=k)
    np.testing.assert_allclose(found.share.mean(), whole.value, rtol=1e-9)


@given(seed=st.integers(0, 2**31), k=st.integers(2, 4))
@settings(max_examples=30, deadline=None)
def test_a_share_is_the_trace_of_k_of_the_problem_s_states_over_all_variance(seed, k):
    """By hand, pair by pair: the trace is the mean over pairs of half the squared distance."""
    sizes = [k, 2 * k, 3 * k, k - 1, 2 * k - 1]
    states, problems, rollouts = draw(seed, sizes, [1, 2, 0.5, 1, 1])
    found = problem_shares(states, problems, rollouts, k=k, n_draws=1, seed=seed)
    assert found.problems == ("p000", "p001", "p002", "p004")
    assert found.n_left_out == 1
    own = states[:k]
    gaps = [np.sum((own[i] - own[j]) ** 2) / 2 for i in range(k) for j in range(i)]
    np.testing.assert_allclose(found.share[0] * found.total, np.mean(gaps))
    assert np.isfinite(found.others[0]).tolist() == [False, True, True, False]


def test_the_two_sets_are_disjoint_and_each_of_exactly_k():
    """Every state is its own direction: a set's trace tells which states are in it."""
    k, n = 3, 7
    lengths = 2.0 ** np.arange(n)
    states = np.concatenate([np.diag(lengths), np.diag(lengths)])
    problems, rollouts = ["a"] * n + ["b"] * n, [f"r{i:02d}" for i in range(2 * n)]
    found = problem_shares(states, problems, rollouts, k=k, n_draws=50, seed=5)
    for one, other in zip(
        (found.draws * found.total).ravel(), (found.others * found.total).ravel(), strict=True
    ):
        # The trace of k orthogonal states is sum |x|^2 / k: in base 4, one digit a state.
        sets = [round(trace * k) for trace in (one, other)]
        digits = [{i for i in range(n) if value >> (2 * i) & 1} for value in sets]
        assert [len(each) for each in digits] == [k, k]
        assert not digits[0] & digits[1]


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_shift_rotation_and_order_change_nothing(seed):
    states, problems, rollouts = draw(seed, [4, 6, 9], [1, 2, 3])
    rng = np.random.default_rng(seed + 1)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    mixed = rng.permutation(len(states))
    one = problem_shares(states, problems, rollouts, seed=seed)
    moved = 3 * states @ rotation + 100
    other = problem_shares(
        moved[mixed], [problems[i] for i in mixed], [rollouts[i] for i in mixed], seed=seed
    )
    np.testing.assert_allclose(one.share, other.share, rtol=1e-8)


def test_a_draw_does_not_depend_on_other_problems():
    states, problems, rollouts = draw(0, [9, 9, 9], [1, 2, 3])
    whole = problem_shares(states, problems, rollouts)
    part = problem_shares(states[9:], problems[9:], rollouts[9:])
    np.testing.assert_allclose(part.draws * part.total, whole.draws[:, 1:] * whole.total)


def test_shares_are_unbiased_and_reliable_where_problems_differ():
    spreads = np.linspace(0.2, 2, 400)
    states, problems, rollouts = draw(3, [8] * 400, spreads, between=1.0)
    found = problem_shares(states, problems, rollouts)
    true = 3 * spreads**2 / (3 * (spreads**2).mean() + 3)
    assert abs((found.draws - true).mean()) < 0.02
    assert np.corrcoef(found.draws[0], found.others[0])[0, 1] > 0.5


def test_what_has_no_share_is_refused():
    states, problems, rollouts = draw(0, [3, 3, 5], [1, 1, 1])
    with pytest.raises(GeomrlError, match="1 of 3 problems have 4 correct rollouts"):
        problem_shares(states, problems, rollouts)
    with pytest.raises(GeomrlError, match="k = 1"):
        problem_shares(states, problems, rollouts, k=1)
    with pytest.raises(GeomrlError, match="all states are equal"):
        problem_shares(np.full_like(states, 0.1), problems, rollouts, k=2)


def test_draws_converge_to_the_variance_of_all_and_ranks_are_their_mean():
    states, problems, rollouts = draw(4, [4, 7, 12], [1, 2, 0.5])
    found = problem_shares(states, problems, rollouts, n_draws=4000)
    spans = [slice(0, 4), slice(4, 11), slice(11, 23)]
    whole = [np.var(states[span], axis=0, ddof=1).sum() for span in spans]
    np.testing.assert_allclose(found.share * found.total, whole, rtol=0.05)
    assert found.n_correct.tolist() == [4, 7, 12]
    order = found.draws.argsort(axis=1).argsort(axis=1) + 1
    np.testing.assert_allclose(found.rank, order.mean(axis=0))


def test_the_number_of_correct_rollouts_alone_makes_no_association():
    """The same spread everywhere: estimates from all rollouts would rank easy problems higher."""
    ours, naive = [], []
    for seed in range(40):
        sizes = np.random.default_rng(seed).integers(4, 40, size=100)
        states, problems, rollouts = draw(seed, sizes, np.ones(100), d=1)
        found = problem_shares(states, problems, rollouts, n_draws=60)
        ours.append(scipy.stats.spearmanr(found.rank, sizes).statistic)
        parts = np.split(states, np.cumsum(sizes)[:-1])
        alone = [np.var(part, ddof=1) for part in parts]
        naive.append(scipy.stats.spearmanr(alone, sizes).statistic)
    error = np.std(ours) / np.sqrt(len(ours))
    assert abs(np.mean(ours)) < 3 * error
    assert np.mean(naive) > np.mean(ours) + 2 * error
