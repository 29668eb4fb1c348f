"""Rollouts on several devices, killed and run again: the table of one device that never was."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from multiprocessing import Pipe

import psutil
import pytest
import torch
from commands import geomrl
from processes import wait_until

from geomrl.errors import GeomrlError
from geomrl.models.loading import set_aside
from geomrl.models.options import ModelOptions
from geomrl.rollout import device_worker
from geomrl.rollout.device_engines import DeviceEngines, Share, device_groups, surroundings
from geomrl.rollout.engine import Request, Sampling, SamplingJob
from geomrl.rollout.engines import choose_engine, engine_version
from geomrl.rollout.generate import RolloutConfig
from geomrl.rollout.steps import make_rollouts, with_engine

CONFIG = RolloutConfig(n=4, chunk=4, sampling=Sampling(max_tokens=96))
LIMIT = 24


def sample(out, devices, model="reasoner"):
    options = ModelOptions(devices)
    return make_rollouts(
        model, "arithmetic", out, config=CONFIG, limit=LIMIT, options=options, show=False
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The table of one device."""
    out = tmp_path_factory.mktemp("one") / "run"
    run = sample(out, "cpu")
    assert run.manifest["rollouts"]["settings"]["engine"] == "transformers"
    assert run.manifest["rollouts"]["settings"]["engine_version"] == engine_version("transformers")
    return (out / "rollouts.parquet").read_bytes()


def test_a_killed_group_of_processes_leaves_its_parts(whole, tmp_path):
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "geomrl.cli", "rollout", "reasoner", "--problems", "arithmetic",
        "--limit", LIMIT, "-n", CONFIG.n, "--chunk", CONFIG.chunk, "--max-tokens", 96,
        "--out", out, "--devices", "cpu,cpu",
    ]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(list(map(str, command)), start_new_session=True, **quiet)
    parts = out / "rollouts.parts"
    assert wait_until(lambda: len(list(parts.glob("part-*.parquet"))) >= 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "rollouts.parquet").exists()
    sample(out, "cpu")
    assert (out / "rollouts.parquet").read_bytes() == whole
    assert not parts.exists()


def test_a_process_that_dies_is_named_and_the_others_finish(whole, tmp_path, monkeypatch):
    stream, places = DeviceEngines.stream, []

    def killing(self, batches, sampling, progress):
        workers = None
        for place, completions in stream(self, batches, sampling, progress):
            workers = workers or psutil.Process().children()
            yield place, completions
            places.append(place)
            if len(places) == 1:
                victim = next(w for w in workers if "device_worker" in " ".join(w.cmdline()))
                victim.kill()

    monkeypatch.setattr(DeviceEngines, "stream", killing)
    out = tmp_path / "run"
    with pytest.raises(
        GeomrlError, match=r"the engine on cpu: was killed by SIGKILL.*kept"
    ) as told:
        sample(out, "cpu,cpu")
    assert "its last lines" in str(told.value)
    assert any(set(range(i, LIMIT, 2)) <= set(places) for i in (0, 1))  # one share is whole
    assert len(places) < LIMIT
    monkeypatch.setattr(DeviceEngines, "stream", stream)
    sample(out, "cpu")
    assert (out / "rollouts.parquet").read_bytes() == whole


def test_an_error_of_a_process_is_sent_before_it_ends():
    job = SamplingJob(
        model="reasoner", weights="another", dtype="float32", trust_remote_code=False,
        allow_pickle=False, longest=100,
    )  # fmt: skip
    batches = {0: [Request((5, 6), 0)]}
    share = Share(
        engine="transformers", job=job, device="cpu", batches=batches, sampling=Sampling()
    )
    ours, theirs = Pipe()
    ours.send(share)
    with pytest.raises(SystemExit) as ended:
        device_worker.main(os.dup(theirs.fileno()))
    assert ended.value.code == 1
    assert ours.recv().startswith("reasoner: its files hold other weights than the model")


def test_devices_are_joined_in_groups():
    names = [f"cuda:{i}" for i in range(4)]
    assert device_groups(names, 1) == [(name,) for name in names]
    assert device_groups(names, 4) == [tuple(names)]
    with pytest.raises(GeomrlError, match=r"4 cannot be joined by --tensor-parallel 3"):
        device_groups(names, 3)
    with pytest.raises(GeomrlError, match="for the engine vllm only"):
        DeviceEngines("transformers", [("cuda:0", "cuda:1")], None)


def test_a_process_sees_its_devices_alone(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert surroundings(("cuda:2", "cuda:3"), 2)["CUDA_VISIBLE_DEVICES"] == "2,3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7f")
    assert surroundings(("cuda:1",), 2)["CUDA_VISIBLE_DEVICES"] == "GPU-7f"
    with pytest.raises(GeomrlError, match=r"cuda:2: CUDA_VISIBLE_DEVICES=4,GPU-7f shows 2"):
        surroundings(("cuda:2",), 2)
    monkeypatch.setenv("RANK", "1")
    assert "RANK" not in surroundings(("cpu",), 1)


def test_a_loaded_model_leaves_its_device_to_others_and_comes_back():
    loaded = ModelOptions("cpu").load("reasoner")
    elsewhere = replace(loaded, device=torch.device("meta"))
    with set_aside(elsewhere):
        assert {w.device.type for w in loaded.model.parameters()} == {"cpu"}
    assert {w.device.type for w in loaded.model.parameters()} == {"meta"}


def test_auto_is_the_engine_that_is_there_and_the_one_that_a_run_began_with(tmp_path):
    assert choose_engine("auto", ["cpu"]) == "transformers"
    assert choose_engine("vllm", ["cpu"]) == "vllm"
    with pytest.raises(
        GeomrlError, match="engine 'fast' is unknown; use auto, transformers or vllm"
    ):
        choose_engine("fast", ["cpu"])
    assert with_engine(CONFIG, tmp_path, ModelOptions("cpu")).engine == "transformers"


def test_a_run_is_not_sampled_by_two_engines(whole, tmp_path):
    command = [
        "rollout", "reasoner", "--problems", "arithmetic", "--limit", 2, "-n", 2, "--devices", "cpu",
        "--max-tokens", 8, "--out", tmp_path / "run",
    ]  # fmt: skip
    assert geomrl(*command, "--engine", "transformers").exit_code == 0
    assert geomrl(*command).exit_code == 0
    other = geomrl(*command, "--engine", "vllm")
    assert other.exit_code == 1
    assert "engine: 'transformers' there, 'vllm' now" in other.output
