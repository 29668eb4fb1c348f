"""States on disk: an anchor's rows lie together, and where they lie does not matter to what is read."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from older_stores import write_as_before
from safetensors import safe_open
from safetensors.torch import save_file

from geomrl.runs import states, tensor_rows
from geomrl.runs.states import INTEGER_COLUMNS, ROW_SCHEMA, StateStore, StoreSettings, anchor_order
from geomrl.runs.tensor_rows import TornFileError, read_metadata, read_rows, runs_of

ANCHORS = tuple("abcdefghijkl")
N, PER_SHARD, WIDTH = 120, 60, 256


def shard_of(rollouts, seed):
    """Rows and states as extraction makes them: a rollout's states side by side, some shared or absent."""
    draw = np.random.default_rng(seed)
    rows, n = [], 0
    for rollout in rollouts:
        for i, anchor in enumerate(ANCHORS):
            row = {"rollout_id": str(rollout), "anchor": anchor, "flags": "", "reason": None}
            if draw.random() < 0.1:
                row["reason"] = "no_marker"
            else:
                n += i == 0 or n == 0 or draw.random() < 0.95  # else it coincides with the last one
                row |= {"token_index": n, "state_row": n - 1}
            rows.append(row)
    table = pd.DataFrame(rows).reindex(columns=ROW_SCHEMA.names).astype(INTEGER_COLUMNS)
    return table, {name: torch.randn(n, WIDTH).bfloat16() for name in ("1", "final")}


def fill(folder, old=()):
    """A store of two shards; those in `old` as an older geomrl wrote them."""
    torch.manual_seed(0)
    store = StateStore.create(
        folder,
        StoreSettings(
            encoder="e", encoder_hash="h", vocabulary="v", rollouts="r", marker="m",
            layers=("1", "final"), anchors=ANCHORS, dtype="bfloat16", hidden_size=WIDTH,
            batch_tokens=1, shard_rollouts=PER_SHARD, n_rollouts=N,
        ),
    )  # fmt: skip
    given_states = []
    for shard in range(store.n_shards):
        rows, tensors = shard_of(store.shard_range(shard), seed=shard)
        store.write_shard(shard, rows, tensors, {"batch_tokens": "1"})
        given_states.append((rows, tensors))
    write_as_before(store, old)
    return StateStore(folder), given_states


@pytest.mark.parametrize("old", [(), (0,), (0, 1)])
def test_states_are_those_that_were_given_in_the_rollouts_order(tmp_path, old):
    store, shards = fill(tmp_path, old)
    for layer in ("1", "final"):
        for anchor in ANCHORS:
            rows, found = store.read(layer, anchor)
            wanted = []
            for table, tensors in shards:
                here = table[(table["anchor"] == anchor) & table["state_row"].notna()]
                wanted.append(tensors[layer].float().numpy()[here["state_row"].astype(int)])
            assert np.array_equal(found, np.concatenate(wanted))
            assert rows["rollout_id"].astype(int).is_monotonic_increasing
    assert store.made_with(0) == {"batch_tokens": "1"}


def test_an_anchor_is_read_without_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(
        tensor_rows, "_GAP", 4096
    )  # as small beside a block as it is in large stores
    taken = []
    read = tensor_rows._read
    monkeypatch.setattr(
        tensor_rows, "_read", lambda file, at, size: taken.append(size) or read(file, at, size)
    )
    for name, old in (("new", ()), ("old", (0, 1))):
        store, _ = fill(tmp_path / name, old)
        for anchor in ANCHORS:
            taken.clear()
            _, found = store.read("final", anchor)
            ideal = found.size * 2  # two bytes a number
            assert (sum(taken) <= 2 * ideal) == (name == "new"), anchor


def test_rows_of_an_older_geomrl_never_stand_beside_new_states(tmp_path, monkeypatch):
    store, shards = fill(tmp_path, old=(0,))
    (
        tmp_path / "shard-00000.safetensors"
    ).unlink()  # as a torn one is, and the command is run again

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(states, "write_parquet", killed)
    with pytest.raises(KeyboardInterrupt):
        store.write_shard(0, *shards[0])
    assert store.missing_shards() == [0]


@given(st.lists(st.sets(st.sampled_from("abc"), min_size=1), max_size=12))
@settings(max_examples=50, deadline=None)
def test_states_of_the_same_anchors_lie_together(sharing):
    rows = pd.DataFrame(
        [{"anchor": a, "state_row": i} for i, some in enumerate(sharing) for a in sorted(some)],
        columns=["anchor", "state_row"],
    )
    order = anchor_order(rows, ["a", "b", "c"]).tolist()
    assert sorted(order) == list(range(len(sharing)))
    kinds = [frozenset(sharing[i]) for i in order]
    assert sum(a != b for a, b in itertools.pairwise(kinds)) == max(len(set(kinds)) - 1, 0)


@given(st.lists(st.integers(0, 60), max_size=20), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_runs_cover_the_rows_and_little_else(rows, gap):
    runs = runs_of(np.array(rows, dtype=int), gap)
    covered = [row for run in runs for row in run]
    assert set(rows) <= set(covered)
    assert covered == sorted(set(covered))
    assert all(b.start - a.stop > gap for a, b in itertools.pairwise(runs))
    assert all(run.start in rows and run.stop - 1 in rows for run in runs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_rows_are_those_of_the_library(tmp_path, dtype):
    file = tmp_path / "x.safetensors"
    save_file(
        {"a": torch.randn(9, 3).to(dtype), "b": torch.randn(4, 5).to(dtype)}, file, {"k": "v"}
    )
    with safe_open(file, framework="pt") as opened:
        for name, rows in (("a", [8, 0, 0, 3]), ("b", []), ("b", [1])):
            wanted = opened.get_tensor(name)[torch.tensor(rows, dtype=torch.long)].float().numpy()
            assert np.array_equal(read_rows(file, name, rows), wanted)
    assert read_metadata(file) == {"k": "v"}
    for name, rows, why in (("c", [0], "no tensor c"), ("a", [9], "has 9 rows")):
        with pytest.raises(TornFileError, match=why):
            read_rows(file, name, rows)
    whole = file.read_bytes()
    for torn in (b"", whole[:5], whole[:30], whole[:-1], whole + b"x", b"\xff" * 40):
        file.write_bytes(torn)
        with pytest.raises(TornFileError):
            read_rows(file, "a", [0])
