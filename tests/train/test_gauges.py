"""The gauges of a training step against the probing tables."""

import math

import numpy as np
import pytest
import torch
from alignment_tables import build_table
from worlds import build_world

from geomrl.errors import GeomrlError
from geomrl.geometry.cells import cross_cells, within_cells
from geomrl.geometry.groups import group_rows
from geomrl.geometry.spaces import build_space
from geomrl.geometry.spectrum import effective_rank, participation_ratio, singular_values
from geomrl.train.alignment import hidden_align
from geomrl.train.gauges import alignment_metrics


def naive_metrics(rows, states):
    """The cells of the probing tables, in numpy, over the same rollouts."""
    groups = group_rows(rows)
    x = states[groups.order]
    cells = {}
    for name in ("raw", "centred"):
        space = build_space(name, x, groups)
        within = within_cells([space.within(p) for p in range(groups.n_problems)], groups)
        floor = cross_cells(space, groups)["floor"].means
        pairs = np.triu_indices(groups.n_problems, 1)
        cells[name] = {k: np.nanmean(within[k].means) for k in ("CC", "II", "CI")}
        cells[name]["floor"] = floor[pairs].mean()
        cells[name]["CC-II"] = np.nanmean(within["CC"].means - within["II"].means)
    values = singular_values(x.astype(float))
    return {
        **cells["raw"],
        "CC_centred": cells["centred"]["CC"],
        "floor_centred": cells["centred"]["floor"],
        "effective_rank": effective_rank(values),
        "participation_ratio": participation_ratio(values),
        "norm": np.linalg.norm(x, axis=1).mean(),
        "rollouts": len(x),
        "groups": groups.n_problems,
        "eligible": int((groups.n_correct >= 2).sum()),
    }


def tensors(rows, states):
    group = torch.tensor(rows["problem_id"].astype("category").cat.codes.to_numpy(dtype=int))
    return torch.tensor(states), group, torch.tensor((rows["verdict"] == "correct").to_numpy())


@pytest.mark.parametrize("hidden", [6, 200])
@pytest.mark.parametrize("uneven", [False, True])
def test_metrics_equal_the_probing_tables(hidden, uneven):
    rows, states = build_world(4, problems=14, samples=9, hidden=hidden, uneven=uneven, shared=3.0)
    order = np.random.default_rng(0).permutation(len(rows))
    found = alignment_metrics(*tensors(rows.iloc[order], states[order])).as_dict()
    expected = naive_metrics(rows, states)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_centred_cells_are_those_that_the_centred_loss_trains():
    rows, states = build_world(1, shared=3.0)
    table = tensors(rows, states.astype(float))
    metrics = alignment_metrics(*table)
    assert 1 - hidden_align(*table, "centred").item() == pytest.approx(metrics.CC_centred)
    assert 1 - hidden_align(*table, "cosine").item() == pytest.approx(metrics.CC)


def test_many_problems_share_a_sample_of_pairs_for_the_centred_floor():
    rows, states = build_world(2, problems=90, samples=4, shared=2.0, problem=0.7)
    found = alignment_metrics(*tensors(rows, states))
    expected = naive_metrics(rows, states)
    assert found.floor_centred != pytest.approx(expected["floor_centred"], rel=1e-9)
    assert found.floor_centred == pytest.approx(expected["floor_centred"], abs=0.03)
    assert found.CC_centred == pytest.approx(expected["CC_centred"])


def test_ranks_are_of_at_most_so_many_rows():
    rows, states = build_world(2, problems=20, samples=8, hidden=40)
    table = tensors(rows, states)
    evenly = states[np.arange(16) * len(states) // 16].astype(float)
    found = alignment_metrics(*table, max_rank_rows=16)
    assert found.effective_rank == pytest.approx(effective_rank(singular_values(evenly)))
    assert found.effective_rank < 16 < alignment_metrics(*table).effective_rank


def test_cells_that_do_not_exist_are_nan():
    states = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    lone = alignment_metrics(states, torch.zeros(4, dtype=int), torch.ones(4, dtype=bool))
    assert math.isfinite(lone.CC)
    for name in ("II", "CI", "CC_minus_II", "floor", "CC_centred", "floor_centred"):
        assert math.isnan(getattr(lone, name))
    pair = alignment_metrics(states, torch.tensor([0, 0, 1, 1]), torch.ones(4, dtype=bool))
    assert math.isfinite(pair.floor + pair.CC_centred)
    assert math.isnan(pair.floor_centred)  # no third problem to be the centre
    none = alignment_metrics(states[:0], torch.zeros(0, dtype=int), torch.zeros(0, dtype=bool))
    finite = {name: value for name, value in none.as_dict().items() if math.isfinite(value)}
    assert finite == {"rollouts": 0, "groups": 0, "eligible": 0}
    rounded = 0.1 + 1e-9 * states.double()  # equal but for arithmetic
    same = alignment_metrics(rounded, torch.arange(4), torch.ones(4, dtype=bool))
    assert same.floor == pytest.approx(1)
    assert math.isnan(same.effective_rank)


def test_states_that_are_not_finite_are_named():
    states, group, correct = build_table()
    states[3, 1] = torch.nan
    with pytest.raises(GeomrlError, match=r"1 of \d+ anchor states are not finite.*row 3"):
        alignment_metrics(states, group, correct)
    with pytest.raises(GeomrlError, match="give one of each a rollout"):
        alignment_metrics(states[1:], group, correct)
