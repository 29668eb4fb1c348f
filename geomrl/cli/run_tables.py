"""What the commands print: tables for a terminal, each number with its n and interval."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from geomrl.geometry.cells import CELL_WORDS
from geomrl.rollout.cut_off import cut_off_note
from geomrl.runs.layout import ROLLOUTS
from geomrl.runs.run import Run
from geomrl.stats.words import interval_words

if TYPE_CHECKING:
    from geomrl.reasoner.measure import ReasonerReport
    from geomrl.stats.intervals import Interval


def print_rollouts(run: Run) -> None:
    """Print verdict counts and where the table lies."""
    rollouts = run.rollouts
    counts = rollouts["verdict"].value_counts()
    listed = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    problems = rollouts[["benchmark", "problem_id"]].drop_duplicates()
    console = Console()
    console.print(
        f"{len(rollouts)} rollouts of {len(problems)} problems in {run.path / ROLLOUTS}: {listed}"
    )
    _print_cut_off(console, rollouts)


def _print_cut_off(console: Console, rollouts: pd.DataFrame) -> None:
    note = cut_off_note(rollouts)
    if note is not None:
        console.print(f"[yellow]{note}")


def print_headline(run: Run) -> None:
    """Print pass@k and the headline table of every benchmark."""
    console = Console()
    summary = run.summary
    for name, found in summary["benchmarks"].items():
        console.print(_accuracy_line(name, found))
        for place in found["headlines"]:
            console.print(_headline_table(place, summary["encoder"]))
    _print_cut_off(console, run.rollouts)
    for line in _absence_lines(summary["absent_anchors"]):
        console.print(f"[bright_black]{line}")
    console.print(
        f"[bright_black]95 % intervals by problem, {summary['n_boot']} draws, seed {summary['seed']}. "
        f"All figures: {run.path / 'similarity.csv'}, {run.path / 'summary.json'}"
    )


def _accuracy_line(name: str, found: dict[str, Any]) -> str:
    rates = [
        f"{key} {_interval(value)}"
        for key, value in found.items()
        if key in ("pass@1", "pass@8") and isinstance(value, dict)
    ]
    if "pass@k" in found:
        rates.append(f"pass@k {found['pass@k']}")
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in found["verdicts"].items())
    return (
        f"[bold]{name}[/bold]: {found['n_problems']} problems, {found['n_rollouts']} rollouts "
        f"({verdicts})\n" + "   ".join(rates)
    )


def _absence_lines(absent: dict[str, dict[str, int]]) -> list[str]:
    """Say why anchors are absent, one line for all that lack the same rollouts."""
    together: dict[str, list[str]] = {}
    for anchor, reasons in absent.items():
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        together.setdefault(listed, []).append(anchor)
    return [f"{listed}: no {', '.join(anchors)}" for listed, anchors in together.items()]


def _headline_table(place: dict[str, Any], encoder: str) -> Table:
    table = Table(
        "cell", "raw cosine", "centred cosine", "n", title_justify="left",
        title=f"layer {place['layer']}, anchor {place['anchor']}, encoder {encoder}",
    )  # fmt: skip
    cells = [row["cell"] for row in place["cells"]]
    for row in place["cells"]:
        cell = row["cell"]
        table.add_row(
            CELL_WORDS.get(cell, cell),
            _cosine(row, "raw"),
            _cosine(row, "centred"),
            str(row["n_problems"]),
            style="bold" if cell == "floor" else None,
            end_section="-" not in cell
            and cells[-1] != cell
            and "-" in cells[cells.index(cell) + 1],
        )
    return table


def _cosine(row: dict[str, Any], space: str) -> str:
    limits = row[f"{space}_low"], row[f"{space}_high"]
    return interval_words(row[space], *limits, n=row["n_problems"])


def _interval(numbers: dict[str, Any]) -> str:
    return interval_words(numbers["value"], numbers.get("low"), numbers.get("high"))


def print_replacement(table: pd.DataFrame) -> None:
    """Print what replacing the anchor's state did to the correct answer's log-probability."""
    shown = Table(
        "layer", "arm", "rollouts", "change in nats", "problems", title_justify="left",
        title=f"log-probability of the correct answer, state at {table['anchor'].iloc[0]} replaced",
    )  # fmt: skip
    for row in table.to_dict("records"):
        numbers = {k: None if row[k] != row[k] else row[k] for k in ("value", "low", "high")}
        shown.add_row(
            row["layer"], row["arm"], row["verdict"], _interval(numbers), str(row["n_problems"])
        )
    Console().print(shown)


_FOLLOWED = ("CC", "floor", "CC_centred", "CC-II_same_answer", "effective_rank")


def print_training(run: Path, found: dict[str, Any]) -> None:
    """Print what a training changed on held-out problems: `train.outcome.outcome`'s figures."""
    first, last = found["steps"]
    shown = Table(
        "held-out", f"step {first}", f"step {last}", "difference", title_justify="left",
        title=f"{found['n_problems']} problems x {found['n_samples']} samples",
    )  # fmt: skip
    for name, each in found["accuracy"].items():
        cells = (_interval(each[key]) for key in ("before", "after", "difference"))
        shown.add_row(name, *cells, style="bold" if name == "pass@1" else None)
    for name, each in found["geometry"].items():
        anchor, layer, cell = name.split("/")
        if cell in _FOLLOWED:
            words = f"{cell} {anchor}" if layer == "final" else f"{cell} {anchor} layer {layer}"
            style = "bright_black" if cell == "floor" else None
            cells = (_interval(each[key]) for key in ("before", "after"))
            shown.add_row(words, *cells, "", style=style)
    console = Console(width=max(Console().width, 116))  # a number cut in two helps nobody
    console.print(shown)
    console.print(
        f"[bright_black]95 % intervals by problem, seed {found['seed']}; one training seed: another "
        f"would differ. All figures: {run / 'summary.json'}, {run / 'metrics.jsonl'}"
    )


def print_reasoner(report: ReasonerReport, folder: Path) -> None:
    """Print what a newly trained reasoner was measured to be."""
    found: dict[str, Interval] = {
        "pass@1": report.pass_at_1,
        "pass@8": report.pass_at_8,
        "problems solved less than one time in ten": report.solved_rarely,
        "distinct paths among correct rollouts": report.distinct_paths,
        "no answer": report.no_answer,
        "tokens of a response": report.tokens,
        **{f"raw cosine of correct pairs, {name}": value for name, value in report.cosines.items()},
    }
    shown = Table(
        "figure", "value (95 % by problem)", "problems", title_justify="left",
        title=f"{folder}: {report.config.samples} samples a problem, seed {report.config.seed}",
    )  # fmt: skip
    for name, value in found.items():
        shown.add_row(name, _interval(asdict(value)), str(value.n_clusters))
    Console().print(shown)
    tokens = ", ".join(repr(token) for token in list(report.anchor_tokens)[:8])
    Console().print(
        f"{len(report.anchor_tokens)} tokens occur at before_marker, most often {tokens}"
    )
