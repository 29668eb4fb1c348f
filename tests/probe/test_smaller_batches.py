"""Out of memory has a cure: smaller batches resume, and two processes do not end each other."""

import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from small_runs import rollout_lines, save_model, write_lines

from geomrl.errors import GeomrlError
from geomrl.models.context import Context
from geomrl.models.options import ModelOptions
from geomrl.probe.extraction import ExtractionConfig, ModelProbe
from geomrl.probe.steps import read_states
from geomrl.rollout import generate
from geomrl.rollout.engine import Sampling
from geomrl.rollout.generate import RolloutConfig
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.steps import import_rollouts, make_rollouts
from geomrl.runs.run import open_run, run_marker
from geomrl.runs.states import StateStore

PLACES = {"layers": ("1", "final"), "anchors": ("marker_end", "response_last")}
LARGE, SMALL = (ExtractionConfig(batch_tokens=n, **PLACES) for n in (4000, 200))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    return str(save_model(tmp_path_factory.mktemp("model") / "model"))


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    monkeypatch.setattr("geomrl.probe.extraction._SHARD_ROLLOUTS", 8)
    lines = write_lines(tmp_path / "r.jsonl", rollout_lines(n_problems=6))
    config = ImportConfig(keep_labels=True, template="plain")
    import_rollouts(lines, model, tmp_path / "run", config=config, show=False)
    return tmp_path / "run"


def test_finished_shards_are_kept_when_a_smaller_batch_goes_on(model, run, monkeypatch):
    write, calls = StateStore.write_shard, []

    def out_of_memory(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return write(*arguments, **options)

    monkeypatch.setattr(StateStore, "write_shard", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        read_states(model, run, config=LARGE, context=Context(show=False))
    monkeypatch.setattr(StateStore, "write_shard", write)
    kept = {p: p.stat().st_mtime_ns for p in run.rglob("shard-*")}
    assert len(kept) == 4
    # The size of shards is the store's own, whatever this geomrl would choose.
    monkeypatch.setattr("geomrl.probe.extraction._SHARD_ROLLOUTS", 16)
    _, store = read_states(model, run, config=SMALL, context=Context(show=False))
    assert kept == {p: p.stat().st_mtime_ns for p in kept}
    assert [store.made_with(i)["batch_tokens"] for i in range(5)] == [*["4000"] * 2, *["200"] * 3]
    rows, states = open_run(run).states("final", "response_last")
    assert len(rows) == 36
    monkeypatch.setattr("geomrl.probe.extraction._SHARD_ROLLOUTS", 8)
    whole = ModelProbe(ModelOptions("cpu").load(model))
    located = whole.locate(open_run(run).rollouts, run_marker(open_run(run)), PLACES["anchors"])
    found, wanted = whole.read(located, ("final",), 4000)
    at = found.loc[found["anchor"] == "response_last", "state_row"].astype(int).tolist()
    np.testing.assert_allclose(states, wanted["final"][at].numpy(), atol=1e-4)


def test_another_chunk_keeps_the_rollouts_that_are_there(model, tmp_path, monkeypatch):
    lines = [{"id": f"s{i}", "problem": f"what is {i} + 0?", "answer": str(i)} for i in range(6)]
    problems = str(write_lines(tmp_path / "sums.jsonl", lines))
    sample, asked = generate._completed, []

    def counting(*arguments, **named):
        asked.append(len(arguments[1]))
        if len(asked) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sample(*arguments, **named)

    def roll(out, chunk):
        config = RolloutConfig(n=4, chunk=chunk, sampling=Sampling(max_tokens=12), template="plain")
        return make_rollouts(model, problems, out, config=config, show=False)

    whole = roll(tmp_path / "whole", 8).rollouts
    monkeypatch.setattr(generate, "_completed", counting)
    with pytest.raises(torch.OutOfMemoryError):
        roll(tmp_path / "run", 8)
    run = roll(tmp_path / "run", 5)
    assert asked == [8, 8, 8, 5, 3]
    assert run.manifest["rollouts"]["changes"] == [{"chunk": 5}]
    columns = ["rollout_id", "response", "verdict", "answer_class"]
    assert run.rollouts[columns].astype(str).equals(whole[columns].astype(str))
    roll(tmp_path / "run", 64)  # finished: nothing is sampled
    assert len(asked) == 5


def test_what_a_living_process_writes_is_left_alone(model, run):
    _, store = read_states(model, run, config=LARGE, context=Context(show=False))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine, theirs = (store.path / f".shard-00009.parquet.{p}.tmp" for p in (os.getpid(), dead.pid))
    mine.touch()
    theirs.touch()
    StateStore.create(store.path, store.settings)
    assert mine.exists()
    assert not theirs.exists()


def held(model, run, begun, end):
    """Extract, and stop at the first batch until told to end."""
    read = ModelProbe.read

    def waiting(*arguments):
        begun.set()
        end.wait(120)
        return read(*arguments)

    ModelProbe.read = waiting
    torch.set_num_threads(1)
    read_states(model, run, config=LARGE, context=Context(show=False))


def test_a_second_process_is_refused_and_the_first_ends_well(model, run):
    context = multiprocessing.get_context("fork")
    begun, end = context.Event(), context.Event()
    first = context.Process(target=held, args=(model, run, begun, end))
    first.start()
    assert begun.wait(300)
    try:
        with pytest.raises(GeomrlError, match=rf"process {first.pid} on .* runs an extraction"):
            read_states(model, run, config=LARGE, context=Context(show=False))
    finally:
        end.set()
        first.join()
    assert first.exitcode == 0
    assert len(open_run(run).states("final", "response_last")[0]) == 36
