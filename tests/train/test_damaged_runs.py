"""A run that is damaged, cut off or half copied: no finished step is lost, nothing is trained in silence.

One training of four steps; each case is a copy of its folder, damaged as disks, copies and kills do it,
and resumed by the command line in a process of its own.
"""

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import outputs, run_process, wait_until
from training import free_port

from geomrl.errors import GeomrlError
from geomrl.train.checkpoint import newest_checkpoint
from geomrl.train.config import load_config
from geomrl.train.preflight import check_folder
from geomrl.train.resume_point import find_resume_point
from geomrl.train.world import join_world

CONFIG = Path(__file__).parents[2] / "configs" / "smoke.yaml"
SETTINGS = [
    "steps=4", "data.prompts_per_step=2", "dapo.updates_per_rollout=1",
    "evaluation=null", "deepspeed.zero=2", "checkpoint.keep=3", "log.show_rollouts=0",
]  # fmt: skip
pytestmark = pytest.mark.slow


def command(run, *options, settings=()):
    sets = [part for setting in [*SETTINGS, *settings] for part in ("--set", setting)]
    return [sys.executable, "-m", "geomrl.cli", "train", CONFIG, "--out", run, *sets, *options]


def train(run, *options, settings=(), **process):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "1000"}
    return run_process(command(run, *options, settings=settings), env=environment, **process)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    done = train(run)
    assert done.returncode == 0, done.stderr[-3000:]
    return run


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))


def metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


def contents(folder):
    """Every file with its hash, the lock and what the last command printed about itself apart."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def checkpoint(run, step):
    return run / "checkpoints" / f"step-{step:06d}"


def optimiser(run, step):
    return next(checkpoint(run, step).rglob("*optim_states.pt"))


def flip(path):
    """Change one byte, and leave size and time as they are."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def cut_off(run, step):
    """Make of a finished run one that was killed while it wrote the checkpoint of its last step."""
    (checkpoint(run, step) / "complete.json").unlink()
    for path in (run / "model", run / "summary.json"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def test_a_flipped_bit_in_the_newest_and_a_rank_file_missing_in_the_one_before(run, whole):
    flipped, missing = optimiser(run, 4), checkpoint(run, 3) / "random-00000.pt"
    flip(flipped)
    missing.unlink()
    before = contents(run)
    done = train(run, "--resume")
    assert done.returncode == 0, done.stderr
    assert re.search(f"step-000004: .*{flipped.name} is not what was written", done.stderr)
    assert "step-000003: random-00000.pt is missing" in done.stderr
    assert "goes on after step 2; steps 3 to 4 again" in done.stderr
    assert metrics(run) == metrics(whole)
    later = ("checkpoints/step-00000", "rollouts/step-00000")
    assert contents(run / "set-aside-1") == {
        name: known
        for name, known in before.items()
        if name == "metrics.jsonl"
        or name.startswith(tuple(f"{p}{n}" for p in later for n in (3, 4)))
    }


def all_damaged(run):
    for step in range(1, 5):
        with optimiser(run, step).open("ab") as file:
            file.write(b"\n")


def half_copied(run):
    for step in range(1, 5):
        shutil.rmtree(checkpoint(run, step) / "deepspeed")
        if step % 2:
            (checkpoint(run, step) / "complete.json").unlink()


def checkpoints_not_copied(run):
    """Of a run that never ended: it has no model that would tell."""
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "model")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (all_damaged, r"step-000004: .*optim_states.pt has \d+ bytes"),
        (half_copied, "step-000004: deepspeed/latest is missing"),
        (checkpoints_not_copied, "checkpoints: holds no checkpoint, though steps 1 to 4"),
    ],
)
def test_what_is_damaged_everywhere_is_named_and_nothing_changed(run, damage, named):
    damage(run)
    before = contents(run)
    with join_world() as world, pytest.raises(GeomrlError, match=named) as refused:
        find_resume_point(run, world)
    assert "Nothing was changed" in str(refused.value)
    assert contents(run) == before


def test_without_its_record_a_training_is_not_overwritten(run):
    (run / "manifest.json").unlink()
    for resume in (False, True):
        with pytest.raises(GeomrlError, match=r"holds checkpoints of a training, but no record"):
            check_folder(run, resume=resume)


def test_a_smaller_resume(run, whole):
    """What decides memory alone may change, is recorded, and changes the numbers by rounding.

    So may `model/`, which no training reads.
    """
    cut_off(run, 4)
    with (checkpoint(run, 3) / "model" / "tokenizer_config.json").open("a") as file:
        file.write("\n")
    smaller = [
        "micro_batch.tokens=128", "micro_batch.keep_groups=false", "model.head_chunk=64",
        "model.activation_checkpointing=true", "model.attention=eager", "rollout.chunk=4",
        "rollout.vllm.gpu_memory_utilization=0.2",
    ]  # fmt: skip
    done = train(run, "--resume", settings=smaller)
    assert done.returncode == 0, done.stderr
    assert "goes on after step 3; step 4 again" in done.stderr
    assert not list(run.glob("set-aside-*"))  # what was cut off while it was saved is no loss
    assert "micro_batch.tokens: 2048 until now, 128 from here" in done.stderr
    changes = json.loads((run / "manifest.json").read_text())["train"]["changes"]
    assert [change["from_step"] for change in changes] == [4]
    assert set(changes[0]["settings"]) == {setting.partition("=")[0] for setting in smaller}
    assert changes[0]["settings"]["rollout.chunk"] == {"before": 32, "now": 4}
    there, here = metrics(whole)[-1], metrics(run)[-1]
    for name in ("reward/mean", "tokens", "loss/policy", "loss/align", "grad_norm", "entropy"):
        assert here[name] == pytest.approx(there[name], rel=1e-4, abs=1e-6), name
    from geomrl.train.run_settings import changes as changes_at_resume

    again = load_config(CONFIG, [*SETTINGS, *smaller, "model.head_chunk=32", "optimiser.lr=0.5"])
    with pytest.raises(GeomrlError) as refused:
        changes_at_resume(again, run, 1)
    assert "(optimiser.lr: 0.0001 there, 0.5 now)" in str(refused.value)


def test_a_full_disk_costs_no_finished_step(run, whole):
    """The limit on a file's size is what a full disk is to a process that writes."""
    cut_off(run, 4)
    biggest = max(p.stat().st_size for p in checkpoint(run, 3).rglob("*") if p.is_file())
    limit = biggest // 2
    done = train(
        run, "--resume",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 1
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (checkpoint(run, 4) / "complete.json").exists()
    assert metrics(run) == metrics(whole)
    assert newest_checkpoint(run) == checkpoint(run, 3)


def test_a_second_process_is_refused_and_the_first_trains_on(run):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [str(part) for part in command(run, "--resume", settings=["steps=1000"])],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as first:  # fmt: skip
        try:
            assert wait_until(lambda: len(metrics(run)) > 4, first)
            done = train(run, "--resume", settings=["steps=5"])
            seen = len(metrics(run))
            assert wait_until(lambda: len(metrics(run)) > seen, first)
        finally:
            first.kill()
    assert done.returncode == 1
    assert f"process {first.pid} on" in done.stderr


def test_a_folder_that_ranks_do_not_share(tmp_path):
    """Two machines with a disk of their own each; both say so, before anything is trained."""
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    port = str(free_port())
    ranks = [
        subprocess.Popen(
            [str(part) for part in command(tmp_path / f"disk-{rank}" / "run")],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": port},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [stderr for _, stderr in outputs(ranks)]
    assert [rank.returncode for rank in ranks] == [1, 1]
    for error in errors:
        assert "is not seen by rank 1" in error
        assert "Traceback" not in error
    assert not list(tmp_path.rglob("metrics.jsonl"))
