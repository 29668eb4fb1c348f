"""Runs of tests/train/test_train_resume.py: killed at named points and at random moments, then resumed.

Heavy libraries are imported once; every run is a forked process group of its own, so that a kill
takes the verifier's workers along, as a scheduler's would.
"""

import os
import random
import shutil
import signal
import socket
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import torch

from geomrl.train.checkpoint import newest_checkpoint
from geomrl.train.config import load_config
from geomrl.train.deepspeed_engine import import_deepspeed
from geomrl.train.trainer import train

SETTINGS = [
    "steps=4", "data.prompts_per_step=6", "data.limit=18", "data.max_prompt_tokens=64",
    "rollout.samples=4", "rollout.chunk=64", "dapo.updates_per_rollout=2", "dapo.surplus=carry",
    "dapo.max_rounds=3", "micro_batch.tokens=512", "alignment.table=auto",
    "evaluation.limit=4", "evaluation.samples=2", "evaluation.k=[1,2]", "evaluation.every=2",
    "evaluation.anchors=[before_marker]", "checkpoint.every=1", "checkpoint.keep=1",
]  # fmt: skip
POINTS = {  # point -> the occurrence at which the run is killed
    "generate": 3,
    "old_logprobs": 2,
    "micro_batch": 8,
    "model_written": 3,
    "evaluate": 2,
    "evaluated": 2,
}
RANDOM = 2


def start(config, out, *, resume=False, kill_at=None):
    """Fork a run; return its process."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    os.setpgrp()
    seen = Counter()

    def tick(point):
        seen[point] += 1
        if kill_at == (point, seen[point]):
            os.killpg(0, signal.SIGKILL)

    try:
        train(config, out, resume=resume, show=False, tick=tick)
    except BaseException:  # noqa: BLE001  a fork must never run on in the parent's code
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def finish(child):
    """Wait for a run: True where it ended well, False where it was killed."""
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return False
    if os.waitstatus_to_exitcode(status):
        sys.exit("a run failed; see above")
    return True


def main(folder):
    torch.set_num_threads(1)
    import_deepspeed()
    import nnsight  # noqa: F401

    config = load_config(Path(__file__).parents[1] / "configs" / "smoke.yaml", SETTINGS)
    began = time.monotonic()
    assert finish(start(config, folder / "whole"))
    length = time.monotonic() - began
    for point, occurrence in POINTS.items():
        run = folder / point
        assert not finish(start(config, run, kill_at=(point, occurrence))), f"{point} not reached"
        assert finish(start(config, run, resume=True))
    draw = random.Random(0)
    for number in range(RANDOM):
        run = folder / f"random-{number}"
        child = start(config, run)
        time.sleep(length * draw.uniform(0.1, 0.95))
        os.killpg(child, signal.SIGKILL)
        killed = not finish(child)
        if killed:
            begun = (run / "manifest.json").exists()
            assert finish(start(config, run, resume=begun))
    torn = folder / "torn"
    killed = start(config, torn, kill_at=("evaluate", 3))
    assert not finish(killed)
    # What it was writing, had the kill come a moment earlier or later.
    for name in ("rollouts/.step-000004.parquet", ".config.yaml"):
        (torn / f"{name}.{socket.gethostname()}.{killed}.tmp").write_bytes(b"half")
    newest = newest_checkpoint(torn)
    target = max((newest / "deepspeed").rglob("*.pt"), key=lambda p: p.stat().st_size)
    with target.open("r+b") as file:
        file.truncate(target.stat().st_size // 2)
    before = newest_checkpoint(torn)
    assert before is not None
    assert before < newest
    assert finish(start(config, torn, resume=True))
    twice = folder / "finished"
    shutil.copytree(folder / "whole", twice)
    assert finish(start(config, twice, resume=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
