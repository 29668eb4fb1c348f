"""Quantiles and tails are those of scipy.stats, to the bit: figures rest on their last digits."""

import math

import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from geomrl.stats.distributions import normal_quantile, t_quantile, t_tail

chances = st.floats(1e-12, 1 - 1e-12)
degrees = st.integers(1, 10_000)


@given(p=chances, df=degrees, t=st.floats(-60, 60))
def test_equal_to_scipy_stats(p, df, t):
    assert t_quantile(p, df) == scipy.stats.t.ppf(p, df)
    assert t_tail(t, df) == scipy.stats.t.sf(t, df)
    assert normal_quantile(p) == scipy.stats.norm.ppf(p)


def test_ends():
    assert (t_tail(math.inf, 3), t_tail(-math.inf, 3)) == (0.0, 1.0)
    assert math.isnan(t_tail(math.nan, 3))
