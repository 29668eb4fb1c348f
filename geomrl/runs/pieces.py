"""Independent pieces of an analysis over several processes: timed, estimated, and kept as they finish."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from uuid import uuid4

import psutil
from threadpoolctl import threadpool_limits

from geomrl.errors import GeomrlError
from geomrl.progress import Say, clock_time

_PAYS = 20.0  # seconds of work left from which starting processes, a few seconds each, pays
_IMPORTS = 600_000_000  # bytes of a process that has imported what an analysis needs

Work = Callable[..., object]
"""Does one piece, called with its names, and keeps the result itself."""


@dataclass(frozen=True)
class Piece:
    """One piece: the names that its work is called with, and which pieces take about as long."""

    names: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True)
class _Cost:
    """What one piece takes: seconds on one thread, and bytes beside what was in memory before."""

    seconds: float
    memory: int


def finish_pieces(
    pieces: Sequence[Piece],
    begin: Callable[[], Work],
    *,
    jobs: int | None,
    advance: Callable[[], None],
    say: Say,
) -> None:
    """Do pieces of work that do not depend on each other, in several processes where that pays.

    The first piece of each kind is done in this process. What it takes says how long the others will,
    which `say` is told, and how many processes fit into memory. A piece is computed on one thread
    wherever it is done, so that its result depends neither on `jobs` nor on the machine's cores.

    Args:
        pieces: those that are not finished.
        begin: called once in each process: opens what all pieces need, and returns what does one. It
            is sent to the processes: a function of a module, or a `partial` of one.
        jobs: most processes at once; None takes one a core.
        advance: called after each piece.
        say: called with a line for the user.

    Raises:
        GeomrlError: by a piece; or a process was killed. What was finished is kept.
    """
    first = {piece.kind: piece for piece in reversed(pieces)}
    left = [piece for piece in pieces if first[piece.kind] is not piece]
    if not pieces:
        return
    work = begin()
    costs: dict[str, _Cost] = {}
    for kind, piece in first.items():
        costs[kind] = _timed(work, piece)
        advance()
    seconds, processes = sum(costs[piece.kind].seconds for piece in left), 1
    if seconds >= _PAYS:
        processes = _processes(left, costs, jobs)
        say(_estimate(len(left), seconds, processes))
    for _ in _in_processes(begin, left, processes) if processes > 1 else _here(work, left):
        advance()


def _timed(work: Work, piece: Piece) -> _Cost:
    began = time.perf_counter()
    with _resident_memory() as grown, threadpool_limits(1):
        work(*piece.names)
    return _Cost(time.perf_counter() - began, grown())


@contextmanager
def _resident_memory(every: float = 0.02) -> Iterator[Callable[[], int]]:
    """Watch this process's memory in the block; yield what returns by how much it grew at most."""
    process, ended = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not ended.wait(every):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: most - before
    finally:
        ended.set()
        watcher.join()


def _processes(left: Sequence[Piece], costs: dict[str, _Cost], jobs: int | None) -> int:
    """Return how many processes are worth starting: as many as are asked for, and fit into memory."""
    from joblib import cpu_count  # of this process: containers and affinity counted

    each = _IMPORTS + max(cost.memory for cost in costs.values())
    fit = psutil.virtual_memory().available // each
    return max(1, min(len(left), jobs or cpu_count(), fit))


def _estimate(n: int, seconds: float, processes: int) -> str:
    here = "1 process" if processes == 1 else f"{processes} processes"
    return (
        f"{n} places left, about {clock_time(seconds / processes)} on {here} "
        f"({seconds / n:.1f} s of one core each)"
    )


def _here(work: Work, pieces: Sequence[Piece]) -> Iterator[None]:
    """Do pieces in this process; yield after each."""
    with threadpool_limits(1):
        for piece in pieces:
            work(*piece.names)
            yield


@dataclass(frozen=True)
class _Call:
    """One call of `finish_pieces`, for joblib's processes, which are kept from call to call."""

    number: str
    parent: int
    folder: Path  # where the user's relative paths begin
    begin: Callable[[], Work] = field(compare=False)


def _do(call: _Call, names: tuple[str, ...]) -> None:
    """Do a piece in a process of joblib's."""
    _begun(call)(*names)


@lru_cache(maxsize=1)
def _begun(call: _Call) -> Work:
    _end_with(call.parent)
    os.chdir(call.folder)
    return call.begin()


@cache
def _end_with(parent: int) -> None:
    """End this process soon after its parent: joblib's would finish a piece that nobody waits for."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _in_processes(
    begin: Callable[[], Work], pieces: Sequence[Piece], processes: int
) -> Iterator[None]:
    """Do pieces in processes of their own; yield after each, in the order in which they end."""
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    parallel = Parallel(
        n_jobs=processes, backend="loky", inner_max_num_threads=1, batch_size=1,
        return_as="generator_unordered",
    )  # fmt: skip
    try:
        call = _Call(uuid4().hex, os.getpid(), Path.cwd(), begin)
        for _ in parallel(delayed(_do)(call, piece.names) for piece in pieces):
            yield
    except TerminatedWorkerError as error:
        raise GeomrlError(
            "a process of the analysis was killed, most often for want of memory; what was finished "
            f"is kept. Run the same command again, with fewer --jobs than {processes}"
        ) from error
