"""A pool of worker processes that can be killed, so that no answer can stall or crash a run.

Workers are plain subprocesses that speak JSON lines. Unlike `multiprocessing` they never import
the caller's main module (a script needs no `__main__` guard), never fork a process in which torch
runs threads, and can be started from any thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from geomrl.errors import GeomrlError

STALL_SECONDS = 120.0  # without any progress; a worker that waits for a busy machine makes some
_POLL_SECONDS = 0.05
_LIMITS = ("cpu_time", "memory", "wall_clock")


@dataclass(frozen=True)
class Outcome:
    """What a worker said of one (gold, answer) pair.

    `equal` is None when it could not tell; `reason` then is "cpu_time", "memory", "wall_clock" (it
    made no progress) or "error: ...".
    """

    equal: bool | None
    reason: str | None = None

    @property
    def is_limit(self) -> bool:
        """Whether the comparison was ended at one of its limits."""
        return self.equal is None and self.reason in _LIMITS


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    progressed: float  # when it was last seen to compute, or was given something to do
    cpu: float = 0.0  # seconds of CPU time until then
    ready: bool = False
    item: int | None = None
    baseline: int = 0  # resident bytes once its libraries are loaded
    buffer: bytes = field(default=b"", repr=False)


class WorkerPool:
    """Grades pairs in worker processes, each pair under a limit of CPU time and of memory.

    A worker's own timer, kept by the kernel, ends it after `timeout_s` seconds of CPU time, so that
    a verdict does not depend on the machine's load. One that neither answers nor computes for
    `STALL_SECONDS` is ended too.

    Processes start on the first use and end with `close`, with the `with` block, when the pool is
    garbage-collected, or when the interpreter exits. One caller at a time; any thread.
    """

    def __init__(self, workers: int, timeout_s: float, memory_mb: int) -> None:
        self._size = workers
        self._timeout_s = timeout_s
        self._memory_mb = memory_mb
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _end_all, self._workers)

    def run(self, pairs: Sequence[tuple[str, str]]) -> Iterator[Outcome]:
        """Yield the outcome of each (gold, answer) pair, in order, as soon as it is known.

        Raises:
            GeomrlError: the workers cannot be started.
        """
        with self._lock:
            try:
                yield from self._run(pairs)
            finally:
                # After an exception or Ctrl-C a busy worker still owes an answer to a question
                # that nobody asks any more.
                for worker in [w for w in self._workers if w.item is not None]:
                    self._end(worker)

    def close(self) -> None:
        """End all workers."""
        with self._lock:
            _end_all(self._workers)

    def _run(self, pairs: Sequence[tuple[str, str]]) -> Iterator[Outcome]:
        outcomes: dict[int, Outcome] = {}
        waiting = list(range(len(pairs)))[::-1]
        for index in range(len(pairs)):
            while index not in outcomes:
                self._assign(waiting, pairs)
                self._listen(outcomes)
                self._enforce_limits(outcomes)
            yield outcomes.pop(index)

    def _assign(self, waiting: list[int], pairs: Sequence[tuple[str, str]]) -> None:
        idle = [w for w in self._workers if w.item is None]
        for _ in range(min(self._size - len(self._workers), len(waiting) - len(idle))):
            self._workers.append(self._start())
        for worker in idle:
            if worker.ready and waiting:
                worker.item = waiting.pop()
                worker.progressed = time.monotonic()
                gold, answer = pairs[worker.item]
                request = json.dumps({"gold": gold, "answer": answer}) + "\n"
                # A worker that died while idle is met by `_listen`, at the end of its output.
                with contextlib.suppress(BrokenPipeError):
                    worker.process.stdin.write(request.encode())  # type: ignore[union-attr]
                    worker.process.stdin.flush()  # type: ignore[union-attr]

    def _listen(self, outcomes: dict[int, Outcome]) -> None:
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
            events = selector.select(_POLL_SECONDS)
        for key, _ in events:
            worker = key.data
            data = os.read(key.fd, 65536)
            if not data:
                self._bury(worker, outcomes)
                continue
            worker.buffer += data
            if worker.buffer.endswith(b"\n"):
                self._receive(worker, json.loads(worker.buffer), outcomes)
                worker.buffer = b""

    def _receive(
        self, worker: _Worker, message: dict[str, object], outcomes: dict[int, Outcome]
    ) -> None:
        if "ready" in message:
            worker.ready = True
            worker.baseline = _usage(worker)[1]
        elif worker.item is not None:
            error = message.get("error")
            outcome = Outcome(None, str(error)) if error else Outcome(bool(message["equal"]))
            outcomes[worker.item] = outcome
            worker.item = None

    def _bury(self, worker: _Worker, outcomes: dict[int, Outcome]) -> None:
        """A worker's output ended: it crashed, or could not start."""
        code = worker.process.wait()
        if not worker.ready:
            message = _start_message(worker, f"exit status {code}")
            self._end(worker)
            raise GeomrlError(message)
        if worker.item is not None and code == -signal.SIGPROF:
            outcomes[worker.item] = Outcome(None, "cpu_time")
        elif worker.item is not None:
            cause = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            outcomes[worker.item] = Outcome(None, f"error: worker ended ({cause})")
        self._end(worker)

    def _enforce_limits(self, outcomes: dict[int, Outcome]) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            idle = worker.ready and worker.item is None
            if idle or now - worker.progressed < _POLL_SECONDS:
                continue
            cpu, resident = _usage(worker)
            if cpu > worker.cpu:
                worker.cpu, worker.progressed = cpu, now
            stalled = now - worker.progressed > STALL_SECONDS
            if not worker.ready:
                if stalled:
                    raise GeomrlError(_start_message(worker, f"idle for {STALL_SECONDS:.0f} s"))
                continue
            reason = None
            if resident > worker.baseline + self._memory_mb * 2**20:
                reason = "memory"
            elif stalled:
                reason = "wall_clock"
            if reason and worker.item is not None:
                outcomes[worker.item] = Outcome(None, reason)
                self._end(worker)

    def _start(self) -> _Worker:
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        errors = tempfile.TemporaryFile()  # noqa: SIM115  closed when the worker ends
        process = subprocess.Popen(
            # -P keeps a `sympy.py` in the user's folder from shadowing the library.
            [
                sys.executable,
                "-P",
                "-m",
                "geomrl.verify.worker_main",
                f"{self._memory_mb}",
                f"{self._timeout_s}",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends the workers
        )
        return _Worker(process, errors, progressed=time.monotonic())

    def _end(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        _end_all([worker])


def _end_all(workers: list[_Worker]) -> None:
    """Kill and reap; a worker has nothing that is worth a goodbye."""
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.wait()
        for stream in (worker.process.stdin, worker.process.stdout, worker.errors):
            # An unsent request to a dead worker cannot be flushed.
            with contextlib.suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]
    workers.clear()


def _usage(worker: _Worker) -> tuple[float, int]:
    """CPU seconds so far and resident bytes; zeros of a process that has just ended."""
    try:
        process = psutil.Process(worker.process.pid)
        times = process.cpu_times()
        return times.user + times.system, int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0.0, 0


def _start_message(worker: _Worker, cause: str) -> str:
    worker.errors.seek(0)
    tail = worker.errors.read().decode(errors="replace").strip()[-600:]
    return (
        f"a grading worker did not start ({cause}): {tail or 'it wrote nothing'}. Check that"
        " `python -c 'import math_verify'` works in this environment"
    )
