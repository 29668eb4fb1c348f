"""Run trainings in worker processes, several at once; one that fails does not stop the others."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from geomrl.files import read_json, write_json
from geomrl.progress import Progress
from geomrl.runs.manifest import read_manifest
from geomrl.train.config import TrainConfig
from geomrl.train.run_settings import content

_MODULE = "geomrl.ablate.worker"
_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # an arm is one process
_LOG_TAIL = 4000  # bytes of a log in which the error is looked for


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: its configuration and its folder. OUT.json beside it tells how it ended.

    `code` contains the files of the user's as they were when the ablation began, with their hashes.
    """

    name: str
    config: TrainConfig
    out: Path
    keep_models: bool
    code: Mapping[str, str] = field(default_factory=dict)

    @property
    def record(self) -> Path:
        """Where the outcome is written."""
        return self.out.with_name(f"{self.out.name}.json")

    @property
    def log(self) -> Path:
        """Where what it prints is written."""
        return self.out.with_name(f"{self.out.name}.log")

    @property
    def done(self) -> bool:
        """Whether it has been trained to its end, with a configuration of this content."""
        if not self.record.exists():
            return False
        found = read_json(self.record)
        now = self.config.model_dump(mode="json")
        return found["state"] == "done" and content(found["config"]) == content(now)


_Ended = tuple[Job, str | None]


def run_jobs(jobs: Sequence[Job], at_once: int, progress: Progress) -> dict[str, str]:
    """Train what is not done yet; return name -> message of those that failed.

    Each worker process takes job after job (with other models than the bundled one, a new process
    each); a job that was interrupted resumes. Every process has
    its share of the CPU cores (OMP_NUM_THREADS where that is set), and a GPU of its own where there
    are several. On Ctrl-C all of them end.

    Args:
        jobs: what to train.
        at_once: number of worker processes.
        progress: called with how many are done or have failed, and of how many.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    ended: queue.SimpleQueue[_Ended | None] = queue.SimpleQueue()
    open_jobs = [job for job in jobs if not job.done]
    for job in open_jobs:
        waiting.put(job)
    workers = [_Worker(_surroundings(i, at_once)) for i in range(min(at_once, len(open_jobs)))]
    failed: dict[str, str] = {}
    finished = len(jobs) - len(open_jobs)
    progress(finished, len(jobs))
    with ThreadPoolExecutor(max(1, len(workers))) as pool:
        try:
            serving = [pool.submit(_serve, worker, waiting, ended) for worker in workers]
            for _ in serving:
                for job, message in iter(ended.get, None):  # each thread ends with a None
                    finished += 1
                    progress(finished, len(jobs))
                    if message is not None:
                        failed[job.name] = message
            for thread in serving:
                thread.result()
        finally:
            for worker in workers:
                worker.close()
    return failed


def _serve(
    worker: _Worker, waiting: queue.SimpleQueue[Job], ended: queue.SimpleQueue[_Ended | None]
) -> None:
    """Give a worker job after job."""
    try:
        while True:
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            message = worker.run(job)
            if worker.closed:
                return  # interrupted: neither done nor failed
            _record(job, message)
            ended.put((job, message))
    finally:
        ended.put(None)


def _record(job: Job, message: str | None) -> None:
    state = {"state": "done"} if message is None else {"state": "failed", "message": message}
    write_json(job.record, {**state, "config": job.config.model_dump(mode="json")})
    if message is None and not job.keep_models:
        for folder in ("checkpoints", "model"):
            shutil.rmtree(job.out / folder, ignore_errors=True)


class _Worker:
    """One worker process, started when it is first needed and again after a failure."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self.closed = False

    def run(self, job: Job) -> str | None:
        """Train; return None when it ended well, else what went wrong."""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.unlink(missing_ok=True)
        process = self._started()
        if process is None:
            return "stopped"
        task = {
            "config": job.config.model_dump(mode="json"),
            "out": str(job.out.resolve()),
            "resume": "train" in read_manifest(job.out),
            "user_code": dict(job.code),
        }
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: no answer comes either
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
        if process.stdout.readline() == "done\n":
            if not _shares_process(job.config):
                self._end()
            return None
        code = process.wait()
        self._end()  # children that it left
        return _message(job.log, code)

    def close(self) -> None:
        """End the process, and start no other."""
        self.closed = True
        self._end()

    def _started(self) -> subprocess.Popen[str] | None:
        with self._lock:
            if self.closed:
                return None
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", _MODULE],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    env=self._environment,
                    start_new_session=True,  # so that it ends with the processes that it starts
                )
            return self._process

    def _end(self) -> None:
        with self._lock:
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
                self._process = None


def _shares_process(config: TrainConfig) -> bool:
    """Say whether the next job may run in this one's process.

    Libraries are imported once then, but what they allocated is not freed for certain: vLLM keeps
    memory on the GPU, and DeepSpeed's ZeRO-3 each policy. A model of some size gets its own process.
    """
    return config.model.name == "reasoner" and config.deepspeed.zero < 3


def _message(log: Path, code: int) -> str:
    """Return the last line that a failed training printed, and where the rest is."""
    text = log.read_bytes()[-_LOG_TAIL:].decode(errors="replace") if log.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if code < 0:
        reason = f"the process was killed by {signal.Signals(-code).name} (out of memory?)"
    else:
        reason = lines[-1] if lines else f"the process ended with code {code}"
    return f"{reason} (see {log})"


def _surroundings(worker: int, at_once: int) -> dict[str, str]:
    """Return a worker's environment: its share of the cores, one of several GPUs, our package."""
    found = {key: value for key, value in os.environ.items() if key not in _LAUNCHER}
    threads = max(1, (os.cpu_count() or 1) // at_once)
    found.setdefault("OMP_NUM_THREADS", str(threads))
    devices = _devices()
    if len(devices) > 1:
        found["CUDA_VISIBLE_DEVICES"] = devices[worker % len(devices)]
    package = str(Path(__file__).parents[2])
    found["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [found.get("PYTHONPATH")])])
    return found


def _devices() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device for device in named.split(",") if device]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
