"""The command line as a user types it."""

import json
import subprocess
import sys

import pytest
from commands import geomrl
from small_runs import rollout_lines, save_model, write_lines

COMMANDS = [
    *("rollout", "probe", "figures", "quickstart", "doctor"),
    *("train", "export", "ablate", "eval", "compare", "reasoner", "report"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['geomrl', '--help']\n"
        "from geomrl.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "import geomrl\n"
        "heavy = {'torch', 'nnsight', 'transformers', 'pandas', 'numpy', 'matplotlib', 'sympy', 'umap'}\n"
        "heavy |= {'deepspeed', 'pydantic', 'yaml'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert command in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(command):
    arguments = [command, "train"] if command == "reasoner" else [command]
    done = geomrl(*arguments, "--help")
    assert f"Example: geomrl {command}" in done.stdout


def test_probe_of_foreign_rollouts_end_to_end(model, tmp_path):
    path = write_lines(tmp_path / "r.jsonl", rollout_lines(n_problems=6))
    arguments = [
        "probe", model, "--rollouts", path, "--out", tmp_path / "run", "--template", "plain",
        "--anchors", "before_marker,marker_end", "--layers", "0,2,final", "--boot", 200,
        "--permutations", 99, "--replace",
    ]  # fmt: skip
    done = geomrl(*arguments)
    assert done.exit_code == 0, done.stderr
    assert "pass@1 0.500" in done.stdout
    assert "FLOOR" in done.stdout
    assert "random_residual" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["benchmarks"]["r"]["pass@1"]["value"] == 0.5
    for name in ("similarity.parquet", "similarity.csv", "replacement.parquet", "manifest.json"):
        assert (tmp_path / "run" / name).exists()
    drawn = geomrl("figures", tmp_path / "run", "--no-umap")
    assert drawn.exit_code == 0, drawn.stderr
    assert len(list((tmp_path / "run" / "figures").glob("*.png"))) >= 6


def test_errors_are_one_line_and_exit_1(model, tmp_path):
    cases = {
        "no such file": [
            "probe",
            model,
            "--rollouts",
            tmp_path / "x.jsonl",
            "--out",
            tmp_path / "a",
        ],
        "not a run directory": ["figures", tmp_path],
        "nothing to do": ["rollout", model, "--out", tmp_path / "b"],
        "holds no rollouts": ["probe", model, "--out", tmp_path / "c"],
        "anchor 'here' is unknown": ["probe", model, "--out", tmp_path / "d", "--anchors", "here"],
        "no config.json": ["probe", tmp_path, "--problems", "arithmetic", "--out", tmp_path / "e"],
    }
    for message, arguments in cases.items():
        done = geomrl(*arguments)
        assert done.exit_code == 1, arguments
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_missing_and_torn_shards_of_a_checkpoint_are_named(tmp_path):
    folder = save_model(tmp_path / "model")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    run = ["probe", folder, "--problems", "arithmetic", "--limit", 1, "--out", tmp_path / "run"]
    weights.write_bytes(whole[:-1000])
    done = geomrl(*run)
    assert (done.exit_code, "Traceback" in done.stderr) == (1, False)
    assert "model cannot be loaded" in done.stderr
    weights.unlink()
    done = geomrl(*run)
    assert "no safetensors weights" in done.stderr
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    done = geomrl(*run)
    assert "2 of 2 weight shards are missing (model-1-of-2.safetensors" in done.stderr
    assert done.exit_code == 1


def test_doctor_names_what_is_there():
    done = geomrl("doctor")
    assert done.exit_code == 0, done.stderr
    optional = ("umap-learn", "deepspeed", "peft", "vllm", "tensorboard", "wandb")
    for word in ("torch", "nnsight", *optional, "memory", "bundled"):
        assert word in done.stdout
