"""An effect against 0 and the smallest that matters: the rule, its error rates, and its power."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from geomrl.errors import GeomrlError
from geomrl.stats.smallest_effect import FEWEST_SEEDS, WORDS, judge, overall, seeds_needed

SMALLEST = 0.038
effects = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=8).map(np.array)


@settings(deadline=None, max_examples=50)
@given(effects, st.floats(0.01, 0.5))
def test_the_word_follows_the_interval(values, smallest):
    found = judge(values, smallest)
    if found.effect.n < FEWEST_SEEDS or np.isnan(found.effect.low):
        assert found.word == "undecided"
    elif found.effect.low > 0:
        assert found.word == "supported"
        assert found.smaller_than_claimed == (found.effect.high < smallest)
    elif found.effect.high < smallest:
        assert found.word == "not supported"
    else:
        assert found.word == "undecided"
    if found.word != "supported":
        assert not found.smaller_than_claimed


@settings(deadline=None, max_examples=50)
@given(effects, st.floats(0.01, 0.5), st.floats(0.1, 10))
def test_the_word_does_not_depend_on_the_unit(values, smallest, unit):
    interval = judge(values, smallest).effect
    borders = [interval.low, interval.high - smallest]
    if np.nanmin(np.abs([*borders, 1.0])) > 1e-9:
        assert judge(values * unit, smallest * unit).word == judge(values, smallest).word


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_seeds_are_undecided_however_large_the_effect(n):
    assert judge(0.5 + np.arange(n) / 1e3, SMALLEST).word == "undecided"
    assert judge(-0.5 + np.arange(n) / 1e3, SMALLEST).word == "undecided"


def test_seeds_without_a_value_do_not_count():
    assert judge(np.array([0.5, np.nan, 0.51]), SMALLEST).word == "undecided"
    assert judge(np.array([0.5, np.nan, 0.51, 0.52]), SMALLEST).word == "supported"


def test_equal_effects_of_all_seeds_have_no_interval_and_are_undecided():
    found = judge(np.full(5, 0.2), SMALLEST)
    assert found.word == "undecided"
    assert found.seeds_needed is None
    assert np.isnan(found.power)


def test_a_smallest_effect_must_be_above_zero():
    with pytest.raises(GeomrlError, match="above 0"):
        judge(np.zeros(5), 0.0)


def _words(truth, sd, n, draws=20_000):
    """Words of many experiments at once: an independent, vectorised account of the rule."""
    x = np.random.default_rng(n).normal(truth, sd, (draws, n))
    reach = scipy.stats.t.ppf(0.975, n - 1) * x.std(axis=1, ddof=1) / np.sqrt(n)
    low, high = x.mean(axis=1) - reach, x.mean(axis=1) + reach
    words = np.where(low > 0, "supported", np.where(high < SMALLEST, "not supported", "undecided"))
    for row in range(50):
        assert judge(x[row], SMALLEST).word == words[row]
    return words


@pytest.mark.parametrize("n", [3, 5, 8])
@pytest.mark.parametrize("sd", [0.005, 0.02, 0.1])
def test_false_words_are_rare(n, sd):
    error = 3 * np.sqrt(0.025 * 0.975 / 20_000)
    assert (_words(0.0, sd, n) == "supported").mean() <= 0.025 + error
    assert (_words(SMALLEST, sd, n) == "not supported").mean() <= 0.025 + error


@pytest.mark.parametrize("sd", [0.005, 0.02, 0.1])
def test_the_claims_false_words_are_rare_whatever_the_other_criterion(sd):
    """Independent criteria; the worst case of 'not supported' has both at their smallest effect."""
    rng = np.random.default_rng(1)

    def claim(first, second):
        both = np.stack([rng.permutation(_words(first, sd, 5)), _words(second, sd, 5)])
        return (both == "supported").all(0), (both == "not supported").any(0)

    error = 3 * np.sqrt(0.05 * 0.95 / 20_000)
    assert claim(0.0, 0.2)[0].mean() <= 0.025 + error
    assert claim(0.0, 0.0)[0].mean() <= 0.025 + error
    assert claim(SMALLEST, SMALLEST)[1].mean() <= 0.05 + error


def test_power_and_seeds_needed_are_those_of_simulation():
    sd = 0.03
    n = seeds_needed(sd, SMALLEST)
    assert (_words(SMALLEST, sd, n) == "supported").mean() >= 0.785
    assert (_words(0.0, sd, n) == "not supported").mean() >= 0.785
    assert (_words(SMALLEST, sd, n - 1) == "supported").mean() <= 0.815
    found = judge(np.array([-sd, 0.0, sd]) + SMALLEST, SMALLEST)  # its sd is sd
    simulated = (_words(SMALLEST, sd, 3) == "supported").mean()
    assert found.power == pytest.approx(simulated, abs=0.015)
    assert found.seeds_needed == n


@settings(deadline=None, max_examples=50)
@given(st.floats(0.001, 2), st.floats(0.005, 0.5))
def test_more_spread_needs_more_seeds(sd, smallest):
    assert seeds_needed(2 * sd, smallest) >= seeds_needed(sd, smallest) >= FEWEST_SEEDS


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4))
def test_overall(words):
    found = overall(words)
    assert (found == "not supported") == ("not supported" in words)
    assert (found == "supported") == (set(words) == {"supported"})
