"""What the benchmarks share: arms timed in turn, their spread, and peak memory on CPU and GPU."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from scipy.stats import binom

MB = 2**20


def quartiles(values):
    """Return median and quartiles; the latter are None of a single value."""
    if len(values) < 2:
        return statistics.median(values), None, None
    low, _, high = statistics.quantiles(values, n=4)
    return statistics.median(values), low, high


def spread(values):
    """Return median and quartiles in words."""
    middle, low, high = quartiles(values)
    if low is None:
        return f"{middle:.2f}"
    return f"{middle:.2f} (quartiles {low:.2f}-{high:.2f}, n = {len(values)})"


def between_quartiles(values, digits=2):
    """Return median and quartiles as a cell of a table."""
    middle, low, high = (None if v is None else f"{v:.{digits}f}" for v in quartiles(values))
    return middle if low is None else f"{middle} ({low} to {high})"


def median_interval(values):
    """Return the median and the limits of its interval, at least 95 %, from order statistics.

    It assumes nothing but independent values. The limits are NaN of fewer than six.
    """
    ordered = sorted(values)
    below = int(binom.ppf(0.025, len(ordered), 0.5))  # P(X < below) <= .025
    if below < 1:
        return statistics.median(ordered), float("nan"), float("nan")
    return statistics.median(ordered), ordered[below - 1], ordered[-below]


def resident(field_name="VmHWM"):
    """Return this process's resident memory in MB, by default its peak (Linux).

    getrusage will not do: a started process inherits the peak of the one that started it.
    """
    status = Path("/proc/self/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith(field_name)]
    return int(line.split()[1]) / 1024


def synchronize(device):
    """Wait until the device has done what it was given, so that a clock can be read."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Peak:
    """MB: of what the block began with, and the most that there was in it."""

    before: float
    most: float = math.nan

    @property
    def growth(self):
        return self.most - self.before


@contextmanager
def peak_memory(device):
    """Yield the `Peak` of the block: torch's tensors on a GPU, the resident process on a CPU."""
    device = torch.device(device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        peak = Peak(torch.cuda.memory_allocated(device) / MB)
        yield peak
        torch.cuda.synchronize(device)
        peak.most = torch.cuda.max_memory_allocated(device) / MB
        return
    peak = Peak(resident("VmRSS"))
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    yield peak
    peak.most = resident()


def in_turn(names, number):
    """Return the names in the order of a round: each goes first in turn."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


class Budget:
    """Seconds that a piece of work may take from now."""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    @property
    def left(self):
        return self.end - time.monotonic()

    def share(self, part):
        """Return a part of what is left, as a budget of its own."""
        return Budget(self.left * part)


@dataclass
class Rounds:
    """Seconds of each arm by round, and how many rounds there were to be."""

    wanted: int
    seconds: Mapping[str, list[float]] = field(default_factory=dict)

    @property
    def made(self):
        return len(next(iter(self.seconds.values())))

    def ratios(self, over, under):
        """Return one arm's seconds over another's, round by round."""
        pairs = zip(self.seconds[over], self.seconds[under], strict=True)
        return [a / b for a, b in pairs]


def timed_rounds(arms: Mapping[str, Callable[[], float]], wanted: int, budget: Budget) -> Rounds:
    """Run all arms in turn, as often as wanted or as fits into the budget, but once at least.

    Args:
        arms: by name, what runs the arm and returns the seconds that count.
        wanted: rounds.
        budget: what a further round must fit into, which may take as long as the longest so far.
    """
    rounds = Rounds(wanted, {name: [] for name in arms})
    longest = 0.0
    for number in range(wanted):
        if number and longest > budget.left:
            break
        started = time.monotonic()
        for name in in_turn(list(arms), number):
            rounds.seconds[name].append(arms[name]())
        longest = max(longest, time.monotonic() - started)
    return rounds


def clocked(action: Callable[[], object], device) -> Callable[[], float]:
    """Return an action that returns the seconds which it takes on the device."""

    def run() -> float:
        synchronize(device)
        started = time.perf_counter()
        action()
        synchronize(device)
        return time.perf_counter() - started

    return run


def released() -> None:
    """Give back what nothing refers to any more, on a GPU too."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
