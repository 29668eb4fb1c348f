"""What `geomrl train` shows while it runs, on standard error: bars, gauges, sample rollouts.

    with TrainDisplay(config.steps, show=show) as display:
        display.phase("generate", done, total)
        display.step(step, metrics)
        display.rollouts(samples)

On a terminal the bars and gauges stay at the bottom; elsewhere there is one plain line a step and
a rollout.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from geomrl.progress import clock_time
from geomrl.verify.marker import BOXED, find_to_show, parse_marker

if TYPE_CHECKING:
    from geomrl.train.batch import Sample
    from geomrl.train.watchdog import Watchdog

GAUGES: dict[str, tuple[str, str]] = {
    "reward/mean": ("reward", ".2f"),
    "pass_rate": ("pass rate", ".1%"),
    "eval/pass@1": ("held-out pass@1", ".1%"),
    "length/mean": ("response tokens", ".0f"),
    "length/truncated": ("cut off", ".1%"),
    "loss/align": ("alignment loss", ".4f"),
    "align/CC": ("CC", ".3f"),
    "align/floor": ("floor", ".3f"),
    "align/CC_centred": ("CC centred", ".3f"),
    "align/effective_rank": ("effective rank", ".1f"),
    "entropy": ("entropy", ".3f"),
    "grad_norm": ("gradient norm", ".3g"),
    "time/tokens_per_second": ("tokens/s", ",.0f"),
    "time/mfu": ("MFU", ".1%"),
}
"""Metrics that are shown, in this order: their words and their format."""

_OPTIONAL = ("time/mfu",)  # nothing is amiss where a device's peak is unknown
_TEXT_BEFORE = 60  # characters of a response that are shown before its answer
_TEXT_AFTER = 40
_RECENT = 10  # the last so many steps tell the time left


class TrainDisplay:
    """Live progress of a training run; make it on every rank, with `show` on rank 0 alone.

    Args:
        total_steps: training steps of the whole run.
        show: False shows nothing at all.
        console: where to; standard error by default.
        watchdog: takes every phase for progress.
    """

    def __init__(
        self,
        total_steps: int,
        show: bool = True,
        console: Console | None = None,
        watchdog: Watchdog | None = None,
    ) -> None:
        self._total = total_steps
        self._watchdog = watchdog
        self._show = show
        self._console = console or Console(stderr=True)
        self._latest: dict[str, float] = {}  # a metric stays until a later step has it again
        self._ends: list[tuple[int, float]] = []  # (step, when it ended)
        self._live: Live | None = None
        self._bars = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._steps = self._bars.add_task("step", total=total_steps, note="")
        self._phase = self._bars.add_task("start", total=None, note="")

    def __enter__(self) -> Self:
        if self._show and self._console.is_terminal:
            self._live = Live(self._view(), console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def phase(self, name: str, done: int = 0, total: int | None = None) -> None:
        """Show what the current step does: generate, old logprobs, update, evaluate, save.

        Args:
            name: the phase.
            done: how much of it is done, in any unit.
            total: how much there is; None where that is not known.
        """
        if self._watchdog is not None:
            self._watchdog.see(name, done, total)
        if self._live is None:
            return
        self._bars.update(self._phase, description=name, completed=done, total=total)

    def step(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Show a finished step's numbers.

        Args:
            step: the training step; 0 is the evaluation before training.
            metrics: what goes to `metrics.jsonl`; `GAUGES` are picked out of it.
        """
        if not self._show:
            return
        known = {k: float(v) for k, v in metrics.items() if k in GAUGES and v is not None}
        now = {k: v for k, v in known.items() if k not in _OPTIONAL or math.isfinite(v)}
        self._latest |= now
        self._ends = [*self._ends, (step, time.monotonic())][-_RECENT:]
        left = self._time_left()
        if self._live is None:
            shown = ", ".join(f"{GAUGES[k][0]} {now[k]:{GAUGES[k][1]}}" for k in GAUGES if k in now)
            line = f"step {step}/{self._total}: {shown}" + (f", {left} left" if left else "")
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            return
        self._bars.update(self._steps, completed=step, note=f"{left} left" if left else "")
        self._bars.update(self._phase, description="", completed=0, total=None)
        self._live.update(self._view())

    def say(self, line: str) -> None:
        """Show a line that stays."""
        if self._show:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def rollouts(self, samples: Sequence[Sample], marker: str = BOXED) -> None:
        """Show a few rollouts: how each ends, its anchor's surroundings bold, verdict and reward.

        Args:
            samples: the rollouts; all are shown.
            marker: the answer marker's spec; what precedes it, where states are read, is bold.
        """
        if not self._show or not samples:
            return
        if self._live is None:
            for s in samples:
                text = response_text(s.response, marker).plain
                line = f"  {s.verdict}, reward {s.reward:+.2f}, gold {s.gold}: {text}"
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            return
        table = Table("problem", "response", "gold", "verdict", "reward", show_edge=False)
        for sample in samples:
            table.add_row(
                Text(_shorten(sample.problem, _TEXT_AFTER)),
                response_text(sample.response, marker),
                Text(sample.gold),
                Text(sample.verdict, style="green" if sample.correct else "red"),
                f"{sample.reward:+.2f}",
            )
        self._console.print(table)

    def _view(self) -> Group:
        gauges = Table.grid(padding=(0, 2))
        known = [k for k in GAUGES if k in self._latest]
        for start in range(0, len(known), 4):
            cells = [f"{GAUGES[k][0]} {self._latest[k]:{GAUGES[k][1]}}" for k in known[start:][:4]]
            gauges.add_row(*cells)
        return Group(self._bars, gauges)

    def _time_left(self) -> str:
        """Return the time left as h:mm:ss by the pace of the last steps, "" where unknown."""
        (first, began), (last, ended) = self._ends[0], self._ends[-1]
        if last <= first or last >= self._total:
            return ""
        return clock_time((ended - began) / (last - first) * (self._total - last))


def response_text(response: str, marker: str = BOXED) -> Text:
    """Return the stretch around the graded answer marker, cut at both ends where it is long.

    The marker with its answer is bold, and so is the last word before it: the token there is the
    anchor `before_marker`. Without a closed marker it is the response's end.

    Args:
        response: the response's text.
        marker: the marker's spec, as `verify.marker.parse_marker` reads it.
    """
    span = find_to_show(parse_marker(marker), response)
    if span is None:
        return Text(_one_line(_shorten_left(response, _TEXT_BEFORE + _TEXT_AFTER)))
    before, answer, after = (
        response[: span.start],
        response[span.start : span.end],
        response[span.end :],
    )
    word = len(before.rstrip().rpartition(" ")[2]) + len(before) - len(before.rstrip())
    head, anchor = before[: len(before) - word], before[len(before) - word :]
    return Text.assemble(
        _one_line(_shorten_left(head, _TEXT_BEFORE)),
        (_one_line(_shorten_left(anchor, _TEXT_BEFORE)), "bold cyan"),
        (_one_line(_shorten(answer, _TEXT_AFTER)), "bold"),
        _one_line(_shorten(after, _TEXT_AFTER)),
    )


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _shorten_left(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"…{text[len(text) - limit + 1 :]}"


def _one_line(text: str) -> str:
    return text.replace("\n", "⏎")
