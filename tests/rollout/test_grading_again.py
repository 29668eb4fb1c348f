"""A mended gold answer, marker or verifier: stored responses are graded again, nothing is sampled."""

import json
import shutil

import pytest
from small_runs import write_lines
from typer.testing import CliRunner

from geomrl.cli.app import app
from geomrl.errors import GeomrlError
from geomrl.files import read_json, write_json
from geomrl.models.options import ModelOptions
from geomrl.probe.steps import probe_states
from geomrl.problems.load import load_problems
from geomrl.rollout.engine import Sampling
from geomrl.rollout.engines.transformers import TransformersEngine
from geomrl.rollout.generate import RolloutConfig
from geomrl.rollout.steps import make_rollouts
from geomrl.runs.run import open_run, run_marker

CONFIG = RolloutConfig(n=4, chunk=8, sampling=Sampling(max_tokens=128), template="plain")


@pytest.fixture(scope="module")
def reasoner():
    return ModelOptions("cpu").load("reasoner")


def problem_file(folder, wrong=()):
    """Six sums; the golds of those at the places `wrong` are -1."""
    problems = load_problems("arithmetic", limit=6)
    return write_lines(
        folder / "sums.jsonl",
        [
            {"id": p.problem_id, "problem": p.statement, "answer": "-1" if i in wrong else p.gold}
            for i, p in enumerate(problems)
        ],
    )


def sample(model, problems, out, **options):
    return make_rollouts(model, str(problems), out, config=CONFIG, show=False, **options)


@pytest.fixture(scope="module")
def runs(reasoner, tmp_path_factory):
    """A run whose first three golds were wrong, and one of the right golds."""
    folder = tmp_path_factory.mktemp("runs")
    sample(reasoner, problem_file(folder, wrong=(0, 1, 2)), folder / "faulty")
    sample(reasoner, problem_file(folder), folder / "right")
    return folder


@pytest.fixture
def faulty(runs, tmp_path):
    shutil.copytree(runs / "faulty", tmp_path / "faulty")
    return tmp_path / "faulty"


def never_sampled(monkeypatch):
    def refuse(*_):
        raise AssertionError("sampled again")

    monkeypatch.setattr(TransformersEngine, "generate", refuse)


def labels(run):
    return run.rollouts[["rollout_id", "gold", "verdict", "answer_class"]].astype(str)


def test_a_mended_gold_is_graded_again_from_the_stored_responses(
    reasoner, runs, faulty, tmp_path, monkeypatch
):
    assert (open_run(faulty).rollouts["gold"] == "-1").sum() == 12
    never_sampled(monkeypatch)
    again = sample(reasoner, problem_file(tmp_path), faulty)
    assert labels(again).equals(labels(open_run(runs / "right")))
    assert (again.rollouts["verdict"] == "correct").any()
    made = (faulty / "rollouts.parquet").stat().st_mtime_ns
    sample(reasoner, problem_file(tmp_path), faulty)  # and then it is graded
    assert (faulty / "rollouts.parquet").stat().st_mtime_ns == made


def test_a_gold_mended_between_chunks_grades_the_whole_table(reasoner, runs, tmp_path, monkeypatch):
    sample_chunk, calls = TransformersEngine.generate, []

    def stopping(*arguments, **named):
        calls.append(1)
        if len(calls) == 3:  # the first is the engine's trial
            raise KeyboardInterrupt
        return sample_chunk(*arguments, **named)

    monkeypatch.setattr(TransformersEngine, "generate", stopping)
    with pytest.raises(KeyboardInterrupt):
        sample(reasoner, problem_file(tmp_path, wrong=(0, 1, 2)), tmp_path / "run")
    monkeypatch.setattr(TransformersEngine, "generate", sample_chunk)
    run = sample(reasoner, problem_file(tmp_path), tmp_path / "run")
    assert labels(run).equals(labels(open_run(runs / "right")))


def test_command_line_says_what_it_grades_again(faulty, tmp_path):
    problem_file(tmp_path)
    done = CliRunner().invoke(
        app,
        ["rollout", "reasoner", "--problems", str(tmp_path / "sums.jsonl"), "--out", str(faulty),
         "-n", "4", "--chunk", "8", "--max-tokens", "128", "--template", "plain", "--device", "cpu"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "grading again: 3 golds changed" in done.output
    assert "nothing was sampled again" in " ".join(done.output.split())
    assert not (open_run(faulty).rollouts["gold"] == "-1").any()


def test_another_verifier_or_marker_grades_again(reasoner, runs, faulty, tmp_path, monkeypatch):
    never_sampled(monkeypatch)
    problems = problem_file(tmp_path, wrong=(0, 1, 2))
    manifest = read_json(faulty / "manifest.json")
    assert manifest["grading"]["settings"].keys() >= {"golds", "marker", "verifier"}
    manifest["grading"]["settings"]["verifier"] = "of last year"
    write_json(faulty / "manifest.json", manifest)
    lines = []
    sample(reasoner, problems, faulty, say=lines.append)
    assert any("another version of the verifier" in line for line in lines)
    again = sample(reasoner, problems, faulty, marker=r"re:(?i)total of ([0-9]+)", say=lines.append)
    assert any("the marker was" in line for line in lines)
    assert run_marker(again).spec == r"re:(?i)total of ([0-9]+)"


def test_a_run_of_an_older_geomrl_is_graded_by_todays_verifier(
    reasoner, runs, faulty, tmp_path, monkeypatch
):
    """Its manifest knows the weights' hash alone, and nothing of grading."""
    never_sampled(monkeypatch)
    manifest = read_json(faulty / "manifest.json")
    del manifest["grading"]
    settings = manifest["rollouts"]["settings"]
    for newer in ("tokenizer", "stop_ids", "prompts"):
        settings.pop(newer, None)
    settings["policy_hash"] = reasoner.weights
    (faulty / "manifest.json").write_text(json.dumps(manifest))
    lines = []
    run = sample(reasoner, problem_file(tmp_path), faulty, say=lines.append)
    assert "grading again: 3 golds changed" in lines
    assert labels(run).equals(labels(open_run(runs / "right")))


def test_results_of_other_labels_are_refused_until_they_are_made_again(
    reasoner, faulty, tmp_path, monkeypatch
):
    from geomrl.probe.extraction import ExtractionConfig

    config = ExtractionConfig(layers=("final",), anchors=("marker_end",))
    fast = {"config": config, "n_boot": 100, "n_perm": 99, "show": False}
    wrong = probe_states(reasoner, faulty, **fast)
    before = wrong.summary["benchmarks"]["sums"]["pass@1"]["value"]
    cc = wrong.similarity
    never_sampled(monkeypatch)
    run = sample(reasoner, problem_file(tmp_path), faulty)
    for table in ("similarity", "summary"):
        with pytest.raises(GeomrlError, match=rf"{table}.*graded again since.*geomrl probe"):
            getattr(run, table)
    made = {p: p.stat().st_mtime_ns for p in faulty.rglob("shard-*")}
    run = probe_states(reasoner, faulty, **fast)
    assert run.summary["benchmarks"]["sums"]["pass@1"]["value"] > before
    assert not run.similarity.equals(cc)
    assert made == {p: p.stat().st_mtime_ns for p in faulty.rglob("shard-*")}  # states are kept
