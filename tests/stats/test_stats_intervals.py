import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st

from geomrl.errors import GeomrlError
from geomrl.stats.bootstrap import resample_counts
from geomrl.stats.intervals import jackknife_interval, mean_interval, pair_interval
from geomrl.stats.passk import pass_at_k

P, SAMPLES = 30, 16


def naive_pair_draws(sums, weights, counts):
    """Each draw's value and infinitesimal-jackknife error, by loops over drawn copies."""
    found = []
    for draw in counts.astype(int):
        copies = np.repeat(np.arange(len(draw)), draw)
        pairs = [(a, b) for a in range(len(copies)) for b in range(len(copies))]
        # a problem that is drawn twice never pairs with its own copy
        pairs = [(copies[a], copies[b]) for a, b in pairs if copies[a] != copies[b]]
        top, bottom = sum(sums[p] for p in pairs), sum(weights[p] for p in pairs)
        value = top / bottom
        pulls = [
            2 * sum(sums[c, d] - value * weights[c, d] for d in copies if d != c) / bottom
            for c in copies
        ]
        n = len(draw)
        found.append((value, np.sqrt(n / (n - 1) * np.sum(np.square(pulls)))))
    return np.array(found).T


def test_pair_interval_equals_a_naive_bootstrap_t():
    rng = np.random.default_rng(0)
    n, boot = 7, 200
    sums, weights = rng.normal(size=(n, n)), rng.integers(0, 3, (n, n)).astype(float)
    sums, weights = (sums + sums.T) * (weights + weights.T), weights + weights.T
    from geomrl.seeds import derive_seed

    counts = resample_counts(n, boot, derive_seed(4, "bootstrap", "x"))
    values, errors = naive_pair_draws(sums, weights, counts)
    off = ~np.eye(n, dtype=bool)
    value = sums[off].sum() / weights[off].sum()
    _, (error,) = naive_pair_draws(sums, weights, np.ones((1, n)))
    low_t, high_t = np.quantile((values - value) / errors, [0.025, 0.975], method="inverted_cdf")
    found = pair_interval(sums, weights, seed=4, label="x", n_boot=boot)
    expected = [value, value - high_t * error, value - low_t * error]
    np.testing.assert_allclose([found.value, found.low, found.high], expected, rtol=1e-4)
    assert found.n_clusters == n
    assert found.n_boot == boot


def test_mean_interval_is_the_pair_interval_of_an_additive_kernel_up_to_its_scale():
    # The mean over pairs of (v_p + v_q) / 2 is the mean; only the tiny zero-diagonal term differs.
    values = np.random.default_rng(1).exponential(size=60)
    kernel = (values[:, None] + values[None, :]) / 2
    one = mean_interval(values, seed=3, label="a")
    two = pair_interval(kernel, 1 - np.eye(60), seed=3, label="a")
    assert two.value == pytest.approx(one.value)
    assert two.low == pytest.approx(one.low, abs=0.05 * (one.high - one.low))
    assert two.high == pytest.approx(one.high, abs=0.05 * (one.high - one.low))


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=20), st.floats(-3, 3), st.floats(0.1, 10))
@example([0.0, 5.0, 0.0], 1.0, 1.0625)  # draws of one value only, whose spread is rounding
@settings(max_examples=60, deadline=None)
def test_mean_interval_moves_with_the_values(values, shift, scale):
    v = np.array(values)
    one = mean_interval(v, n_boot=200)
    two = mean_interval(scale * v + shift, n_boot=200)
    assert two.value == pytest.approx(scale * one.value + shift, abs=1e-9)
    if np.ptp(v) > 1e-3:
        assert one.low <= one.value <= one.high
        assert two.low == pytest.approx(scale * one.low + shift, rel=1e-4, abs=1e-3)
        assert two.high == pytest.approx(scale * one.high + shift, rel=1e-4, abs=1e-3)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
@settings(max_examples=60, deadline=None)
def test_bounds_are_never_left(values):
    found = mean_interval(np.array(values), n_boot=200, bounds=(0.0, 1.0))
    if not np.isnan(found.low):
        assert 0.0 <= found.low <= found.value <= found.high <= 1.0


@pytest.mark.parametrize("values", [[], [0.3], [0.5] * 20, [0.1 + 0.2, 0.3] * 10])
def test_no_interval_without_spread(values):
    found = mean_interval(np.array(values, dtype=float), bounds=(0.0, 1.0))
    assert np.isnan(found.low)
    assert np.isnan(found.high)
    assert found.warning
    pairs = pair_interval(np.full((2, 2), 0.3), np.ones((2, 2)))
    assert pairs.value == pytest.approx(0.3)
    assert np.isnan(pairs.low)
    assert np.isnan(pair_interval(np.ones((1, 1)), np.ones((1, 1))).value)


def test_warns_when_few_problems_are_mixed():
    values = np.array([0.0] * 50 + [0.5] * 9)
    assert "9 of 59" in mean_interval(values, bounds=(0.0, 1.0)).warning
    assert mean_interval(np.append(values, 0.4), bounds=(0.0, 1.0)).warning is None
    assert "only 5 problems" in mean_interval(np.arange(5.0)).warning


def test_refuses_values_it_cannot_average():
    with pytest.raises(GeomrlError, match="not finite"):
        mean_interval(np.array([0.1, np.nan]))
    with pytest.raises(GeomrlError, match="outside"):
        mean_interval(np.array([0.1, 1.1]), bounds=(0.0, 1.0))


def test_draws_depend_on_seed_and_label_only():
    v = np.random.default_rng(0).normal(size=20)
    assert mean_interval(v, seed=1, label="a") == mean_interval(v, seed=1, label="a")
    assert mean_interval(v, seed=1, label="a") != mean_interval(v, seed=1, label="b")
    assert mean_interval(v, seed=1, label="a") != mean_interval(v, seed=2, label="a")


def test_jackknife_of_a_mean_is_the_t_interval():
    v = np.random.default_rng(0).normal(size=15)
    found = jackknife_interval(v.mean(), (v.sum() - v) / 14, n_clusters=15)
    low, high = scipy.stats.t.interval(0.95, 14, v.mean(), v.std(ddof=1) / np.sqrt(15))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert np.isnan(jackknife_interval(1.0, np.array([1.0, np.nan]), n_clusters=2).low)


@pytest.mark.parametrize("law", [(2, 2), (0.5, 0.5), (0.3, 0.9)])
@pytest.mark.parametrize("k", [1, 8])
def test_coverage_of_pass_at_k(law, k):
    # benchmarks/interval_coverage.py measures .94-.97 with many more repeats; here a coarse guard that
    # falls for resampled rollouts (.47) and for the percentile method (.82 at Beta(2, 2), k = 8).
    rng = np.random.default_rng(7)
    truth = np.mean(1 - (1 - rng.beta(*law, 1_000_000)) ** k)
    hits = []
    for _ in range(300):
        each = pass_at_k(rng.binomial(SAMPLES, rng.beta(*law, P)), SAMPLES, k)
        found = mean_interval(each, n_boot=1000, bounds=(0.0, 1.0))
        hits.append(found.low <= truth <= found.high)
    assert 0.905 <= np.mean(hits) <= 0.99


def test_coverage_of_the_floor():
    rng = np.random.default_rng(8)
    hits = []
    for _ in range(300):
        means = np.array([2.0, 0, 0, 0]) + rng.normal(size=(P, 4))
        kernel = means @ means.T  # its expectation across problems is 4
        found = pair_interval(kernel, 1 - np.eye(P), n_boot=1000)
        hits.append(found.low <= 4.0 <= found.high)
    assert 0.905 <= np.mean(hits) <= 0.99


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_almost_all_at_a_bound_gives_a_useful_interval(failures):
    """Draws without a single failure have no spread; the limit must not run to the other bound."""
    values = np.r_[np.zeros(failures), np.ones(100 - failures)]
    found = mean_interval(values, bounds=(0.0, 1.0))
    exact = scipy.stats.binomtest(100 - failures, 100).proportion_ci(0.95)
    assert found.low == pytest.approx(exact.low, abs=0.02)
    assert found.high == pytest.approx(exact.high, abs=0.02)
    assert "without spread" in found.warning or "too short" in found.warning
