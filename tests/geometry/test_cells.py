import itertools

import numpy as np
import pandas as pd
import pytest
from worlds import build_world

from geomrl.geometry.cells import (
    CONTRASTS,
    CROSS_CELLS,
    WITHIN_CELLS,
    cross_cells,
    estimate_cells,
    pair_cosines,
    within_cells,
)
from geomrl.geometry.groups import group_rows
from geomrl.geometry.spaces import build_space


def estimates(rows, states, space="raw", seed=0, n_boot=200):
    groups = group_rows(rows)
    made = build_space(space, states[groups.order], groups, seed=seed)
    grams = [made.within(p) for p in range(groups.n_problems)]
    within, across = within_cells(grams, groups), cross_cells(made, groups)
    found = estimate_cells(within, across, seed=seed, label="t", n_boot=n_boot)
    return {(e.cell, e.weighting): e for e in found}


def naive_pairs(rows, states):
    """Every pair's raw cosine with the cells it belongs to, from the words' definitions."""
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    found = []
    for i, j in itertools.combinations(range(len(rows)), 2):
        a, b = rows.iloc[i], rows.iloc[j]
        kinds = sorted((a["verdict"], b["verdict"]))
        if not set(kinds) <= {"correct", "wrong"}:
            continue
        cells = []
        if a["problem_id"] == b["problem_id"]:
            if kinds == ["correct", "correct"]:
                cells = ["CC"]
            elif kinds == ["wrong", "wrong"]:
                same = a["answer_class"] == b["answer_class"]
                cells = ["II", "II_same_answer" if same else "II_diff_answer"]
            else:
                cells = ["CI"]
        else:
            cells = ["floor"]
            if kinds == ["correct", "correct"]:
                cells.append("CC_cross")
                if a["gold"] == b["gold"]:
                    cells.append("CC_cross_same_answer")
        for cell in cells:
            found.append((cell, a["problem_id"], b["problem_id"], float(unit[i] @ unit[j])))
    return pd.DataFrame(found, columns=["cell", "p", "q", "cosine"])


@pytest.fixture(scope="module")
def world():
    rows, states = build_world(1, problems=7, samples=6, answer=1.0, golds=3, uneven=True)
    rows.loc[2, "verdict"] = "no_answer"
    return rows, states.astype(float)


def test_every_cell_equals_a_naive_loop(world):
    rows, states = world
    pairs, found = naive_pairs(rows, states), estimates(rows, states)
    for cell in WITHIN_CELLS:
        mine = pairs[pairs["cell"] == cell]
        by_problem = mine.groupby("p")["cosine"].mean()
        estimate = found[cell, "problem"]
        assert estimate.interval.value == pytest.approx(by_problem.mean())
        assert (estimate.n_problems, estimate.n_pairs) == (len(by_problem), len(mine))
    for cell in CROSS_CELLS:
        mine = pairs[pairs["cell"] == cell]
        estimate = found[cell, "problem"]
        assert estimate.interval.value == pytest.approx(
            mine.groupby(["p", "q"])["cosine"].mean().mean()
        )
        assert estimate.n_problems == len(set(mine["p"]) | set(mine["q"]))
        assert estimate.n_pairs == len(mine)
    for cell in ("CC", "II", "CI", "floor"):
        mine = pairs[pairs["cell"] == cell]
        assert found[cell, "pair"].interval.value == pytest.approx(mine["cosine"].mean())
        assert found[cell, "pair"].n_pairs == len(mine)


def test_contrasts_are_paired_over_problems_with_both(world):
    rows, states = world
    pairs, found = naive_pairs(rows, states), estimates(rows, states)
    means = {c: pairs[pairs["cell"] == c].groupby("p")["cosine"].mean() for c in WITHIN_CELLS}
    for one, other in CONTRASTS:
        gaps = (means[one] - means[other]).dropna()
        estimate = found[f"{one}-{other}", "problem"]
        assert estimate.interval.value == pytest.approx(gaps.mean())
        assert estimate.n_problems == len(gaps)
    floor = pairs[pairs["cell"] == "floor"]
    both = pd.concat([floor, floor.rename(columns={"p": "q", "q": "p"})])
    own_floor = both.groupby(["p", "q"])["cosine"].mean().groupby("p").mean()
    for one in ("CC", "II"):
        gaps = (means[one] - own_floor).dropna()
        assert found[f"{one}-floor", "problem"].interval.value == pytest.approx(gaps.mean())
    pooled = found["CC", "pair"].interval.value - found["II", "pair"].interval.value
    assert found["CC-II", "pair"].interval.value == pytest.approx(pooled)


def test_a_shared_mean_alone_looks_like_agreement_until_it_is_centred():
    # Raw .83 within and across problems with no structure at all; centring shows there is none.
    flat = build_world(0, problems=40, hidden=64, shared=2.235, problem=0.0, noise=1.0)
    raw, centred = estimates(*flat), estimates(*flat, space="centred")
    assert raw["CC", "problem"].interval.value == pytest.approx(0.834, abs=0.01)
    assert raw["floor", "problem"].interval.value == pytest.approx(0.834, abs=0.01)
    for cell in ("CC", "II", "floor", "CC-floor"):
        assert abs(centred[cell, "problem"].interval.value) < 0.02
    # The same raw figure from problem structure alone: the floor is what tells them apart.
    structured = build_world(0, problems=40, hidden=64, shared=0.0, problem=2.235, noise=1.0)
    raw = estimates(*structured)
    assert raw["CC", "problem"].interval.value == pytest.approx(0.83, abs=0.02)
    assert abs(raw["floor", "problem"].interval.value) < 0.02


def build_easy_and_hard(seed, problems=40):
    """States of easy problems lie close together, correct or not: no effect of correctness."""
    rng = np.random.default_rng(seed)
    rows, states = build_world(seed, problems=problems, samples=16, hidden=16, problem=1.0)
    accuracy = (rows["verdict"] == "correct").groupby(rows["problem_id"]).transform("mean")
    own = rng.normal(size=(problems, 16))[rows["problem_id"].factorize()[0]]
    spread = (1.4 - accuracy.to_numpy())[:, None]
    return rows, own + spread * rng.normal(size=states.shape)


def test_pooled_pairs_make_an_effect_that_the_matched_contrast_does_not_have():
    rows, states = build_easy_and_hard(2)
    found = estimates(rows, states, n_boot=1000)
    matched, pooled = found["CC-II", "problem"].interval, found["CC-II", "pair"].interval
    unmatched = found["CC", "problem"].interval.value - found["II", "problem"].interval.value
    assert pooled.low > 0.05
    assert unmatched > 0.01
    assert matched.low < 0 < matched.high


def test_matched_contrast_and_floor_cover_their_truth():
    hits = []
    for seed in range(120):
        rows, states = build_easy_and_hard(seed, problems=24)
        found = estimates(rows, states, n_boot=500)
        hits.append(
            [
                (i := found[cell, "problem"].interval).low <= 0 <= i.high
                for cell in ("CC-II", "floor")
            ]
        )
    assert (np.mean(hits, axis=0) > 0.88).all()


def test_floor_contrast_knows_that_all_problems_share_the_floor():
    # CC is constant here, so CC - floor is as uncertain as the floor itself; a plain mean over
    # problems would claim half that.
    rng = np.random.default_rng(0)
    rows, _ = build_world(0, problems=30, samples=4, accuracy=(50.0, 1.0))
    own = rng.normal(size=(30, 8)) + 3.0 * np.eye(8)[0]
    found = estimates(rows, own[rows["problem_id"].factorize()[0]])
    contrast, floor = found["CC-floor", "problem"].interval, found["floor", "problem"].interval
    assert contrast.value == pytest.approx(1 - floor.value)
    assert contrast.high - contrast.low == pytest.approx(floor.high - floor.low, rel=0.1)


def test_row_order_changes_nothing(world):
    rows, states = world
    order = np.random.default_rng(0).permutation(len(rows))
    one, two = estimates(rows, states), estimates(rows.iloc[order], states[order])
    for key, estimate in one.items():
        assert estimate.interval.value == pytest.approx(two[key].interval.value, nan_ok=True)
        assert estimate.interval.low == pytest.approx(two[key].interval.low, nan_ok=True)


def test_equal_states_show_no_contrast_rather_than_rounding():
    rows, _ = build_world(0)
    states = np.tile(np.random.default_rng(1).normal(size=9), (len(rows), 1))
    found = estimates(rows, states)
    assert found["CC", "problem"].interval.value == pytest.approx(1.0)
    assert found["CC-II", "problem"].interval.value == 0.0
    assert np.isnan(found["CC-II", "problem"].interval.low)
    assert found["CC-floor", "problem"].interval.value == 0.0


@pytest.mark.parametrize("space", ["raw", "centred"])
def test_pair_cosines_hold_every_pair_when_there_is_room(world, space):
    rows, states = world
    pairs = pair_cosines(states, rows, space=space, max_pairs=10_000, seed=0)
    truth = naive_pairs(rows, states)
    assert pairs["cell"].value_counts().to_dict() == truth["cell"].value_counts().to_dict()
    if space == "raw":
        for cell, mine in truth.groupby("cell"):
            got = np.sort(pairs.loc[pairs["cell"] == cell, "cosine"])
            np.testing.assert_allclose(got, np.sort(mine["cosine"]), atol=1e-12)
    same = pairs["problem_id"] == pairs["other_problem_id"]
    assert (same == pairs["cell"].isin(WITHIN_CELLS)).all()


def test_pair_cosines_share_the_room_among_problems():
    rows, states = build_world(0, problems=20, samples=10)
    few = pair_cosines(states, rows, space="raw", max_pairs=40, seed=1)
    assert (few["cell"].value_counts() <= 40).all()
    per_problem = few[few["cell"] == "CI"]["problem_id"].value_counts()
    assert per_problem.max() <= 3
    assert few.equals(pair_cosines(states, rows, space="raw", max_pairs=40, seed=1))
    assert not few.equals(pair_cosines(states, rows, space="raw", max_pairs=40, seed=2))
    fewest = pair_cosines(states, rows, space="raw", max_pairs=5, seed=1)
    assert (fewest["cell"].value_counts() <= 5).all()
    one = rows["problem_id"] == "p000"
    assert pair_cosines(states[one], rows[one], space="centred", max_pairs=40, seed=1).empty
