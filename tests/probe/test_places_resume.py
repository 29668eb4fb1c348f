"""Similarity and interventions are kept by place: a killed command resumes, a finished one is read."""

import pandas as pd
import pytest
import torch
from small_runs import rollout_lines, save_model, write_lines

from geomrl.geometry import similarity
from geomrl.models.context import Context
from geomrl.probe import intervention, steps
from geomrl.probe.extraction import ExtractionConfig
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.steps import import_rollouts
from geomrl.runs import pieces
from geomrl.runs.states import StateStore

CONFIG = ExtractionConfig(layers=("1", "final"), anchors=("before_marker", "marker_end"))
N_PLACES = 8  # two benchmarks, layers and anchors


class Killed(BaseException):
    """What no handler catches."""


@pytest.fixture
def run(tmp_path):
    """Rollouts of two benchmarks, with their states."""
    torch.set_num_threads(1)
    model = str(save_model(tmp_path / "model"))
    lines = [
        line | {"set": "odd" if int(line["gold"]) % 2 else "even"}
        for line in rollout_lines(n_problems=8)
    ]
    config = ImportConfig(keep_labels=True, template="plain", columns={"benchmark": "set"})
    file = write_lines(tmp_path / "r.jsonl", lines)
    import_rollouts(file, model, tmp_path / "run", config=config, show=False)
    steps.read_states(model, tmp_path / "run", config=CONFIG, context=Context(show=False))
    return tmp_path / "run"


def probe(run, **options):
    model = str(run.parent / "model")
    draws = {"n_boot": 100, "n_perm": 99, **options}
    return steps.probe_states(model, run, config=CONFIG, show=False, **draws)


def counted(monkeypatch, module, name, *, killed_at=None):
    """Count the calls of a function; the call `killed_at` ends the process, as far as it knows."""
    function, calls = getattr(module, name), []

    def counting(*arguments, **options):
        calls.append(arguments)
        if len(calls) == killed_at:
            raise Killed
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, counting)
    return calls


def test_similarity_goes_on_from_the_places_that_are_finished(run, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        calls = counted(patch, similarity, "_layer_rows", killed_at=7)
        with pytest.raises(Killed):
            probe(run)
        assert not (run / "similarity.parquet").exists()
    with monkeypatch.context() as patch:
        calls = counted(patch, similarity, "_layer_rows")
        found = probe(run)
        assert len(calls) == N_PLACES - 6
        again = probe(run)
        assert len(calls) == N_PLACES - 6  # a finished command computes nothing
    assert found.similarity.equals(again.similarity)
    assert found.summary["notes"] == again.summary["notes"]
    for part in (run / "parts").rglob("*.json"):
        part.unlink()
    pd.testing.assert_frame_equal(probe(run).similarity, found.similarity)


def test_places_shared_by_processes_are_the_same(run, monkeypatch):
    found = probe(run, jobs=1).similarity
    for part in (run / "parts").rglob("*.json"):
        part.unlink()
    monkeypatch.setattr(pieces, "_PAYS", 0.0)
    lines = []
    pd.testing.assert_frame_equal(probe(run, jobs=2, say=lines.append).similarity, found)
    assert any(line.startswith("3 places left, about") for line in lines)


def test_other_draws_are_computed(run, monkeypatch):
    probe(run)
    for changed in ({"seed": 1}, {"n_perm": 120}):
        with monkeypatch.context() as patch:
            counted(patch, similarity, "_layer_rows", killed_at=1)
            with pytest.raises(Killed):
                probe(run, **changed)


def test_other_labels_are_computed_where_they_changed(run, monkeypatch):
    from geomrl.runs.rollouts import read_rollouts, write_rollouts

    probe(run)
    table = read_rollouts(run / "rollouts.parquet")
    at = table.index[(table["benchmark"] == "odd") & (table["verdict"] == "correct")][0]
    table.loc[at, ["verdict", "answer_class"]] = ["wrong", 7]
    write_rollouts(run / "rollouts.parquet", table)
    calls = counted(monkeypatch, similarity, "_layer_rows")
    probe(run)
    assert len(calls) == N_PLACES // 2  # the other benchmark's labels are what they were


def replace(run, layers=("0", "1", "final")):
    model = str(run.parent / "model")
    return steps.replace_anchor(model, run, layers=layers, n_boot=100, show=False)


def test_interventions_go_on_from_the_layers_that_are_finished(run, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        calls = counted(patch, intervention, "_score")
        whole = replace(run)
        batches = len(calls) // 10  # of one pass over the trials: untouched, 3 arms at 3 layers
        replace(run)
        assert len(calls) == 10 * batches  # a finished command runs no model
        replace(run, layers=("1",))
        assert len(calls) == 10 * batches
    for part in (run / "parts" / "replacement").rglob("*.parquet"):
        part.unlink()
    with monkeypatch.context() as patch:
        counted(patch, intervention, "_score", killed_at=5 * batches + 1)
        with pytest.raises(Killed):
            replace(run)
    with monkeypatch.context() as patch:
        calls = counted(patch, intervention, "_score")
        resumed = replace(run)
        assert len(calls) == 7 * batches  # untouched, and two layers
    pd.testing.assert_frame_equal(resumed, whole)


def test_each_place_is_read_from_the_store_once(run, monkeypatch):
    reads = counted(monkeypatch, StateStore, "read")
    probe(run)
    assert len(reads) == N_PLACES // 2  # for both benchmarks
    probe(run)
    assert len(reads) == N_PLACES // 2
