"""Partial rank correlation: against independent formulas, and its interval, level and power."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from geomrl.errors import GeomrlError
from geomrl.stats.partial import (
    corrected_partial,
    detectable_correlation,
    partial_spearman,
    spearman_brown,
    without_noise,
)


def draw(rng, n, xz=0.6, yz=0.7, xy=0.0):
    """x and y that share z, and each other beyond it."""
    z, own, common = rng.normal(size=(3, n))
    x = xz * z + common
    return x, yz * z + xy * common + own, z


@given(seed=st.integers(0, 2**31), n=st.integers(8, 60), ties=st.booleans())
@settings(max_examples=50, deadline=None)
def test_one_covariate_is_the_textbook_s_formula(seed, n, ties):
    x, y, z = draw(np.random.default_rng(seed), n, xy=0.4)
    if ties:
        y = np.round(y)
    r = scipy.stats.spearmanr(np.stack([x, y, z], axis=1)).statistic
    expected = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert partial_spearman(x, y, z[:, None]).value == pytest.approx(expected, abs=1e-9)
    assert corrected_partial(r[0, 1], r[0, 2], r[1, 2], 1.0) == pytest.approx(expected)


@given(seed=st.integers(0, 2**31), c=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_several_covariates_are_the_inverse_of_the_correlation_matrix(seed, c):
    table = np.random.default_rng(seed).normal(size=(40, c + 2)) @ (
        np.eye(c + 2) + np.random.default_rng(seed + 1).normal(size=(c + 2, c + 2)) / 2
    )
    inverse = np.linalg.inv(scipy.stats.spearmanr(table).statistic)
    expected = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
    assert partial_spearman(table[:, 0], table[:, 1], table[:, 2:]).value == pytest.approx(expected)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_without_covariates_it_is_scipy_s_and_monotone_changes_do_nothing(seed):
    x, y, z = draw(np.random.default_rng(seed), 25)
    theirs = scipy.stats.spearmanr(x, y)
    ours = partial_spearman(x, y)
    assert (ours.value, ours.p) == pytest.approx((theirs.statistic, theirs.pvalue))
    one = partial_spearman(x, y, z[:, None])
    other = partial_spearman(np.exp(x), y**3, -z[:, None])
    assert one.value == pytest.approx(other.value)
    assert (one.low, one.high) == pytest.approx((other.low, other.high))
    assert one.low <= one.value <= one.high


def test_what_cannot_be_told_is_nan_or_refused():
    x = np.arange(12.0)
    none = partial_spearman(x, np.ones(12), x[:, None])
    assert np.isnan([none.value, none.low, none.p]).all()
    assert none.n == 12
    assert np.isnan(partial_spearman(x, x**2, x[:, None]).value)  # nothing is left of either
    few = partial_spearman(x[:4], x[:4], x[::-1][:4, None])
    assert np.isnan([few.low, few.detectable]).all()
    assert np.isnan(partial_spearman(np.empty(0), np.empty(0)).value)
    with pytest.raises(GeomrlError, match="not finite"):
        partial_spearman(x, np.where(x > 3, np.nan, x))
    with pytest.raises(GeomrlError, match="one value of each"):
        partial_spearman(x, x[:5])


def accuracy(rng, level, samples=16):
    return rng.binomial(samples, scipy.stats.norm.cdf(level)) / samples


@pytest.mark.parametrize("n", [40, 120])
@pytest.mark.parametrize("xy", [0.0, 0.6])
def test_intervals_cover_on_continuous_and_on_counted_data(n, xy):
    """Normal columns, and accuracies of 16 samples with their ties, floor and ceiling."""
    for counted in (False, True):

        def sample(rng, n, counted=counted):
            x, y, z = draw(rng, n, xy=xy)
            return (np.exp(x), accuracy(rng, y), accuracy(rng, z)) if counted else (x, y, z)

        big = sample(np.random.default_rng(1), 200_000)
        truth = partial_spearman(big[0], big[1], big[2][:, None]).value
        found = []
        for seed in range(600):
            x, y, z = sample(np.random.default_rng([7, seed]), n)
            found.append(partial_spearman(x, y, z[:, None]))
        covered = np.mean([each.low <= truth <= each.high for each in found])
        # 600 draws: two standard errors are 1.8 points
        assert 0.925 < covered < 0.972
        if xy == 0 and not counted:
            assert np.mean([each.p < 0.05 for each in found]) < 0.072


def test_power_at_the_detectable_correlation_is_what_it_says():
    n = 80
    asked = detectable_correlation(n, 1)
    # Of normal columns the correlation beyond z is that of `common`: find xy that gives `asked`.
    pearson = 2 * np.sin(np.pi * asked / 6)  # Spearman's of a normal pair
    xy = pearson / np.sqrt(1 - pearson**2)
    found = 0
    for seed in range(600):
        rng = np.random.default_rng([11, seed])
        x, y, z = draw(rng, n, xz=0, yz=0, xy=xy)
        found += partial_spearman(x, y, z[:, None]).p < 0.05
    assert abs(found / 600 - 0.8) < 0.05


def test_more_covariates_and_fewer_problems_see_less():
    assert detectable_correlation(50) < detectable_correlation(50, 5) == detectable_correlation(45)
    assert detectable_correlation(400) < 0.15
    assert np.isnan(detectable_correlation(5, 2))
    assert detectable_correlation(100, level=0.05 / 8) > detectable_correlation(100)


def test_the_correction_for_noise_in_difficulty_undoes_it():
    rng = np.random.default_rng(0)
    x, y, z = draw(rng, 200_000)
    noisy, again = (z + rng.normal(size=len(z)) for _ in range(2))
    r = scipy.stats.spearmanr(np.stack([x, y, noisy, again], axis=1)).statistic
    plain = partial_spearman(x, y, noisy[:, None]).value
    assert plain > 0.15  # z is only half held fixed
    assert abs(corrected_partial(r[0, 1], r[0, 2], r[1, 2], r[2, 3])) < 0.03
    assert np.isnan(corrected_partial(0.5, 0.9, 0.2, 0.5))


def test_reliabilities():
    rng = np.random.default_rng(1)
    true = rng.normal(size=100_000)
    items = true + 2 * rng.normal(size=(4, len(true)))
    r = np.corrcoef(items)[0, 1]
    whole = np.corrcoef(items.mean(axis=0), true)[0, 1] ** 2
    assert spearman_brown(r, 4) == pytest.approx(whole, abs=0.01)
    assert np.isnan(spearman_brown(-1.0))
    both = np.corrcoef(items[0], items[1])[0, 1]
    assert without_noise(both, r, r) == pytest.approx(1, abs=0.03)
    assert without_noise(0.2, 0.5, -0.1) == np.inf
    assert np.isnan(without_noise(0.2, np.nan, -0.1))
