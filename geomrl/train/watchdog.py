"""A watchdog a rank: says what the rank does, or whom it waits for, when nothing moves for long.

A training whose ranks wait for each other looks the same on all of them. The lines of all ranks
side by side tell which one is behind: the one that does not wait, or has done the least. A rank that
says nothing is gone. Meetings of ranks within DeepSpeed (sums of gradients, partitioned weights) are
not seen here, but micro-batches done are counted.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOOKS = 1.0  # seconds between two looks


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class Watchdog:
    """What a rank does now, and a thread that speaks up when that has not changed for long.

    Any sign of progress counts: a new phase, a rollout or a micro-batch that is done, ranks that met.
    The first line comes after `patience` seconds without one, and each further one after twice as
    long as the one before.

    Args:
        rank: of this process.
        write: takes a line; standard error by default.
        clock: seconds.
    """

    def __init__(
        self,
        rank: int = 0,
        write: Callable[[str], None] = _to_stderr,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rank, self._write, self._clock = rank, write, clock
        self._doing, self._waits = "start", False
        self._since, self._said = clock(), 0

    def see(self, phase: str, done: int = 0, total: int | None = None) -> None:
        """Note progress in a phase: `done` of `total`."""
        self._doing = phase if total is None else f"{phase}, {done} of {total} done"
        self._moved()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Note that the block waits for the other ranks."""
        self._waits = True
        self._moved()
        try:
            yield
        finally:
            self._waits = False
            self._moved()

    @contextmanager
    def watch(self, patience: float | None) -> Iterator[None]:
        """Watch while the block runs; None does not."""
        if patience is None:
            yield
            return
        self._moved()
        over = threading.Event()
        thread = threading.Thread(target=self._run, args=(patience, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def look(self, patience: float) -> str | None:
        """Return the line that is due now, if any."""
        still = self._clock() - self._since
        if still < patience * 2**self._said:
            return None
        self._said += 1
        what = "waits for the other ranks" if self._waits else "works, or waits within DeepSpeed"
        return (
            f"rank {self.rank} on {socket.gethostname()}: no progress for {still:.0f} s in phase"
            f" '{self._doing}'; it {what}"
        )

    def _moved(self) -> None:
        self._since, self._said = self._clock(), 0

    def _run(self, patience: float, over: threading.Event) -> None:
        while not over.wait(min(patience, _LOOKS)):
            line = self.look(patience)
            if line is not None:
                self._write(line)
