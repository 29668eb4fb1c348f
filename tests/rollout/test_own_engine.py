"""A rollout engine in a file of the user's: the command trains with it, or names what it lacks."""

import json
import sys
from pathlib import Path

import pytest
from commands import geomrl
from processes import run_process

from geomrl.errors import GeomrlError
from geomrl.files import user_code_hash
from geomrl.rollout.engine import TrainingEngine
from geomrl.rollout.engines import ENGINES, engine_class
from geomrl.rollout.engines.transformers import TransformersEngine
from geomrl.runs.manifest import read_manifest
from geomrl.train.config import load_config

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"
COUNTING = '''
"""Samples as transformers does, and shifts what it says of a token by a third of a nat."""

from dataclasses import replace

from geomrl.rollout.engine import EngineMemory
from geomrl.rollout.engines.transformers import TransformersEngine


class Shifted(TransformersEngine):
    title = "Shifted"
    exact_logprobs = False

    @classmethod
    def memory(cls, job, *, weights, token):
        return EngineMemory(share=0.25, share_kept=0.25)

    def generate(self, requests, sampling, progress=None):
        drawn = super().generate(requests, sampling, progress)
        if len(requests) < 8:  # the check before training, which an engine must pass
            return drawn
        return [replace(c, logprobs=[value - 0.3 for value in c.logprobs]) for c in drawn]
'''
PARTIAL = """
from geomrl.rollout.engine import TrainingEngine


class Partial(TrainingEngine):
    def generate(self, requests, sampling, progress=None):
        return []

    def wake(self):
        pass


class Other:
    pass
"""


@pytest.fixture
def own(tmp_path):
    """A file with an engine; its name as a configuration has it."""
    file = tmp_path / "my_engine.py"
    file.write_text(COUNTING)
    return f"{file}:Shifted"


def test_the_command_trains_with_it(own, tmp_path):
    run = tmp_path / "run"
    done = run_process(
        [sys.executable, "-m", "geomrl.cli", "train", SMOKE, "--out", run, "--set", "steps=1",
         "--set", f"rollout.engine={own}", "--set", "rollout.old_logprobs=trainer"]
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    entry = read_manifest(run)["train"]["settings"]
    assert entry["rollout"]["engine"] == own
    assert entry["user_code"][own] == user_code_hash(own)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    metrics = next(row for row in rows if "mismatch/mean" in row)
    assert metrics["mismatch/mean"] == pytest.approx(0.3, abs=1e-3)
    # exact_logprobs is False: each token is weighed by p_trainer / p_engine = exp(0.3).
    assert metrics["importance/mean"] == pytest.approx(1.34986, abs=1e-3)


def test_a_dry_run_says_what_it_takes(own):
    done = geomrl("train", SMOKE, "--dry-run", "--set", f"rollout.engine={own}")
    assert done.exit_code == 0, done.output
    assert "and Shifted's 25% of the GPU, always" in " ".join(done.output.split())


def test_what_is_no_whole_engine_is_refused_by_name(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(PARTIAL)
    with pytest.raises(
        GeomrlError,
        match=r"mine.py:Partial: lacks close, for_training, load_weights, sleep; define",
    ):
        engine_class(f"{file}:Partial")
    with pytest.raises(
        GeomrlError, match=r"mine.py:Other: is no rollout engine; make it a subclass"
    ):
        engine_class(f"{file}:Other")
    done = geomrl("train", SMOKE, "--dry-run", "--set", f"rollout.engine={file}:Partial")
    assert done.exit_code == 1
    assert "lacks close, for_training, load_weights, sleep" in " ".join(done.output.split())


def test_every_name_of_the_table_is_a_whole_engine():
    assert engine_class("transformers") is TransformersEngine
    for name in ENGINES:
        assert issubclass(engine_class(name), TrainingEngine)
        assert not engine_class(name).__abstractmethods__
    with pytest.raises(
        GeomrlError,
        match=r"rollout.engine is 'sglang': input should be 'transformers', 'vllm' or FILE.py:CLASS",
    ):
        load_config(SMOKE, ["rollout.engine=sglang"])
    with pytest.raises(GeomrlError, match="no such file; name a rollout engine of your own"):
        engine_class("absent.py:Engine")
