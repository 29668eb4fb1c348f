import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf
from worlds import build_world

from geomrl.errors import GeomrlError
from geomrl.geometry import spaces
from geomrl.geometry.groups import UNKNOWN, group_rows
from geomrl.geometry.spaces import Refusal, build_space


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def naive_centred(states, groups, i, j):
    """The definition: one vote a problem, without either rollout's problem."""
    p, q = groups.problem[i], groups.problem[j]
    others = [r for r in range(groups.n_problems) if r not in (p, q)]
    centre = np.mean([states[groups.problem == r].mean(axis=0) for r in others], axis=0)
    return cosine(states[i] - centre, states[j] - centre)


def naive_sums(pair, groups, rows):
    sums = np.zeros((groups.n_problems, groups.n_problems))
    for i, j in itertools.permutations(np.flatnonzero(rows), 2):
        if groups.problem[i] != groups.problem[j]:
            sums[groups.problem[i], groups.problem[j]] += pair(i, j)
    return sums


@pytest.fixture(
    params=[{"problems": 5, "samples": 4}, {"problems": 4, "samples": 6, "uneven": True}],
    ids=["even", "uneven"],
)
def world(request):
    rows, states = build_world(3, shared=2.0, **request.param)
    groups = group_rows(rows)
    return groups, states[groups.order].astype(float)


@pytest.mark.parametrize("block", [2_000_000, 24])  # all problems in one block, two in each
@pytest.mark.parametrize("name", ["raw", "centred"])
def test_space_equals_its_definition(world, name, block, monkeypatch):
    monkeypatch.setattr(spaces, "_BLOCK_NUMBERS", block)
    groups, states = world
    space = build_space(name, states.astype(np.float32), groups)

    def pair(i, j):
        if name == "raw":
            return cosine(states[i], states[j])
        return naive_centred(states, groups, i, j)

    for p in range(groups.n_problems):
        rows = np.arange(len(states))[groups.rows(p)]
        expected = [[pair(i, j) for j in rows] for i in rows]
        np.testing.assert_allclose(space.within(p), expected, atol=1e-6)
    across = space.across()
    everyone = np.ones(len(states), bool)
    np.testing.assert_allclose(across.graded, naive_sums(pair, groups, everyone), atol=1e-6)
    np.testing.assert_allclose(across.correct, naive_sums(pair, groups, groups.correct), atol=1e-6)
    i, j = np.triu_indices(len(states), 1)
    expected = [pair(a, b) for a, b in zip(i, j, strict=True)]
    np.testing.assert_allclose(space.cosines(i, j), expected, atol=1e-6)


def test_whitened_states_use_the_covariance_of_other_folds():
    rows, states = build_world(0, problems=40, samples=3, hidden=3)
    groups = group_rows(rows)
    x = states[groups.order].astype(float)
    space = build_space("whitened", x, groups, seed=5)
    fold = np.argsort(np.argsort(groups.draw(5, "whitening folds"))) % spaces.WHITENING_FOLDS
    one = groups.starts[:-1] + (groups.draw(5, "whitening") * groups.sizes).astype(int)
    assert (groups.problem[one] == np.arange(40)).all()
    white = np.empty_like(x)
    for f in range(spaces.WHITENING_FOLDS):
        fit = LedoitWolf().fit(x[one][fold != f])
        values, vectors = np.linalg.eigh(fit.covariance_)
        root = vectors / np.sqrt(values) @ vectors.T  # symmetric, where the module uses Cholesky
        inside = fold[groups.problem] == f
        white[inside] = (x[inside] - fit.location_) @ root
    i, j = np.triu_indices(len(x), 1)
    same_fold = fold[groups.problem[i]] == fold[groups.problem[j]]
    expected = [cosine(white[a], white[b]) for a, b in zip(i, j, strict=True)]
    np.testing.assert_allclose(space.cosines(i, j)[same_fold], np.array(expected)[same_fold])
    assert np.isnan(space.cosines(i, j)[~same_fold]).all()
    assert (space.across().graded[~space.comparable] == 0).all()
    assert space.comparable.sum() == 5 * 8 * 7


def test_spaces_are_refused_with_a_reason():
    rows, states = build_world(0, problems=12, hidden=6)
    groups = group_rows(rows)
    refused = build_space("whitened", states[groups.order], groups)
    assert isinstance(refused, Refusal)
    assert "d = 6 dimensions needs 12 training problems, there are 9" in refused.reason
    one = group_rows(rows[rows["problem_id"] == "p000"])
    assert isinstance(build_space("centred", states[one.order], one), Refusal)
    with pytest.raises(GeomrlError, match="spherical"):
        build_space("spherical", states[groups.order], groups)


def test_a_state_that_is_not_finite_is_named():
    rows, states = build_world(0)
    groups = group_rows(rows)
    states = states[groups.order]
    states[groups.rows(3).start, 1] = np.inf
    with pytest.raises(GeomrlError, match="p003"):
        build_space("raw", states, groups)


def test_equal_states_have_no_direction_from_their_centre():
    # Layer 0 of a rotary model at the marker: the same token, so the same embedding, everywhere.
    rows, _ = build_world(0)
    groups = group_rows(rows)
    states = np.tile(np.random.default_rng(0).normal(size=7).astype(np.float32), (len(rows), 1))
    centred = build_space("centred", states, groups)
    assert centred.n_without_direction == len(rows)
    assert not centred.within(0).any()
    assert not centred.across().graded.any()
    np.testing.assert_allclose(build_space("raw", states, groups).within(0), 1.0)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_cosines_do_not_turn_and_centred_ones_do_not_move(seed):
    rows, states = build_world(seed % 50, problems=5, samples=4)
    groups = group_rows(rows)
    x = states[groups.order].astype(float)
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    for name, other in (("raw", 2.5 * x @ turn), ("centred", 2.5 * x @ turn + rng.normal(size=6))):
        one, two = build_space(name, x, groups), build_space(name, other, groups)
        np.testing.assert_allclose(one.within(2), two.within(2), atol=1e-9)
        np.testing.assert_allclose(one.across().correct, two.across().correct, atol=1e-9)
        i, j = groups.pairs
        assert (np.abs(one.cosines(i, j)) <= 1 + 1e-12).all()


def test_groups_do_not_depend_on_row_order_and_drop_the_ungraded():
    rows, _ = build_world(0, problems=6, samples=5)
    rows.loc[[1, 8], "verdict"] = ["no_answer", "timeout"]
    rows.loc[3, "answer_class"] = pd.NA
    shuffled = rows.sample(frac=1, random_state=0)
    one, two = group_rows(rows), group_rows(shuffled)
    assert (
        rows["rollout_id"].iloc[one.order].tolist()
        == shuffled["rollout_id"].iloc[two.order].tolist()
    )
    assert len(one.order) == 28
    for name in ("problem_ids", "answer", "correct", "sizes", "gold"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert (one.correct == (rows["verdict"].iloc[one.order] == "correct").to_numpy()).all()
    assert (one.answer == UNKNOWN).sum() == 1


def test_groups_refuse_ambiguous_rows():
    rows, _ = build_world(0)
    with pytest.raises(GeomrlError, match="verdict"):
        group_rows(rows.drop(columns="verdict"))
    with pytest.raises(GeomrlError, match="p000-00"):
        group_rows(pd.concat([rows, rows.iloc[:1]]))
    bare = group_rows(rows[["rollout_id", "problem_id", "verdict"]])
    assert (bare.answer == UNKNOWN).all()
    assert (bare.gold == UNKNOWN).all()
