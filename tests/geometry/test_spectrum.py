import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import build_world

from geomrl.geometry.groups import group_rows
from geomrl.geometry.spectrum import (
    effective_rank,
    matched_spectra,
    participation_ratio,
    residual_share,
    singular_values,
)


def naive_share(states, problem):
    """One-way random effects by the textbook, coordinate by coordinate."""
    names = np.unique(problem)
    sizes = np.array([(problem == p).sum() for p in names])
    n, k = sizes.sum(), len(names)
    means = np.array([states[problem == p].mean(axis=0) for p in names])
    ssw = sum(((states[problem == p] - m) ** 2).sum() for p, m in zip(names, means, strict=True))
    ssb = (sizes[:, None] * (means - states.mean(axis=0)) ** 2).sum()
    msw, msb = ssw / (n - k), ssb / (k - 1)
    n0 = (n - (sizes**2).sum() / n) / (k - 1)
    return msw / (msw + (msb - msw) / n0)


@pytest.fixture(scope="module")
def world():
    rows, states = build_world(2, problems=10, samples=7, uneven=True)
    groups = group_rows(rows)
    return groups, states[groups.order].astype(float)


def test_residual_share_and_its_jackknife_equal_the_textbook(world):
    groups, x = world
    for chosen in (groups.correct, ~groups.correct, np.ones(len(x), bool)):
        found = residual_share(x + 100.0, groups, chosen)  # a common shift is no variance
        kept, problem = x[chosen], groups.problem[chosen]
        assert found.value == pytest.approx(naive_share(kept, problem))
        names = np.unique(problem)
        parts = [naive_share(kept[problem != p], problem[problem != p]) for p in names]
        g = len(names)
        se = np.sqrt((g - 1) / g * ((parts - np.mean(parts)) ** 2).sum())
        assert found.high - found.value == pytest.approx(found.value - found.low)
        assert found.high - found.value == pytest.approx(scipy.stats.t.ppf(0.975, g - 1) * se)
        assert found.n_clusters == g


def test_residual_share_is_unbiased_where_groups_are_small():
    # Noise 1, problems 1: the share is one half whatever the group size; the plug-in with two
    # rollouts a problem would say one third.
    found = []
    for seed in range(40):
        rows, states = build_world(seed, problems=60, samples=2, hidden=8)
        groups = group_rows(rows)
        everyone = np.ones(len(rows), bool)
        found.append(residual_share(states[groups.order], groups, everyone).value)
    assert np.mean(found) == pytest.approx(0.5, abs=0.02)


def test_residual_share_needs_two_problems_and_a_repeat(world):
    groups, x = world
    assert np.isnan(residual_share(x, groups, groups.problem == 0).value)
    assert np.isnan(residual_share(x, groups, np.zeros(len(x), bool)).value)
    singles = np.zeros(len(x), bool)
    singles[groups.starts[:-1]] = True
    assert np.isnan(residual_share(x, groups, singles).value)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=12))
@settings(deadline=None)
def test_ranks_lie_between_one_and_the_number_of_values(values):
    v = np.array(values)
    for measure in (effective_rank, participation_ratio):
        assert 1 - 1e-9 <= measure(v) <= len(v) + 1e-9
        assert measure(v) == pytest.approx(measure(7 * np.append(v, 0.0)))
        assert measure(np.ones(len(v))) == pytest.approx(len(v))


def test_effective_rank_is_of_singular_values_not_of_variances():
    # Roy and Vetterli 2007: shares 2/3 and 1/3, entropy ln 3 - 2/3 ln 2.
    assert effective_rank(np.array([2.0, 1.0])) == pytest.approx(3 / 2 ** (2 / 3))
    assert participation_ratio(np.array([2.0, 1.0])) == pytest.approx(25 / 17)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_singular_values_are_those_of_the_centred_states(shape):
    x = np.random.default_rng(0).normal(size=shape) + 50.0
    expected = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    found = np.sort(singular_values(x))[::-1]
    np.testing.assert_allclose(found[:4], expected[:4])
    assert (found[4:] < 1e-5).all() or shape == (9, 5)
    assert singular_values(np.ones(shape)).size == 0


def test_spectra_compare_equal_numbers_of_correct_and_wrong_states():
    rows, states = build_world(
        0, problems=60, samples=6, hidden=8, accuracy=(8.0, 1.0), correct=0.0
    )
    lift = (rows["verdict"] == "wrong").to_numpy()[:, None] * np.random.default_rng(1).normal(
        size=(len(rows), 1)
    )
    states = states + 6 * lift * np.eye(8)[0]  # wrong ones spread along one direction
    groups = group_rows(rows)
    found, n = matched_spectra(states[groups.order], groups, seed=0)
    mixed = (groups.n_correct > 0) & (groups.n_correct < groups.sizes)
    assert n == mixed.sum() < 40
    for measure in ("effective_rank", "participation_ratio"):
        right, wrong = found[measure, "C"], found[measure, "I"]
        assert wrong.high < right.low
        assert right.low < right.value < right.high <= 16
        assert right.n_clusters == n
    again, _ = matched_spectra(states[groups.order], groups, seed=0)
    assert again == found


def test_spectra_without_mixed_problems_are_nan():
    rows, states = build_world(0, accuracy=(1000.0, 0.001))
    groups = group_rows(rows)
    found, n = matched_spectra(states[groups.order], groups, seed=0)
    assert n == 0
    assert all(np.isnan(interval.value) for interval in found.values())
