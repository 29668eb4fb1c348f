"""Benchmarks that no problem or every problem solves: an interval all the same, Wilson's."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from geomrl.stats.intervals import mean_interval, mean_of_means_interval


@given(st.integers(2, 400), st.sampled_from([0.0, 1.0]))
@settings(max_examples=40, deadline=None)
def test_all_or_nothing_has_wilsons_interval_of_as_many_draws_as_problems(n, value):
    found = mean_interval(np.full(n, value), bounds=(0.0, 1.0))
    exact = scipy.stats.binomtest(round(n * value), n).proportion_ci(method="wilson")
    assert (found.low, found.high) == (pytest.approx(exact.low), pytest.approx(exact.high))
    assert found.low <= found.value <= found.high
    assert found.n_boot == 0
    assert "Wilson" in found.warning


def test_it_covers_rare_success():
    """True pass@1 is .02, the same for all 30 problems, of 8 samples: a quarter of runs sees none."""
    rng = np.random.default_rng(0)
    counts = rng.binomial(8, 0.02, size=(300, 30))
    found = [mean_interval(each / 8, n_boot=200, bounds=(0.0, 1.0)) for each in counts]
    assert np.isfinite([i.low for i in found]).all()
    assert np.mean([i.low <= 0.02 <= i.high for i in found]) > 0.92


@given(st.lists(st.integers(2, 60), min_size=2, max_size=4), st.sampled_from([0.0, 1.0]))
@settings(max_examples=40, deadline=None)
def test_an_average_over_benchmarks_at_an_end_has_one_too(sizes, value):
    found = mean_of_means_interval([np.full(n, value) for n in sizes], bounds=(0.0, 1.0))
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    # Never surer than as many problems in one benchmark, never less sure than the smallest alone.
    one = mean_interval(np.full(sum(sizes), value), bounds=(0.0, 1.0))
    least = mean_interval(np.full(min(sizes), value), bounds=(0.0, 1.0))
    width = found.high - found.low
    assert one.high - one.low - 1e-12 <= width <= least.high - least.low + 1e-12


def test_cosines_and_shares_between_the_ends_have_none():
    """Equal cosines mostly mean equal states, by construction: no sample of anything."""
    for values, bounds in ((np.ones(20), (-1.0, 1.0)), (np.full(20, 0.5), (0.0, 1.0))):
        assert np.isnan(mean_interval(values, bounds=bounds).low)
