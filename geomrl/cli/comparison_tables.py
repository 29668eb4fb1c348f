"""What `geomrl compare` prints: the verdict, the tests behind it, and where else it holds."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from geomrl.compare.comparison import Comparison
from geomrl.runs.layout import VERDICT
from geomrl.stats.words import interval_words

MEANINGS = {
    "none": "no change was found, in the policy or in the representation",
    "policy": "the rollouts changed; identical rollouts are represented as before",
    "rotation": "the representation turned, and is otherwise as it was",
    "collapse": "problems moved together; correct rollouts of a problem gained nothing",
    "alignment": "correct rollouts of a problem moved together, beyond wrong, mixed and other ones",
    "mixed": "more than one change, or one that has no name of its own",
}


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print each checkpoint's verdict with its evidence; several also as a trajectory."""
    console = console or Console()
    record = comparison.record
    wide = Console(width=max(console.width, 116), file=console.file)
    for entry in record["checkpoints"]:
        wide.print(_tests_table(entry, record))
        for line in verdict_lines(entry, record):
            wide.print(line)
    if len(record["checkpoints"]) > 1:
        wide.print(_trajectory(record))
    wide.print(
        f"[bright_black]{record['n_problems']} problems x {record['n_samples']} samples of each "
        f"policy, seed {record['seed']}; 95 % intervals by problem, p Holm-adjusted over the tests."
        f" All figures: {comparison.path / 'comparison.csv'}, {comparison.path / VERDICT}"
    )


def verdict_lines(entry: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """Return the verdict in words, where else it holds, and what could not be judged."""
    name, parts = entry["verdict"], entry["components"]
    listed = f" ({' + '.join(parts)})" if name == "mixed" else ""
    lines = [f"[bold]{entry['checkpoint']}: {name}{listed}[/bold]: {MEANINGS[name]}"]
    if name == "none":
        missed = [
            f"{test['test']} {test['detectable']:.3g}"
            for test in entry["tests"]
            if test["detectable"] is not None
        ]
        known = f"Smallest changes that would have been found 19 times in 20: {', '.join(missed)}"
        unknown = "No problem differs between the two, so what would have been found is not known"
        lines.append(known if missed else unknown)
    lines.append(elsewhere_line(entry, record))
    return lines + [f"[bright_black]note: {remark}" for remark in entry["remarks"]]


def elsewhere_line(entry: dict[str, Any], record: dict[str, Any]) -> str:
    """Say at how many other layers and anchors each change of the encoder is found."""
    others = entry["elsewhere"]
    place = record["place"]
    counts = Counter(name for other in others for name in other["components"])
    changed = ", ".join(f"{name} at {n}" for name, n in counts.most_common()) or "no change"
    return (
        f"Apart from layer {place['layer']}, {place['anchor']}: {changed}, of {len(others)} other "
        "layers and anchors, each judged by itself"
    )


def _tests_table(entry: dict[str, Any], record: dict[str, Any]) -> Table:
    place = record["place"]
    shown = Table(
        "test", "change", "p (Holm)", "margin", "detectable", "problems", "speaks for",
        title_justify="left",
        title=f"{record['base']} -> {entry['checkpoint']}; encoders at layer {place['layer']}, "
        f"{place['anchor']}, on identical rollouts",
    )  # fmt: skip
    for test in entry["tests"]:
        shown.add_row(
            test["test"], _interval(test), _number(test["p_holm"]), _number(test["margin"]),
            _number(test["detectable"]), str(test["n_problems"]), test["component"],
            style="bold" if test["shown"] else None,
        )  # fmt: skip
    return shown


_FOLLOWED = (
    "pass@1", "correct rollouts align", "common share rises", "rank falls", "rotation explains",
    "shape differs",
)  # fmt: skip


def _trajectory(record: dict[str, Any]) -> Table:
    shown = Table(
        "checkpoint", "verdict", *_FOLLOWED, title_justify="left",
        title=f"changes from {record['base']}",
    )  # fmt: skip
    for entry in record["checkpoints"]:
        tests = {test["test"]: test for test in entry["tests"]}
        parts = entry["components"]
        verdict = entry["verdict"] + (
            f" ({'+'.join(parts)})" if entry["verdict"] == "mixed" else ""
        )
        cells = (_interval(tests[name]) if name in tests else "-" for name in _FOLLOWED)
        shown.add_row(entry["checkpoint"], verdict, *cells)
    return shown


def _interval(test: dict[str, Any]) -> str:
    return interval_words(test["value"], test["low"], test["high"], signed=True)


def _number(value: float | None) -> str:
    return "-" if value is None else "<0.001" if 0 < value < 0.001 else f"{value:.3f}"
