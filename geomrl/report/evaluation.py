"""An evaluation in the report: accuracies of several models side by side, and paired."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from geomrl.evaluate.accuracy import AVERAGE
from geomrl.report.charts import counted, look, place_chart
from geomrl.report.collect import Collected
from geomrl.report.views import Chart, Column, Fact, Number, Table, View

_BASE = ("model", "benchmark", "measure", "k")
_HEADLINES = 12  # facts at most: more benchmarks and models are in the table


def evaluation_view(run: Collected) -> View:
    """Return what an evaluation's tables have to show."""
    assert run.accuracy is not None
    accuracy, differences = run.accuracy, run.differences
    if differences is not None and differences.empty:
        differences = None
    facts = [*_accuracy_facts(accuracy), *_difference_facts(differences)][:_HEADLINES]
    charts = [*_curves(accuracy), *_forest(differences)]
    tables = [_accuracy_table(accuracy)]
    if differences is not None:
        tables.append(_difference_table(differences))
    notes = (run.summary or {}).get("notes", [])
    return View(tuple(facts), tuple(charts), tuple(tables), tuple(map(str, notes)))


def _first(table: pd.DataFrame) -> pd.DataFrame:
    """Return pass@1, averaged over benchmarks where that was done, else of each."""
    rows = table[(table["measure"] == "pass") & (table["k"] == 1)]
    average = rows[rows["benchmark"] == AVERAGE]
    return average if len(average) else rows


def _rests(row: dict) -> str:
    return f"n = {row['n_problems']} problems × {row['n_samples']} samples, seed {row['seed']}"


def _accuracy_facts(table: pd.DataFrame) -> Iterator[Fact]:
    for row in _first(table).to_dict("records"):
        yield Fact(f"pass@1 of {row['model']}, {row['benchmark']}", Number.of(row), _rests(row))


def _difference_facts(table: pd.DataFrame | None) -> Iterator[Fact]:
    if table is None:
        return
    for row in _first(table).to_dict("records"):
        rests = _rests(row)
        if row["p_holm"] == row["p_holm"]:  # the average's is one test, and not corrected
            rests += f"; Holm's p {row['p_holm']:.3f}"
        words = f"pass@1, {row['model']} − {row['reference']}, {row['benchmark']}"
        yield Fact(words, Number.of(row), rests)


def _curves(table: pd.DataFrame) -> Iterator[Chart]:
    """Yield accuracy over k, a chart a benchmark and kind of measure, a line a model."""
    models = list(dict.fromkeys(table["model"].astype(str)))
    looks = {model: look(i, model) for i, model in enumerate(models)}
    rows = table[table["k"].notna()]
    rows = rows.assign(n=counted(rows["n_problems"], "problem"))
    for (benchmark, kind), part in rows.groupby(["benchmark", "measure"], sort=False):
        ks = sorted({int(k) for k in part["k"]})
        yield place_chart(
            part.assign(k=part["k"].astype(int).astype(str)),
            place="k", series="model", looks=looks, places=list(map(str, ks)), axis="k",
            title=f"{kind}@k, {benchmark}", unit="Share of problems",
            note="95 % intervals by problem.",
        )  # fmt: skip


def _forest(table: pd.DataFrame | None) -> Iterator[Chart]:
    """Yield paired differences by benchmark and k, a chart a kind of measure."""
    if table is None:
        return
    rows = table.assign(n=counted(table["n_problems"], "problem"))
    models = list(dict.fromkeys(rows["model"].astype(str)))
    looks = {model: look(i, model) for i, model in enumerate(models)}
    ks = rows["k"].map(lambda k: "" if pd.isna(k) else f"@{int(k)}")
    rows = rows.assign(place=rows["benchmark"].astype(str) + ", " + rows["measure"] + ks)
    for kind, part in rows.groupby("measure", sort=False):
        yield place_chart(
            part, place="place", series="model", looks=looks, line=False, flip=True, zero=True,
            places=list(dict.fromkeys(part["place"]))[::-1], unit="Difference",
            title=f"Paired differences in {kind}@k",
            note="Paired by problem; 95 % intervals, pointwise; Holm's p in the table.",
        )  # fmt: skip


def _accuracy_table(table: pd.DataFrame) -> Table:
    columns = (
        *(Column(key, key, "count" if key == "k" else "text") for key in _BASE),
        Column("value", "value (95 % by problem)", "interval"),
        Column("n_problems", "problems", "count"), Column("n_samples", "samples", "count"),
        Column("seed", "seed", "count"),
    )  # fmt: skip
    return Table("Accuracy", table, columns, "Every problem has exactly n samples.")


def _difference_table(table: pd.DataFrame) -> Table:
    columns = (
        Column("model", "model"), Column("reference", "against"),
        *(Column(key, key, "count" if key == "k" else "text") for key in _BASE[1:]),
        Column("value", "difference (95 %)", "interval"),
        Column("p", "p", "p"), Column("p_holm", "p (Holm)", "p"),
        Column("detectable", "detectable", "number"),
        Column("n_problems", "problems", "count"), Column("n_samples", "samples", "count"),
        Column("seed", "seed", "count"),
    )  # fmt: skip
    note = (
        "Paired by problem; Holm over benchmarks; below “detectable”, no difference is no equality."
    )
    return Table("Differences", table, columns, note)
