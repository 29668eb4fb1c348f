"""What a person sees, on standard error, while something runs: bars, remarks and clear errors."""

from __future__ import annotations

import functools
import os
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


@contextmanager
def progress_bar(title: str, unit: str, *, show: bool = True) -> Iterator[Bar]:
    """Show a bar with rate and time left; yield what counts."""
    if not show:
        yield Bar()
        return
    from rich.console import Console
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
    with Progress(*columns, console=Console(stderr=True)) as bar:
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
