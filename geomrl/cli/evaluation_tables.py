"""What `geomrl eval` prints: accuracies and differences, each with its interval, n and test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from geomrl.evaluate.accuracy import AVERAGE, SHARES
from geomrl.evaluate.evaluation import Evaluation
from geomrl.stats.words import interval_words

_SHARES = {
    "no_answer": "without an answer",
    "timeout": "timed out in grading",
    "truncated": "cut off before an answer (among those without one)",
}
_WIDEST = 150  # a number cut in two helps nobody, and a terminal may wrap what is wider than it


def print_evaluation(found: Evaluation) -> None:
    """Print accuracies, differences to the reference, and what weakens them."""
    shown = _printed_measures(found.accuracy)
    tables = [_accuracy_table(found.accuracy, shown)]
    if len(found.differences):
        tables.append(_difference_table(found.differences, shown))
    probe = Console(width=_WIDEST)
    needed = max(probe.measure(table).maximum for table in tables)
    console = Console(width=max(Console().width, needed))
    console.print(tables[0])
    console.print(f"[bright_black]{escape(_shares_line(found.accuracy))}")
    for table in tables[1:]:
        console.print(table)
    for note in found.summary["notes"]:
        console.print(f"[yellow]note:[/yellow] {escape(note)}", highlight=False)
    console.print(
        f"[bright_black]95 % intervals by problem, {found.summary['n_boot']} draws, seed "
        f"{found.summary['seed']}. All figures: {found.path / 'eval.csv'}, "
        f"{found.path / 'differences.csv'}"
    )


def _printed_measures(table: pd.DataFrame) -> list[str]:
    """Return pass@1, and pass@k and majority@k at the largest k that all models have."""
    common = {m: set(part["model"]) for m, part in table.groupby(_names(table))}
    everyone = set(table["model"])
    whole = [m for m, who in common.items() if who == everyone]
    ks = sorted(int(str(m).removeprefix("pass@")) for m in whole if str(m).startswith("pass@"))
    wanted = ["pass@1", f"pass@{ks[-1]}", f"majority@{ks[-1]}"]
    return [m for m in dict.fromkeys(wanted) if m in whole]


def _names(table: pd.DataFrame) -> pd.Series:
    return pd.Series(
        [
            m if pd.isna(k) else f"{m}@{k}"
            for m, k in zip(table["measure"], table["k"], strict=True)
        ],
        index=table.index,
    )


def _accuracy_table(table: pd.DataFrame, measures: list[str]) -> Table:
    shown = Table(
        "benchmark", "model", *(Column(m, no_wrap=True) for m in measures),
        Column("n", no_wrap=True), "mixed", title_justify="left",
        title="mean over problems; n is problems x samples, mixed neither all right nor all wrong",
    )  # fmt: skip
    named = table.assign(name=_names(table))
    order = sorted(named["benchmark"].unique(), key=lambda b: b == AVERAGE)
    for benchmark in order:
        part = named[named["benchmark"] == benchmark]
        models = list(dict.fromkeys(part["model"]))
        for model in models:
            rows = part[part["model"] == model].set_index("name")
            first = rows.iloc[0]
            shown.add_row(
                benchmark if model == models[0] else "",
                escape(model),
                *(_interval(rows.loc[m]) for m in measures),
                f"{first['n_problems']} x {first['n_samples']}",
                str(first["n_mixed"]),
                style="bold" if benchmark == AVERAGE else None,
                end_section=model == models[-1],
            )
    return shown


def _shares_line(table: pd.DataFrame) -> str:
    """Say what share of the samples had no answer, over all benchmarks of each model."""
    parts = []
    for model, rows in table[table["measure"].isin(SHARES)].groupby("model", sort=False):
        own = rows[rows["benchmark"] != AVERAGE]
        said = [
            f"{100 * (part['value'] * part['n_problems']).sum() / part['n_problems'].sum():.1f} % "
            f"{_SHARES[str(share)]}"
            for share, part in own.groupby("measure", sort=False)
        ]
        parts.append(f"{model}: {', '.join(said)}")
    return f"samples that count as not correct for a reason of form: {'; '.join(parts)}"


def _difference_table(table: pd.DataFrame, measures: list[str]) -> Table:
    reference = escape(str(table["reference"].iloc[0]))
    shown = Table(
        "model", "measure", "benchmark", Column("difference", no_wrap=True), "p", "p, Holm",
        "detectable", "n", title_justify="left", title=f"differences to {reference}, paired by problem",
    )  # fmt: skip
    named = table.assign(name=_names(table))
    for model, rows in named.groupby("model", sort=False):
        for measure in measures:
            part = rows[rows["name"] == measure]
            for row in part.to_dict("records"):
                shown.add_row(
                    escape(str(model)),
                    measure,
                    row["benchmark"],
                    _interval(row),
                    _p(row["p"]),
                    _p(row["p_holm"]),
                    "-" if pd.isna(row["detectable"]) else f"{row['detectable']:.3f}",
                    str(row["n_problems"]),
                    style="bold" if row["benchmark"] == AVERAGE else None,
                )
    shown.caption_justify = "left"
    shown.caption = (
        "p: sign-flip test; detectable: what 80 % of such evaluations would find at 5 %, one test"
    )
    return shown


def _interval(row: Mapping[Any, Any] | pd.Series) -> str:
    return interval_words(row["value"], row["low"], row["high"])


def _p(p: float) -> str:
    if pd.isna(p):
        return "-"
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0") if p < 1 else "1"
