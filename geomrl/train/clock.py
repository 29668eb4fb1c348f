"""How long the phases of a training step take, as metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def timed(phase: str) -> Iterator[dict[str, float]]:
    """Fill in how long the block took, as a metric."""
    times: dict[str, float] = {}
    started = time.perf_counter()
    yield times
    times[f"time/{phase}"] = time.perf_counter() - started
