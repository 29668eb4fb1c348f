"""Kernels made for size, against the straightforward formulas that they replace."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from geomrl.geometry import groups as groups_module
from geomrl.geometry import neighbours, spectrum
from geomrl.geometry.answer_decoder import answer_decodability
from geomrl.geometry.cka import cka_without, debiased_cka
from geomrl.geometry.groups import group_rows, group_sums
from geomrl.geometry.linear_probes import (
    Scores,
    auroc,
    fit_probe,
    grouped_auroc,
    held_out_scores,
    probe_scores,
)
from geomrl.geometry.spectrum import residual_share, residual_shares, singular_values

seeds = st.integers(0, 2**31)


def planted_groups(n_problems, n, d, *, seed=0):
    """Return groups of rollouts, a third of them wrong, and states in their order."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(
        {
            "problem_id": np.repeat([f"p{p:03d}" for p in range(n_problems)], n),
            "rollout_id": [f"r{i:05d}" for i in range(n_problems * n)],
            "verdict": np.where(rng.random(n_problems * n) < 0.67, "correct", "wrong"),
        }
    )
    groups = group_rows(rows)
    own = rng.normal(size=(n_problems, d))[groups.problem]
    return groups, own + rng.normal(size=(len(rows), d)) + 0.5 * groups.correct[:, None]


@pytest.mark.parametrize("many", [0, 2**20])
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=seeds, n_groups=st.integers(2, 6), d=st.integers(1, 9))
def test_sums_by_group(seed, n_groups, d, many, monkeypatch):
    monkeypatch.setattr(groups_module, "_MANY", many)
    rng = np.random.default_rng(seed)
    starts = np.append(0, np.cumsum(rng.integers(0, 4, n_groups)))
    x = rng.normal(size=(starts[-1], d)).astype(np.float32)
    x, weights = x if seed % 2 else x.astype(float), rng.random(starts[-1])
    plain = [x[a:b].astype(float).sum(axis=0) for a, b in pairwise(starts)]
    assert np.allclose(group_sums(x, starts), plain, atol=1e-13)
    plain = [(x * weights[:, None])[a:b].sum(axis=0) for a, b in pairwise(starts)]
    assert np.allclose(group_sums(x, starts, weights), plain, atol=1e-13)


@settings(max_examples=20)
@given(seeds, st.integers(20, 60), st.integers(2, 12), st.integers(2, 12), st.integers(2, 6))
def test_cka_without_groups(seed, n, d1, d2, n_groups):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, 4))
    x, y = (shared @ rng.normal(size=(4, d)) + rng.normal(size=(n, d)) + 5.0 for d in (d1, d2))
    group = rng.integers(0, n_groups, n)
    whole, rest = cka_without(x, y, group, n_groups)
    assert whole == pytest.approx(debiased_cka(x, y), abs=1e-9)
    plain = [debiased_cka(x[group != g], y[group != g]) for g in range(n_groups)]
    assert rest == pytest.approx(plain, abs=1e-9, nan_ok=True)


def test_cka_where_one_group_is_most_of_the_spread():
    x, y = np.random.default_rng(0).normal(size=(2, 40, 5))
    group = np.arange(40) // 10
    x[group == 1] *= 1e5
    _, rest = cka_without(x, y, group, 4)
    assert rest[1] == pytest.approx(debiased_cka(x[group != 1], y[group != 1]), abs=1e-12)
    x[group != 1] = 3.0  # without it nothing differs
    assert np.isnan(cka_without(x, y, group, 4)[1][1])


@pytest.mark.parametrize("n", [30, 150])
def test_spectra_without_groups(n, monkeypatch):
    monkeypatch.setattr(spectrum, "_MANY", 0)
    rng = np.random.default_rng(n)
    x, group = rng.normal(size=(n, 100)) + 4.0, rng.integers(0, 5, n)
    found = spectrum.spectra_without(x, group, 6)
    plain = [singular_values(x), *(singular_values(x[group != g]) for g in range(6))]
    for fast, slow in zip(found, plain, strict=True):
        # Of n < d centred states one value is 0: its root is rounding, 1e-8 of the largest.
        assert np.allclose(fast, slow, rtol=1e-9, atol=1e-7 * slow.max())
    x[group != 2] = 1.0
    assert spectrum.spectra_without(x, group, 6)[3].size == 0


@settings(max_examples=15)
@given(seeds, st.integers(5, 20), st.integers(1, 6), st.booleans())
def test_nearest_neighbours(seed, n_problems, k, coarse):
    rng = np.random.default_rng(seed)
    problem = np.repeat(np.arange(n_problems), 3)
    x = rng.normal(size=(len(problem), 6))
    x = np.round(x) if coarse else x  # many ties
    away = x - x.mean(axis=0)
    norms = np.linalg.norm(away, axis=1)
    unit = np.divide(away, norms[:, None], out=np.zeros_like(away), where=norms[:, None] > 0)
    cosines = unit @ unit.T
    cosines[problem[:, None] == problem] = -np.inf
    plain = np.argsort(-cosines.round(9), axis=1, kind="stable")[:, :k]
    assert (np.sort(neighbours._nearest(x, problem, k)) == np.sort(plain)).all()


def test_nearest_neighbours_panel_by_panel(monkeypatch):
    x = np.random.default_rng(0).normal(size=(90, 4)).round(1)
    problem = np.arange(90) // 3
    whole = neighbours._nearest(x, problem, 5)
    monkeypatch.setattr(neighbours, "_WHOLE", 0)
    monkeypatch.setattr(neighbours, "_PANEL", 7)
    monkeypatch.setattr(neighbours, "_TIES", 0)
    assert (np.sort(neighbours._nearest(x, problem, 5)) == np.sort(whole)).all()


@pytest.mark.parametrize("d", [6, 300])  # fewer and more dimensions than rows
def test_decoder_of_all_folds(d):
    groups, states = planted_groups(24, 6, d)
    rng = np.random.default_rng(1)
    answer = rng.integers(-1, 3, len(states))
    states = states + answer[:, None] * rng.normal(size=d)
    fold = groups.problem % 4
    states[fold != 2, 0] = 1e3  # constant where it is fitted, not where it is read
    found, _ = answer_decodability(states, answer, fold, groups, seed=0, n_boot=100)
    hit = np.full(len(states), np.nan)
    for held in range(4):
        fits, here = (answer >= 0) & (fold != held), (answer >= 0) & (fold == held)
        plain = make_pipeline(StandardScaler(), RidgeClassifier(alpha=fits.sum() / 100))
        plain.fit(states[fits], answer[fits])
        hit[here] = plain.predict(states[here]) == answer[here]
    by_problem = [np.nanmean(hit[groups.rows(p)]) for p in range(groups.n_problems)]
    assert found.value == pytest.approx(np.nanmean(by_problem), abs=1e-12)


def test_probes_share_their_features():
    groups, states = planted_groups(20, 6, 5)
    rng = np.random.default_rng(2)
    fold, labels, others = groups.problem % 5, groups.correct, rng.random(len(states)) < 0.5
    beside = rng.normal(size=(len(states), 2))
    moved = states + rng.normal(size=states.shape)
    found = probe_scores(states, [states, moved], [labels, others], fold, beside=beside)
    for by_label, tested in zip(found[:2], (states, moved), strict=True):
        for scores, own in zip(by_label, (labels, others), strict=True):
            for held in range(5):
                plain = fit_probe(states[fold != held], own[fold != held])
                assert np.allclose(
                    scores.score[fold == held], plain.decision_function(tested[fold == held])
                )
    joint = np.concatenate([beside, states], axis=1)
    (plain,) = held_out_scores(joint, [joint], labels, fold)
    assert np.allclose(found[2][0].score, plain.score)


@settings(max_examples=15)
@given(seeds)
def test_jackknife_of_aurocs(seed):
    groups, _ = planted_groups(14, 4, 2, seed=seed)
    rng = np.random.default_rng(seed)
    fold, score = groups.problem % 3, rng.integers(0, 9, len(groups.problem)).astype(float)
    found = grouped_auroc(Scores(score, fold), groups.correct, groups)
    values = [auroc(score[fold == f], groups.correct[fold == f]) for f in range(3)]
    if np.isnan(values).any():
        return
    assert found.value == pytest.approx(np.mean(values) - 0.5, abs=1e-12)
    replicates = []
    for p in range(groups.n_problems):
        kept, f = groups.problem != p, p % 3
        own = kept & (fold == f)
        each = [auroc(score[own], groups.correct[own]) if g == f else values[g] for g in range(3)]
        replicates.append(np.mean(each) - 0.5)
    if np.isfinite(replicates).all() and np.std(replicates) > 1e-9:
        n = len(replicates)
        assert found.se == pytest.approx(np.std(replicates) * np.sqrt(n - 1), rel=1e-9)


def test_residual_shares_of_several_choices():
    groups, states = planted_groups(12, 5, 4)
    states = states + 1e3 * groups.correct[:, None]  # the choices' own means are far apart
    for chosen, found in zip(
        (groups.correct, ~groups.correct),
        residual_shares(states, groups, [groups.correct, ~groups.correct]),
        strict=True,
    ):
        own = residual_share(states, groups, chosen)
        assert (found.value, found.low) == pytest.approx((own.value, own.low), rel=1e-9)
