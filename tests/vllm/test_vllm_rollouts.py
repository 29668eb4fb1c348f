"""Rollouts with vLLM in processes of their own: the samples of one device, whatever is killed."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from processes import run_process, wait_until
from widened import save_widened_reasoner

from geomrl.runs.manifest import read_manifest
from geomrl.runs.run import open_run

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="two engines on one CPU")
PROBLEMS, SAMPLES = 16, 4
KILLED_AT = (1, 3, 6, 9, 12)
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def command(name, *arguments):
    return [sys.executable, "-m", "geomrl.cli", name, *map(str, arguments)]


def options(out, devices, n=SAMPLES, limit=PROBLEMS):
    return [
        "--problems", "arithmetic", "--limit", limit, "-n", n, "--max-tokens", 200,
        "--engine", "vllm", "--devices", devices, "--out", out,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_widened_reasoner(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """The run of one device."""
    out = tmp_path_factory.mktemp("one") / "run"
    run_process(command("rollout", model, *options(out, "cpu")), check=True)
    return out


def table(out):
    return (out / "rollouts.parquet").read_bytes()


def test_one_device_samples_what_can_be_right(whole):
    rollouts = open_run(whole).rollouts
    assert len(rollouts) == PROBLEMS * SAMPLES
    assert (rollouts["verdict"] == "correct").mean() > 0.3
    settings = read_manifest(whole)["rollouts"]["settings"]
    assert settings["engine"] == "vllm"
    assert settings["engine_version"]


def test_two_devices_make_the_table_of_one(model, whole, tmp_path):
    done = run_process(command("rollout", model, *options(tmp_path / "run", "cpu,cpu")), check=True)
    assert "64/64" in done.stderr
    assert table(tmp_path / "run") == table(whole)


@pytest.mark.parametrize("parts", KILLED_AT)
def test_killed_with_all_its_processes_and_run_again(model, whole, tmp_path, parts):
    out = tmp_path / "run"
    process = subprocess.Popen(
        command("rollout", model, *options(out, "cpu,cpu")), start_new_session=True, **QUIET
    )
    folder = out / "rollouts.parts"
    assert wait_until(lambda: len(list(folder.glob("part-*.parquet"))) >= parts, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    found = len(list(folder.glob("part-*.parquet")))
    assert not (out / "rollouts.parquet").exists()
    print(f"killed with {found} of {PROBLEMS} parts")
    run_process(command("rollout", model, *options(out, "cpu,cpu")), check=True)
    assert table(out) == table(whole)


def test_probe_eval_and_compare_sample_with_it(model, whole, tmp_path):
    probed = tmp_path / "probe"
    run_process(command("probe", model, *options(probed, "cpu,cpu")), check=True)
    assert table(probed) == table(whole)
    run_process(
        command("eval", f"wide={model}", *options(tmp_path / "eval", "cpu", limit=4)), check=True
    )
    [sampled] = (tmp_path / "eval" / "rollouts").iterdir()
    assert read_manifest(sampled)["rollouts"]["settings"]["engine"] == "vllm"
    other = save_widened_reasoner(tmp_path / "other")
    compared = tmp_path / "compare"
    run_process(
        command("compare", model, other, *options(compared, "cpu", limit=4), "--layers", "final",
                "--boot", 100, "--permutations", 99), check=True,
    )  # fmt: skip
    sampled = list((compared / "policies").iterdir())
    assert {read_manifest(run)["rollouts"]["settings"]["engine"] for run in sampled} == {"vllm"}


def test_what_vllm_cannot_run_is_said_with_its_device(tmp_path):
    done = run_process(command("rollout", "reasoner", *options(tmp_path / "run", "cpu", limit=1)))
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert "the engine on cpu: reasoner: its attention heads have 16 dimensions" in said
    assert not list((tmp_path / "run").glob("*.parts/*"))


def test_two_devices_joined_in_one_engine_sample_the_same(model, whole, tmp_path):
    out = tmp_path / "run"
    joined = [*options(out, "cpu,cpu", limit=2), "--tensor-parallel", 2]
    run_process(command("rollout", model, *joined), check=True)
    one = open_run(whole).rollouts.set_index("rollout_id")["response"]
    other = open_run(out).rollouts.set_index("rollout_id")["response"]
    assert other.equals(one[other.index])
