"""Fieller's interval of a ratio of two means."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from geomrl.stats.ratio import ratio_of_means

values = st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=12)


@settings(deadline=None)
@given(values, st.floats(0.3, 3), st.integers(0, 99))
def test_fiellers_bounds_are_where_students_t_test_just_rejects(a, mean, seed):
    rng = np.random.default_rng(seed)
    a = np.array(a) + rng.normal(0, 0.01, len(a))
    b = mean + rng.normal(0, 0.1, len(a))
    found = ratio_of_means(a, b)
    if np.isnan(found.low):
        assert scipy.stats.ttest_1samp(b, 0).pvalue >= 0.05 - 1e-9
        return
    for bound in (found.low, found.high):
        assert scipy.stats.ttest_1samp(a - bound * b, 0).pvalue == pytest.approx(0.05, abs=1e-6)
    assert found.low <= found.value <= found.high


def test_a_ratio_over_nothing_has_no_interval():
    found = ratio_of_means(np.array([1.0, 2.0, 3.0]), np.array([-1.0, 0.5, 1.0]))
    assert np.isnan(found.low)
    assert "not told apart from 0" in found.warning


def test_fiellers_interval_covers():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        b = rng.exponential(1.0, 60) + 0.5
        found = ratio_of_means(0.3 * b + rng.normal(0, 0.5, 60), b)
        covered += found.low <= 0.3 <= found.high
    assert 930 <= covered <= 970
