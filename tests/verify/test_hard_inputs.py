"""Rollouts that cannot carry the headline: a clear word, a non-zero exit, and nothing lost."""

import pytest
import torch
from small_runs import rollout_lines, save_model, write_lines
from typer.testing import CliRunner

from geomrl.cli.app import app
from geomrl.models.loading import load_model
from geomrl.probe.extraction import ModelProbe
from geomrl.probe.extractor import Rows
from geomrl.runs.run import open_run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


def probe(model, tmp_path, lines, *options):
    path = write_lines(tmp_path / "r.jsonl", lines)
    arguments = [
        "probe", model, "--rollouts", path, "--out", tmp_path / "run", "--template", "plain",
        "--anchors", "before_marker,response_last", "--layers", "final", "--boot", 100,
        "--permutations", 99, *options,
    ]  # fmt: skip
    return CliRunner().invoke(app, [str(a) for a in arguments])


def assert_states_are_kept(tmp_path, n):
    assert len(open_run(tmp_path / "run").states(anchor="response_last")[0]) == n


def test_one_problem_only(model, tmp_path):
    done = probe(model, tmp_path, rollout_lines(n_problems=1))
    assert done.exit_code == 1
    assert "one problem only (problem-0000)" in done.stderr
    assert "add problems" in done.stderr
    assert_states_are_kept(tmp_path, 6)


def test_groups_without_two_correct(model, tmp_path):
    lines = [
        line for line in rollout_lines() if not (line["label"] and "thus" in line["completion"])
    ]
    lines = [line | {"gold": "no such number"} for line in lines]
    done = probe(model, tmp_path, lines)
    assert done.exit_code == 1
    assert "none of its 4 groups has two correct rollouts" in done.stderr
    assert "sample more" in done.stderr
    assert_states_are_kept(tmp_path, len(lines))


def test_no_closed_box_at_all(model, tmp_path):
    lines = [line | {"completion": line["completion"].replace("}", "")} for line in rollout_lines()]
    done = probe(model, tmp_path, lines)
    assert done.exit_code == 1
    assert "no problem has two graded rollouts" in done.stderr
    assert_states_are_kept(tmp_path, 24)
    reasons = open_run(tmp_path / "run").store().rows()
    lacking = reasons[reasons["anchor"] == "before_marker"]["reason"]
    assert lacking.eq("no_closed_marker").all()


def test_problem_file_without_answers(model, tmp_path):
    path = write_lines(tmp_path / "p.jsonl", [{"problem": "1+1?"}])
    arguments = ["rollout", str(model), "--problems", str(path), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "p.jsonl" in done.stderr
    assert "answer" in done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_states_on_a_gpu_equal_those_on_the_cpu(model, dtype, bound):
    ids = torch.randint(3, 40, (3, 50))
    rows = Rows(torch.tensor([0, 1, 2]), torch.tensor([49, 7, 20]))
    found = {}
    for device, kind in (("cpu", "float32"), ("cuda:0", dtype)):
        reader = ModelProbe(load_model(str(model), device=device, dtype=kind))
        inputs = {"input_ids": ids.to(device), "use_cache": False}
        at = Rows(rows.sequence.to(device), rows.position.to(device))
        with torch.inference_mode():
            states = reader.extractor.read(inputs, at, reader.extractor.layer_names).states
        found[device] = {name: state.float().cpu() for name, state in states.items()}
    for name, want in found["cpu"].items():
        assert (found["cuda:0"][name] - want).abs().max() < bound * want.abs().max()
