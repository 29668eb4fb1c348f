"""A run that was killed and resumed is a run that was never interrupted, to the bit."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from resume_runs import POINTS, RANDOM
from training import run_script

from geomrl.errors import GeomrlError
from geomrl.train.checkpoint import newest_checkpoint
from geomrl.train.export import export

HERE = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
RUNS = [*POINTS, *(f"random-{n}" for n in range(RANDOM)), "torn", "finished"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return run_script("resume_runs.py", tmp_path_factory.mktemp("resume"))


def metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


def contents(run):
    """Every file's hash in the last checkpoint, the random state apart."""
    files = json.loads((newest_checkpoint(run) / "complete.json").read_text())
    return {name: known for name, known in files.items() if not name.startswith("random-")}


def random_states(run):
    """By value: pickles of equal states can differ in what they share."""
    state = torch.load(newest_checkpoint(run) / "random-00000.pt", weights_only=False)
    kind, key, *rest = state["numpy"]
    return state["torch"].tolist(), kind, key.tolist(), rest, state["python"]


@pytest.mark.parametrize("name", RUNS)
def test_resumed_equals_uninterrupted(runs, name):
    whole, run = runs / "whole", runs / name
    assert not list(run.glob(".*.tmp"))
    assert metrics(run) == metrics(whole)
    assert contents(run) == contents(whole)  # weights, Adam's moments, counters, carried groups
    assert random_states(run) == random_states(whole)
    for folder in ("rollouts", "eval", "model"):
        files = sorted(p.relative_to(whole) for p in (whole / folder).rglob("*") if p.is_file())
        assert files
        assert sorted(p.relative_to(run) for p in (run / folder).rglob("*") if p.is_file()) == files
        assert all((run / f).read_bytes() == (whole / f).read_bytes() for f in files)


def test_the_runs_are_the_hard_case(runs):
    """Carried groups, an epoch's end, and steps that differ: else equality would say little."""
    lines = metrics(runs / "whole")[1:]
    assert any(line["groups/carried"] for line in lines)
    drawn = sum(line["groups/sampled"] for line in lines)
    assert drawn > 18  # data.limit: more than an epoch
    assert len({line["grad_norm"] for line in lines}) == len(lines)
    first, last = (runs / "whole" / "rollouts" / f"step-00000{n}.parquet" for n in (1, 4))
    assert list(pd.read_parquet(first)["response"]) != list(pd.read_parquet(last)["response"])


def test_export_of_steps(runs, tmp_path):
    export(runs / "whole", tmp_path / "last")
    kept = sorted((runs / "whole" / "checkpoints").glob("step-*"))
    assert [p.name for p in kept] == ["step-000003", "step-000004"]
    final = (runs / "whole" / "model" / "model.safetensors").read_bytes()
    assert (tmp_path / "last" / "model.safetensors").read_bytes() == final
    export(runs / "whole", tmp_path / "three", step=3)
    assert (tmp_path / "three" / "model.safetensors").read_bytes() != final
    with pytest.raises(GeomrlError, match="no whole checkpoint of step 1"):
        export(runs / "whole", tmp_path / "one", step=1)
    with pytest.raises(GeomrlError, match="not empty"):
        export(runs / "whole", tmp_path / "last")
