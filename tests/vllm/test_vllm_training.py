"""Twenty training steps with vLLM's rollouts: the trainer's own loop, and it learns.

Runs in its own process, as a user would start it.
"""

import json
import os
import sys
from pathlib import Path

import pytest
from processes import run_process
from widened import save_widened_reasoner

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
SETTINGS = (
    "rollout.engine=vllm", "deepspeed.processes=1", "steps=20",
    "optimiser.lr=1.0e-3", "optimiser.warmup_updates=6",
    "data.prompts_per_step=64", "evaluation.limit=200",
    "rollout.vllm.gpu_memory_utilization=0.4", "evaluation.every=20", "checkpoint.every=20",
    "log.rollouts_every=0", "log.show_rollouts=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm")
    model = save_widened_reasoner(folder / "model")
    changes = [part for s in (f"model.name={model}", *SETTINGS) for part in ("--set", s)]
    command = [sys.executable, "-m", "geomrl.cli", "train", str(CONFIG), *changes]
    done = run_process(
        [*command, "--out", folder / "run"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cpu_s=3000,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return folder / "run"


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_held_out_accuracy_rises(run):
    gain = json.loads((run / "summary.json").read_text())["accuracy"]["pass@1"]["difference"]
    assert gain["low"] > 0, gain


def test_engine_and_trainer_agree_at_every_step(run):
    """Each step's weights reached the engine: else the gap would grow with the updates."""
    gaps = [line["mismatch/mean"] for line in lines(run) if "mismatch/mean" in line]
    assert len(gaps) == 20
    assert max(gaps) < 1e-4, gaps


def test_importance_weights_are_used_and_are_about_one(run):
    means = [line["importance/mean"] for line in lines(run) if "importance/mean" in line]
    assert len(means) == 20
    assert all(abs(mean - 1) < 0.2 for mean in means), means
