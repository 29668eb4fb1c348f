"""Statistics of evaluations: majority@k, means of means, sign flips, power."""

from itertools import combinations, product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from geomrl.errors import GeomrlError
from geomrl.stats.intervals import mean_interval, mean_of_means_interval
from geomrl.stats.majority import majority_at_k
from geomrl.stats.paired import detectable_difference
from geomrl.stats.paired_means import paired_difference_interval
from geomrl.stats.passk import pass_at_k
from geomrl.stats.power import detectable_effect, mean_of_means_error, t_power
from geomrl.stats.sign_flip import least_p, sign_flip_p

CLASSES = st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=1, max_size=9)
VALUES = st.lists(st.floats(0, 1), min_size=2, max_size=12)


def vote(sample):
    """One vote by the definition: most frequent class, ties in equal parts, None casts no vote."""
    answers = [c for c in sample if c is not None]
    most = max((answers.count(c) for c in answers), default=0)
    winners = {c for c in answers if answers.count(c) == most}
    return (0 in winners) / len(winners) if winners else 0.0


@given(CLASSES, st.data())
@settings(deadline=None)
def test_majority_at_k_is_the_mean_vote_over_subsets(classes, data):
    k = data.draw(st.integers(1, len(classes)))
    expected = np.mean([vote(subset) for subset in combinations(classes, k)])
    assert majority_at_k([classes], k)[0] == pytest.approx(expected, abs=1e-12)


def test_majority_of_one_is_pass_at_1_and_of_two_with_all_answers_too():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, (20, 32))
    right = (classes == 0).sum(axis=1)
    for k in (1, 2):  # two that differ tie, and half of the ties count
        np.testing.assert_allclose(majority_at_k(classes.tolist(), k), pass_at_k(right, 32, 1))


def test_majority_at_k_of_many_samples_agrees_with_voting():
    rng = np.random.default_rng(1)
    law = [0.4, 0.35, 0.15, 0.1]
    votes = [vote(rng.choice(4, 25, p=law).tolist()) for _ in range(4000)]
    estimates = majority_at_k([rng.choice(4, 600, p=law).tolist() for _ in range(60)], 25)
    error = np.std(votes) / np.sqrt(4000) + np.std(estimates) / np.sqrt(60)
    assert abs(np.mean(votes) - estimates.mean()) < 4 * error


def test_majority_at_k_does_not_overflow():
    found = majority_at_k([[0] * 1100 + [1] * 900 + [None] * 500], 200)[0]
    assert 0.9 < found <= 1.0


@pytest.mark.parametrize("k", [0, 4])
def test_majority_at_k_refuses_more_votes_than_samples(k):
    with pytest.raises(GeomrlError, match=r"k must lie in 1\.\.3"):
        majority_at_k([[0, 1, None]], k)


@given(VALUES)
@settings(max_examples=40, deadline=None)
def test_one_stratum_gives_the_mean_interval(values):
    one = mean_of_means_interval([values], label="x", n_boot=200, bounds=(0, 1))
    assert repr(one) == repr(mean_interval(values, label="x", n_boot=200, bounds=(0, 1)))


@given(st.lists(VALUES, min_size=2, max_size=4))
@settings(max_examples=60, deadline=None)
def test_mean_of_means_weighs_strata_alike_and_keeps_its_bounds(strata):
    found = mean_of_means_interval(strata, n_boot=200, bounds=(0, 1))
    assert found.value == pytest.approx(np.mean([np.mean(values) for values in strata]))
    assert found.n_clusters == sum(map(len, strata))
    if np.isfinite(found.low):
        assert 0 <= found.low <= found.value <= found.high <= 1


def test_mean_of_means_is_as_wide_as_its_strata_say():
    rng = np.random.default_rng(2)
    strata = [rng.normal(size=400), rng.normal(size=900) * 3]
    found = mean_of_means_interval(strata)
    error = np.sqrt(sum(s.var(ddof=1) / len(s) for s in strata)) / 2
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    wide = mean_of_means_interval([strata[0], strata[1][:9]])
    assert wide.high - wide.low > 3 * (found.high - found.low)


def test_a_stratum_without_spread_is_named():
    found = mean_of_means_interval([np.zeros(30), np.linspace(0, 1, 30)], bounds=(0, 1))
    assert "1 of 2 strata have no spread" in found.warning
    same = mean_of_means_interval([np.zeros(30), np.ones(30)], bounds=(0, 1))
    assert np.isnan(same.low)
    with pytest.raises(GeomrlError, match="every stratum"):
        mean_of_means_interval([np.zeros(3), np.zeros(0)])


def test_mean_of_means_covers():
    rng = np.random.default_rng(3)
    covered = []
    for seed in range(300):
        strata = [rng.binomial(16, rng.beta(0.5, 0.5, n)) / 16 for n in (20, 60)]
        found = mean_of_means_interval(strata, seed=seed, n_boot=400, bounds=(0, 1))
        covered.append(found.low <= 0.5 <= found.high)
    assert scipy.stats.binom.ppf(1e-4, 300, 0.95) <= sum(covered)
    assert np.mean(covered) < 1.0


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_few_sign_flips_are_enumerated(differences):
    values = np.array(differences, dtype=float)
    signs = np.array(list(product((1, -1), repeat=len(values))))
    sums = np.abs(signs @ values)
    expected = np.mean(sums >= abs(values.sum()) - 1e-9)
    assert sign_flip_p([values]) == pytest.approx(expected)
    assert sign_flip_p([values]) == sign_flip_p([-values])
    assert sign_flip_p([values]) >= least_p(np.count_nonzero(values)) - 1e-12


def test_many_sign_flips_agree_with_the_t_test_and_with_scipy():
    rng = np.random.default_rng(4)
    values = rng.normal(0.3, 1.0, 40)
    p = sign_flip_p([values], n_flips=20_000)
    assert p == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue, rel=0.15)
    other = scipy.stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=20_000, rng=5
    )
    assert p == pytest.approx(other.pvalue, rel=0.15)


def test_sign_flips_weigh_strata_alike():
    # 3 problems of one benchmark and 300 of another: alone, the large one's effect is plain.
    rng = np.random.default_rng(6)
    small, large = np.array([0.9, -0.9, 0.3]), rng.normal(0.2, 0.5, 300)
    assert sign_flip_p([large]) < 0.001
    assert sign_flip_p([small, large]) > 0.1
    assert np.isnan(sign_flip_p([]))
    assert sign_flip_p([np.zeros(5)]) == 1.0


def test_sign_flips_hold_their_level():
    rng = np.random.default_rng(7)
    p = [sign_flip_p([rng.exponential(size=15) * rng.choice([-1, 1], 15)], seed=s, n_flips=199)
         for s in range(600)]  # fmt: skip
    rejected = (np.array(p) <= 0.05).sum()
    low, high = scipy.stats.binom.ppf([1e-4, 1 - 1e-4], 600, 0.05)
    assert low <= rejected <= high


@given(st.floats(0.05, 6), st.integers(2, 200), st.floats(0.001, 0.2))
@settings(max_examples=60, deadline=None)
def test_power_is_that_of_the_noncentral_t(noncentrality, df, level):
    critical = scipy.stats.t.ppf(1 - level / 2, df)
    expected = scipy.stats.nct.sf(critical, df, noncentrality) + scipy.stats.nct.cdf(
        -critical, df, noncentrality
    )
    if np.isfinite(expected):
        assert t_power(noncentrality, df, level=level) == pytest.approx(expected, abs=2e-3)


@given(st.floats(0.01, 5), st.integers(1, 300), st.floats(0.3, 0.95))
@settings(max_examples=40, deadline=None)
def test_the_detectable_effect_has_the_power_that_was_asked(se, df, power):
    effect = detectable_effect(se, df, power=power)
    assert t_power(effect / se, df) == pytest.approx(power, abs=1e-6)
    assert detectable_difference(se * np.sqrt(df + 1), df + 1, power=power) == pytest.approx(effect)


def test_predicted_power_is_simulated_power():
    """Planted differences of bounded, skewed values, found by the sign-flip test."""
    rng = np.random.default_rng(8)
    hits = []
    for seed in range(400):
        chance = rng.beta(0.5, 0.5, (2, 30))
        chance[1] = np.clip(chance[0] + 0.1 * rng.random(30), 0, 1)
        one, two = rng.binomial(16, chance) / 16
        hits.append(sign_flip_p([two - one], seed=seed, n_flips=199) <= 0.05)
    chance = rng.beta(0.5, 0.5, 200_000)
    better = np.clip(chance + 0.1 * rng.random(200_000), 0, 1)
    gaps = rng.binomial(16, better) / 16 - rng.binomial(16, chance) / 16
    predicted = t_power(gaps.mean() / (gaps.std() / np.sqrt(30)), 29)
    assert 0.3 < predicted < 0.95
    low, high = scipy.stats.binom.ppf([1e-4, 1 - 1e-4], 400, predicted) / 400
    assert low - 0.02 <= np.mean(hits) <= high + 0.02


def test_the_error_of_a_mean_of_means():
    rng = np.random.default_rng(9)
    one, two = rng.normal(size=12), rng.normal(size=30)
    se, df = mean_of_means_error([one, two])
    welch = scipy.stats.ttest_ind(one, two, equal_var=False)  # the same variance, of a difference
    assert se == pytest.approx(abs(one.mean() - two.mean()) / abs(welch.statistic) / 2)
    assert df == pytest.approx(welch.df)
    assert mean_of_means_error([one]) == (pytest.approx(scipy.stats.sem(one)), pytest.approx(11))
    assert all(np.isnan(mean_of_means_error([one, two[:1]])))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=15))
@settings(max_examples=60, deadline=None)
def test_paired_difference_intervals_mirror_and_keep_their_range(pairs):
    one, two = np.array(pairs).T
    found = paired_difference_interval([one], [two], bounds=(0, 1), n_boot=200)
    back = paired_difference_interval([two], [one], bounds=(0, 1), n_boot=200)
    assert found.value == pytest.approx(one.mean() - two.mean())
    if np.isfinite(found.low):
        assert -1 - 1e-9 <= found.low <= found.value <= found.high <= 1 + 1e-9
        assert (back.low, back.high) == (pytest.approx(-found.high), pytest.approx(-found.low))


def test_paired_difference_of_normal_values_is_the_t_interval():
    rng = np.random.default_rng(10)
    two = 0.5 + 0.05 * rng.normal(size=400)
    one = two + 0.02 + 0.02 * rng.normal(size=400)
    found = paired_difference_interval([one], [two], bounds=(0, 1), n_boot=4000)
    expected = scipy.stats.ttest_rel(one, two).confidence_interval()
    assert found.low == pytest.approx(expected.low, abs=4e-4)
    assert found.high == pytest.approx(expected.high, abs=4e-4)


def test_paired_difference_to_what_is_known_is_the_other_interval():
    values = np.linspace(0, 1, 30)
    found = paired_difference_interval([values], [np.zeros(30)], bounds=(0, 1), label="x")
    alone = mean_interval(values, bounds=(0, 1), label="x")
    assert (found.low, found.high) == (pytest.approx(alone.low), pytest.approx(alone.high))
    same = paired_difference_interval([values], [values], bounds=(0, 1))
    assert np.isnan(same.low)
    assert "no spread" in same.warning
    with pytest.raises(ValueError, match="same problems"):
        paired_difference_interval([values], [values[:-1]], bounds=(0, 1))


def test_paired_differences_of_pass_at_8_cover():
    """The law on which a bootstrap-t of differences covers 87 %."""
    rng = np.random.default_rng(11)
    chance = rng.beta(0.5, 0.5, 400_000)
    truth = np.mean((1 - chance) ** 8 - (1 - chance**0.7) ** 8)
    covered = []
    for seed in range(300):
        p = rng.beta(0.5, 0.5, 30)
        two, one = (pass_at_k(rng.binomial(16, q), 16, 8) for q in (p, p**0.7))
        found = paired_difference_interval([one], [two], bounds=(0, 1), seed=seed, n_boot=400)
        covered.append(found.low <= truth <= found.high)
    assert sum(covered) >= scipy.stats.binom.ppf(1e-3, 300, 0.94)
