"""`compare` and `eval`: every model is looked at before the first works; identical ones are named."""

import json
import shutil

import pytest
from small_runs import save_model, write_lines
from typer.testing import CliRunner

from geomrl.cli.app import app
from geomrl.cli.comparison_tables import verdict_lines
from geomrl.compare.config import CompareConfig
from geomrl.compare.run import compare_models
from geomrl.errors import GeomrlError
from geomrl.evaluate.evaluation import evaluate_models
from geomrl.evaluate.presets import preset
from geomrl.files import read_json
from geomrl.models.names import checkpoint_path
from geomrl.models.options import ModelOptions
from geomrl.probe.extraction import ExtractionConfig
from geomrl.problems.load import load_problems
from geomrl.rollout.engine import Sampling
from geomrl.rollout.engines.transformers import TransformersEngine
from geomrl.rollout.generate import RolloutConfig

EXTRACTION = ExtractionConfig(layers=("final",), anchors=("marker_end", "before_answer"))
CONFIG = CompareConfig(anchor="marker_end", probe_anchors=(), n_boot=100)


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(checkpoint_path(), tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def adapter(tmp_path, copy):
    """A LoRA adapter as peft saves it, with a tokenizer."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    for file in copy.glob("token*"):
        shutil.copy(file, folder)
    shutil.copy(copy / "model.safetensors", folder / "adapter_model.safetensors")
    written = {"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen3-1.7B"}
    (folder / "adapter_config.json").write_text(json.dumps(written))
    return folder


def torn(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return folder


@pytest.mark.parametrize("command", ["compare", "eval"])
def test_a_second_model_that_cannot_be_used_is_named_before_the_first_works(
    command, adapter, copy, tmp_path
):
    other = save_model(tmp_path / "other")
    wrong = {
        str(adapter): "this is a LoRA adapter of Qwen/Qwen3-1.7B, not a model: merge it first",
        str(tmp_path / "no" / "such" / "model"): "no such folder",
        str(torn(copy)): "not a whole weight file",
    } | ({str(other): "another vocabulary"} if command == "compare" else {})
    for name, words in wrong.items():
        done = CliRunner().invoke(
            app,
            [command, "reasoner", name, "--problems", "arithmetic", "-n", "2", "--limit", "2",
             "--max-tokens", "8", "--device", "cpu", "--out", str(tmp_path / "out")],
        )  # fmt: skip
        assert done.exit_code == 1
        assert words in " ".join(done.output.split())
        assert not list(tmp_path.glob("out/**/*.parquet"))  # nothing was sampled


def test_a_merged_folder_that_still_has_its_adapters_file_is_refused(copy, adapter, tmp_path):
    """transformers would load the base model, and put the adapter on it, in the weights' place."""
    shutil.copy(adapter / "adapter_config.json", copy)
    with pytest.raises(GeomrlError, match=r"merged already, delete adapter_config.json"):
        ModelOptions("cpu").load(str(copy))


def compare(base, other, problems, out, chunk=64, batch_tokens=16384, say=lambda line: None):
    return compare_models(
        base, other, str(problems), out, config=CONFIG,
        rollouts=RolloutConfig(n=4, chunk=chunk, sampling=Sampling(max_tokens=128), template="plain"),
        extraction=ExtractionConfig(EXTRACTION.layers, EXTRACTION.anchors, batch_tokens),
        options=ModelOptions("cpu"), show=False, say=say,
    )  # fmt: skip


def problem_file(folder, wrong=()):
    return write_lines(
        folder / "sums.jsonl",
        [
            {"id": p.problem_id, "problem": p.statement, "answer": "-1" if i in wrong else p.gold}
            for i, p in enumerate(load_problems("arithmetic", limit=6))
        ],
    )


def test_identical_checkpoints_are_told_and_a_mended_gold_is_graded_again(
    copy, tmp_path, monkeypatch
):
    out = tmp_path / "compare"
    first = compare("reasoner", str(copy), problem_file(tmp_path, wrong=(0, 1)), out)
    [entry] = first.record["checkpoints"]
    assert entry["verdict"] == "none"
    assert "the weights and the configuration are identical" in entry["remarks"][0]
    assert all(test["detectable"] != 0 for test in entry["tests"])
    assert not any(
        " 0," in line or line.endswith(" 0") for line in verdict_lines(entry, first.record)
    )
    cells = first.table[(first.table["cell"] == "CC") & (first.table["measure"] == "cosine")]

    def refuse(*_):
        raise AssertionError("sampled again")

    # A mended gold, and less memory than the first time.
    monkeypatch.setattr(TransformersEngine, "generate", refuse)
    made = {p: p.stat().st_mtime_ns for p in out.rglob("shard-*")}
    lines = []
    again = compare(
        "reasoner",
        str(copy),
        problem_file(tmp_path),
        out,
        chunk=5,
        batch_tokens=500,
        say=lines.append,
    )
    assert lines.count("grading again: 2 golds changed") == 2  # each policy's
    assert made == {p: p.stat().st_mtime_ns for p in out.rglob("shard-*")}
    after = again.table[(again.table["cell"] == "CC") & (again.table["measure"] == "cosine")]
    assert not cells["value"].reset_index(drop=True).equals(after["value"].reset_index(drop=True))
    new = tmp_path / "new"
    monkeypatch.undo()
    fresh = compare("reasoner", str(copy), problem_file(tmp_path), new)
    assert read_json(new / "verdict.json")["checkpoints"] == again.record["checkpoints"]
    assert fresh.table.equals(again.table)


def test_evaluation_tells_identical_models(copy, tmp_path):
    found = evaluate_models(
        ["reasoner", str(copy)], tmp_path / "eval", problems=str(problem_file(tmp_path)),
        sampling=preset("dapo", n=2, max_tokens=64, top_p=1.0), n_boot=100, show=False,
        rollouts=RolloutConfig(template="plain"), options=ModelOptions("cpu"),
    )  # fmt: skip
    assert any("weights and the configuration are identical" in n for n in found.summary["notes"])
    assert found.differences["detectable"].isna().all()
