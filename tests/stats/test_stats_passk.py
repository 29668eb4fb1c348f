from itertools import combinations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from geomrl.errors import GeomrlError
from geomrl.stats.multiple import benjamini_hochberg, holm
from geomrl.stats.passk import count_correct, pass_at_k
from geomrl.stats.permutation import max_statistic_p, permutation_p

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k([c], n, k)[0] == pytest.approx(np.mean([any(s) for s in subsets]), abs=1e-12)


def test_pass_at_k_ends():
    counts = np.arange(17)
    np.testing.assert_allclose(pass_at_k(counts, 16, 1), counts / 16, atol=1e-12)
    np.testing.assert_array_equal(pass_at_k(counts, 16, 16), (counts > 0).astype(float))
    assert pass_at_k([5000], 10000, 100)[0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("counts", "n", "k"), [([1], 4, 5), ([1], 4, 0), ([5], 4, 1), ([-1], 4, 1)]
)
def test_pass_at_k_refuses_what_it_cannot_mean(counts, n, k):
    with pytest.raises(GeomrlError):
        pass_at_k(counts, n, k)


def test_count_correct_names_problems_with_missing_samples():
    ids = ["a"] * 4 + ["b"] * 3
    with pytest.raises(GeomrlError, match=r"exactly n = 4.*b \(3\)"):
        count_correct(ids, [True] * 7, 4)
    problems, counts = count_correct(["b", "a", "b", "a"], [True, False, True, True], 2)
    assert problems == ["b", "a"]
    assert counts.tolist() == [2, 1]


@given(P_VALUES)
def test_adjusted_p_values_order_and_bound(p_values):
    p = np.array(p_values)
    for adjusted in (holm(p), benjamini_hochberg(p)):
        assert ((adjusted >= p - 1e-12) & (adjusted <= 1)).all()
        order = np.argsort(p, kind="stable")
        assert (np.diff(adjusted[order]) >= -1e-12).all()
    assert (benjamini_hochberg(p) <= holm(p) + 1e-12).all()
    assert holm(p).min() == pytest.approx(min(1.0, p.min() * len(p)))


def test_adjusted_p_values_skip_missing_tests():
    np.testing.assert_allclose(holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
    np.testing.assert_allclose(benjamini_hochberg([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])


def test_permutation_p_counts_the_observed_labelling():
    permuted = np.array([0.0, 1.0, -4.0, 2.0])
    assert permutation_p(3.0, permuted) == 2 / 5
    assert permutation_p(3.0, permuted, two_sided=False) == 1 / 5
    assert permutation_p(2.0, permuted, two_sided=False) == 2 / 5  # a tie counts against
    assert np.isnan(permutation_p(float("nan"), permuted))


def test_max_statistic_bounds_the_family_wise_error():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(400, 200, 1))
    family = shared + 0.5 * rng.normal(size=(400, 200, 8))  # neighbours say nearly the same
    adjusted = np.array([max_statistic_p(x[0], x[1:]) for x in family])
    rejected = (adjusted <= 0.05).any(axis=1).mean()
    assert rejected < scipy.stats.binom.ppf(0.999, 400, 0.05) / 400
    assert rejected > 0.01  # and it is no Bonferroni over equal members
    alone = np.array([permutation_p(x[0, 0], x[1:, 0]) for x in family])
    assert (adjusted[:, 0] >= alone - 1e-12).all()


def test_max_statistic_leaves_out_what_could_not_be_computed():
    permuted = np.random.default_rng(0).normal(size=(99, 3))
    permuted[:, 1] = np.nan
    found = max_statistic_p(np.array([5.0, np.nan, 0.0]), permuted)
    assert found[0] == 0.01
    assert np.isnan(found[1])
    assert found[2] == 1.0
