"""What a person sees, on standard error, while something runs: bars, remarks and clear errors."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from geomrl.errors import GeomrlError

Progress = Callable[[int, int], None]
"""Called with how much is done, and of how much."""
Say = Callable[[str], None]
"""A remark for the user, in one line."""


class Bar:
    """How much of a total is done; `show` is called with both numbers when one changes."""

    def __init__(self, show: Progress | None = None) -> None:
        self.done, self.total = 0, 0
        self._show = show

    def set(self, done: int, total: int) -> None:
        """Set both numbers."""
        self.done, self.total = done, total
        if self._show is not None:
            self._show(done, total)

    def advance(self, more: int = 1) -> None:
        """Count some more as done."""
        self.set(self.done + more, self.total)


class LogLines:
    """How much is done, in lines for a log: at most one in `every` seconds, and the last when it ends.

    The time left is that of the pace since the first call: what was done before cost nothing now.
    """

    def __init__(
        self,
        title: str,
        unit: str,
        write: Say,
        *,
        every: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._unit, self._write = title, unit, write
        self._every, self._clock = every, clock
        self._began: tuple[float, int] | None = None  # when, and how much was done by then
        self._latest = (0, 0)
        self._written: tuple[float, tuple[int, int]] | None = None

    def show(self, done: int, total: int) -> None:
        """Take both numbers, and write a line if the last one is long ago."""
        now = self._clock()
        self._latest = (done, total)
        if self._began is None:
            self._began = (now, done)
        since = self._began[0] if self._written is None else self._written[0]
        if now - since >= self._every:
            self._line(now)

    def close(self) -> None:
        """Write how much was done at the end, unless that was written."""
        if self._began and (self._written is None or self._written[1] != self._latest):
            self._line(self._clock())

    def _line(self, now: float) -> None:
        assert self._began is not None
        (began, before), (done, total) = self._began, self._latest
        self._written = (now, self._latest)
        line = f"{self._title}: {done}/{total} {self._unit}, {clock_time(now - began)}"
        if before < done < total:
            line += f", {clock_time((now - began) / (done - before) * (total - done))} left"
        self._write(line)


def clock_time(seconds: float) -> str:
    """Return a duration as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


@contextmanager
def progress_bar(title: str, unit: str, *, show: bool = True) -> Iterator[Bar]:
    """Show a bar with rate and time left, lines of the same where a log is written; yield what counts."""
    if not show:
        yield Bar()
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        lines = LogLines(title, unit, say)
        try:
            yield Bar(lines.show)
        finally:
            lines.close()
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=None)
        yield Bar(lambda done, total: bar.update(task, completed=done, total=total))


def say(line: str) -> None:
    """Tell the user something beside the result."""
    import typer

    typer.secho(line, fg="bright_black", err=True)


def friendly(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors that the user can mend into one clear line and an exit code."""

    import typer

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except GeomrlError as error:
            typer.secho(f"{_rank()}error: {error}", fg="red", err=True)
            raise SystemExit(1) from error
        except KeyboardInterrupt as error:
            typer.secho(
                f"{_rank()}stopped. What was finished is kept; the same command (geomrl train: with "
                "--resume) goes on from there.",
                err=True,
            )
            raise SystemExit(130) from error
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and "out of memory" not in str(error):
                raise
            typer.secho(
                f"{_rank()}error: out of memory ({(str(error).splitlines() or [''])[0][:120]}). Take a "
                "smaller --batch-tokens or --chunk (geomrl train: --resume with a smaller"
                " micro_batch.tokens, model.head_chunk, rollout.chunk or"
                " rollout.vllm.gpu_memory_utilization, or with model.activation_checkpointing=true);"
                " what was finished is kept",
                fg="red",
                err=True,
            )
            raise SystemExit(1) from error

    return run


def first_rank() -> bool:
    """Say whether this process is rank 0 of its launcher (torchrun, deepspeed), or has none."""
    return os.environ.get("RANK", "0") == "0"


def _rank() -> str:
    return "" if first_rank() else f"[rank {os.environ['RANK']}] "
