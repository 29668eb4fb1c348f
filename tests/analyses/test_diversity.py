"""Distinct paths at an equal number of correct rollouts, against drawing and brute force."""

import itertools

import numpy as np
import pandas as pd
import pytest
from diversity import ngram_distance, path_scores
from hypothesis import given
from hypothesis import strategies as st

from geomrl.stats.rarefaction import rarefied_count


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 5))
def test_rarefaction_is_the_mean_over_all_subsets(counts, m):
    items = [kind for kind, count in enumerate(counts) for _ in range(count)]
    if len(items) < m:
        assert np.isnan(rarefied_count(counts, m))
        return
    kinds = [len(set(subset)) for subset in itertools.combinations(items, m)]
    assert rarefied_count(counts, m) == pytest.approx(np.mean(kinds))


def test_more_rollouts_of_the_same_mixture_do_not_look_more_diverse():
    few, many = rarefied_count([4, 4], 4), rarefied_count([400, 400], 4)
    assert many == pytest.approx(1.875, abs=0.01)  # 2 (1 - 1/2^4)
    assert few >= many  # without replacement; a plain count could not be brought to m at all
    assert few - many < 0.2


@given(st.lists(st.text("ab ", min_size=1, max_size=30).filter(str.split), min_size=2, max_size=5))
def test_ngram_distance_against_sets(texts):
    def grams(text):
        words = text.split()
        return {tuple(words[i : i + 4]) for i in range(max(1, len(words) - 3))}

    sets = [grams(text) for text in texts]
    pairs = itertools.combinations(sets, 2)
    wanted = np.mean([1 - len(a & b) / len(a | b) for a, b in pairs])
    assert ngram_distance(texts) == pytest.approx(wanted)


def test_scores_of_a_table():
    same = "First 3+4=7. Thus \\boxed{7}"
    other_words = "To start, 3 and 4 make 7. Hence \\boxed{7}"  # the same path
    other_path = "First 4+3=7, then 7-0=7. Thus \\boxed{7}"
    rows = [("p", "correct", text) for text in (same, other_words, other_path)]
    rows += [("p", "wrong", "First 3+4=8. Thus \\boxed{8}"), ("q", "correct", same)]
    table = pd.DataFrame(rows, columns=["problem_id", "verdict", "response"])
    found = path_scores(table.assign(benchmark="arithmetic"), 2).set_index("problem_id")
    assert found.loc["p", "n_correct"] == 3
    assert found.loc["p", "paths"] == pytest.approx((1 + 2 / 3) / 2)  # two of three pairs differ
    assert 0 < found.loc["p", "ngrams"] <= 1
    assert found.loc["q", ["paths", "ngrams"]].isna().all()
    foreign = path_scores(table.assign(benchmark="aime24"), 2)
    assert foreign["paths"].isna().all()
