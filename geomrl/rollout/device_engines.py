"""One engine process a device, or a group of devices: requests are shared out, completions gathered."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any

from geomrl.errors import GeomrlError
from geomrl.rollout.engine import Completion, Engine, Request, Sampling, SamplingJob
from geomrl.rollout.engines import engine_class

_MODULE = "geomrl.rollout.device_worker"
_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # a worker has no other ranks
_TAIL_LINES, _TAIL_CHARACTERS = 5, 1500  # of what a process that died has said


def device_groups(devices: Sequence[str], tensor_parallel: int) -> list[tuple[str, ...]]:
    """Return the devices of each engine.

    >>> device_groups(["cuda:0", "cuda:1", "cuda:2", "cuda:3"], 2)
    [('cuda:0', 'cuda:1'), ('cuda:2', 'cuda:3')]

    Raises:
        GeomrlError: they cannot be joined by so many.
    """
    if tensor_parallel < 1 or len(devices) % tensor_parallel:
        raise GeomrlError(
            f"--devices {','.join(devices)}: {len(devices)} cannot be joined by --tensor-parallel "
            f"{tensor_parallel}; name a multiple of it"
        )
    starts = range(0, len(devices), tensor_parallel)
    return [tuple(devices[i : i + tensor_parallel]) for i in starts]


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one process samples: batches under their places, with the engine of a name."""

    engine: str
    job: SamplingJob
    device: str
    batches: Mapping[int, Sequence[Request]]
    sampling: Sampling


class DeviceEngines(Engine):
    """Engines in processes of their own, which load the model there and not here.

    Batches are dealt to the engines in turn. A process that dies does not end the others: they
    sample their share, and then the error is raised.

    Args:
        name: of the engine, a key of `ENGINES`.
        groups: the devices of each engine (`device_groups`).
        job: what is sampled; its `longest` is the longest that the model takes.
    """

    def __init__(self, name: str, groups: Sequence[tuple[str, ...]], job: SamplingJob) -> None:
        kind = engine_class(name)
        if len(groups[0]) > 1 and not kind.schedules:
            raise GeomrlError(f"--tensor-parallel {len(groups[0])}: for the engine vllm only")
        self.groups, self.job, self._kind = groups, job, kind
        # Of the engines that this one stands for.
        self.key, self.title, self.schedules = name, kind.title, kind.schedules  # type: ignore[misc]

    def draw_settings(self, config: Any, sampling: Sampling) -> dict[str, int]:  # type: ignore[override]
        """Return what decides draws in its processes."""
        return self._kind.draw_settings(config, sampling)

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """Sample all requests on the first device."""
        return [each for _, batch in self.stream([requests], sampling, progress) for each in batch]

    def stream(
        self,
        batches: Sequence[Sequence[Request]],
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Sample batches on all devices, and yield each when it is whole.

        Raises:
            GeomrlError: a process failed or died; it is named, after the others have finished.
        """
        longest = max(len(r.prompt_ids) for batch in batches for r in batch) + sampling.max_tokens
        job = replace(self.job, longest=min(longest, self.job.longest))
        groups = self.groups[: len(batches)]
        n = len(groups)
        workers: list[_Worker] = []
        failed: list[str] = []
        try:
            for group in groups:
                workers.append(_Worker(group, surroundings(group, n)))
            for i, worker in enumerate(workers):  # all are loading libraries by now
                dealt = {place: batches[place] for place in range(i, len(batches), n)}
                device = "cuda" if _on_cuda(groups[i][0]) else "cpu"
                worker.send(
                    Share(engine=self.key, job=job, device=device, batches=dealt, sampling=sampling)
                )
            running = {worker.connection: worker for worker in workers}
            while running:
                for connection in wait(list(running)):
                    worker = running[connection]  # type: ignore[index]  # wait's type says more
                    message = worker.receive()
                    if message is None:
                        del running[worker.connection]
                        if not worker.finished:
                            failed.append(worker.failure())
                    elif isinstance(message, tuple):
                        yield message
                    elif progress:
                        progress(message)
        finally:
            for worker in workers:
                worker.end()
        if failed:
            raise GeomrlError(
                f"{'; '.join(failed)}. What was finished is kept: run the same command again"
            )


class _Worker:
    """A process, and the pipe to it: it is sent its share, and sends batches, counts, at last None."""

    def __init__(self, group: tuple[str, ...], environment: dict[str, str]) -> None:
        self.name = ",".join(group)
        self.connection, theirs = Pipe()
        self.finished, self._error = False, ""
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  `end` closes it
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                env=environment,
            )
        finally:
            theirs.close()

    def send(self, share: Share) -> None:
        """Send the process what it samples."""
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died: `failure` says of what
            self.connection.send(share)

    def receive(self) -> tuple[int, list[Completion]] | int | None:
        """Return a batch, or how many more rollouts have finished; None at the end."""
        try:
            message: Any = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return None
        self.finished = message is None
        if isinstance(message, str):
            self._error, message = message, 0
        return message  # type: ignore[no-any-return]

    def failure(self) -> str:
        """Wait for the process's end, and say what went wrong."""
        code = self._process.wait()
        how = (
            f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        )
        why = self._error or f"{how}; its last lines: {self._last_lines()}"
        return f"the engine on {self.name}: {why}"

    def end(self) -> None:
        """End the process, if it runs."""
        self._process.terminate()
        self._process.wait()
        self.connection.close()
        self._said.close()

    def _last_lines(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        kept = [line.strip() for line in lines if line.strip()][-_TAIL_LINES:]
        return " | ".join(kept)[-_TAIL_CHARACTERS:] or "none"


def _on_cuda(device: str) -> bool:
    import torch

    return torch.cuda.is_available() if device == "auto" else device.startswith("cuda")


def surroundings(group: tuple[str, ...], at_once: int) -> dict[str, str]:
    """Return a process's environment: its devices, its share of the cores, this package."""
    found = {key: value for key, value in os.environ.items() if key not in _LAUNCHER}
    numbers = [int(device.partition(":")[2] or 0) for device in group if device != "auto"]
    if numbers and _on_cuda(group[0]):
        visible = [name for name in found.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        if visible and max(numbers) >= len(visible):
            raise GeomrlError(
                f"device cuda:{max(numbers)}: CUDA_VISIBLE_DEVICES={','.join(visible)} shows "
                f"{len(visible)}; name another"
            )
        names = [visible[i] if visible else str(i) for i in numbers]
        found["CUDA_VISIBLE_DEVICES"] = ",".join(names)
    if at_once > 1:
        found.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // at_once)))
    package = str(Path(__file__).parents[2])
    found["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [found.get("PYTHONPATH")])])
    return found
