"""A training or an ablation in the report: what it changed on held-out problems, and its curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from geomrl.ablate.ablation import Ablation
from geomrl.ablate.grid import BASELINE, DEFAULT
from geomrl.ablate.readings import honest_words, readings
from geomrl.ablate.table import PRIMARY
from geomrl.report.charts import counted, look, place_chart
from geomrl.report.collect import Collected
from geomrl.report.views import Chart, Column, Fact, Number, Series, Table, View
from geomrl.viz.ablation import factor_frame
from geomrl.viz.curves import Panel, curve_frame
from geomrl.viz.tables import anchor_label, layer_words
from geomrl.viz.training import training_layouts

_HELD_OUT = ("held out", "bands")  # notes of a layout that are of its held-out panels alone
_ENDS = ("_low", "_high")
_FOLLOWED = ("CC", "CC_centred")
_FACTORS = ("loss", "anchor", "layer", "weight")


def training_view(run: Collected) -> View:
    """Return what a training's log and summary have to show."""
    assert run.metrics is not None
    charts = [
        chart
        for panels, notes in training_layouts(run.metrics).values()
        for chart in _curves(run.metrics, panels, notes)
    ]
    facts = _outcome_facts(run.summary) if run.summary and "accuracy" in run.summary else ()
    note = (
        "Differences are paired by problem, one training seed: another seed of the same training "
        "would differ (`geomrl ablate`).",
    )
    return View(tuple(facts), tuple(charts), (_metrics_table(run.metrics),), note)


def floor_of(name: str) -> str | None:
    """Return the metric of a cosine's floor; None where the metric is no cell's cosine.

    >>> floor_of("eval/before_marker/final/CC_centred"), floor_of("align/CC"), floor_of("lr")
    ('eval/before_marker/final/floor_centred', 'align/floor', None)
    """
    place, _, cell = name.rpartition("/")
    plain = cell.removesuffix("_centred")
    if plain not in ("CC", "II", "CI", "II_same_answer", "II_diff_answer", "floor") or not place:
        return None
    return f"{place}/floor" + ("_centred" if cell != plain else "")


def _outcome_facts(summary: Mapping[str, Any]) -> Iterator[Fact]:
    first, last = summary["steps"]
    rests = (
        f"step {first} to {last}, n = {summary['n_problems']} problems × "
        f"{summary['n_samples']} samples, seed {summary['seed']}"
    )
    for name, each in summary["accuracy"].items():
        yield Fact(f"{name} after training, held out", Number.of(each["after"]), rests)
        yield Fact(f"Change of {name}, held out", Number.of(each["difference"]), rests)
    for name, each in summary["geometry"].items():
        anchor, layer, cell = name.split("/")
        floor = floor_of(name)
        if cell not in _FOLLOWED or floor is None:
            continue
        where = f"{anchor_label(anchor)}, {layer_words(layer)}"
        space = "centred" if cell.endswith("_centred") else "raw"
        for when, step in (("before", first), ("after", last)):
            floors = summary["geometry"].get(floor, {}).get(when, {})
            words = f"CC {space} cosine at step {step}"
            yield Fact(
                words,
                Number.of(each[when]),
                f"{where} · {rests}",
                floor=Number.of(floors) if floors else Number(None),
            )


def _curves(metrics: pd.DataFrame, panels: list[Panel], notes: list[str]) -> Iterator[Chart]:
    frame = curve_frame(metrics, panels)
    for panel in panels:
        rows = frame[frame["panel"] == panel.title] if len(frame) else frame
        series = []
        for curve in panel.curves:
            part = rows[rows["metric"] == curve.metric] if len(rows) else rows
            if part.empty:
                continue
            label = curve.look.label or panel.title
            numbers = [Number.of(row) for row in part.to_dict("records")]
            steps = [float(step) for step in part["step"]]
            series.append(
                Series(
                    label=label,
                    colour=curve.look.colour,
                    marker=curve.look.marker,
                    at=steps,
                    value=[n.value for n in numbers],
                    low=[n.low for n in numbers],
                    high=[n.high for n in numbers],
                    texts=[
                        f"{label} · step {s:g}: {n.words()}"
                        for s, n in zip(steps, numbers, strict=True)
                    ],
                )
            )
        if series:
            evaluated = any(curve.metric.startswith("eval/") for curve in panel.curves)
            kept = [n for n in notes if evaluated or not n.startswith(_HELD_OUT)]
            yield Chart(
                title=panel.title,
                series=tuple(series),
                axis="Training step",
                unit=panel.unit,
                note="; ".join(kept),
                logarithmic=panel.logarithmic,
            )


def _metrics_table(metrics: pd.DataFrame) -> Table:
    """Return the log in long form, each cosine beside its floor of the same step."""
    known = set(metrics.columns)
    # "length/..._low" would be an end only if the metric it belongs to is logged too.
    ends = {f"{name}{end}" for name in map(str, metrics) for end in _ENDS} & known
    parts = []
    blank = pd.Series(float("nan"), index=metrics.index)
    for name in map(str, metrics.columns.drop("step")):
        if name in ends:
            continue
        floor = floor_of(name) or ""
        columns = {
            "value": name, "low": f"{name}_low", "high": f"{name}_high", "floor": floor,
            "floor_low": f"{floor}_low", "floor_high": f"{floor}_high",
        }  # fmt: skip
        part = pd.DataFrame({key: metrics.get(column, blank) for key, column in columns.items()})
        parts.append(part.assign(step=metrics["step"], metric=name).dropna(subset="value"))
    columns_shown = (
        Column("step", "step", "count"),
        Column("metric", "metric"),
        Column("value", "value (95 %)", "interval"),
        Column("floor", "its floor", "interval", low="floor_low", high="floor_high"),
    )
    frame = pd.concat(parts, ignore_index=True).sort_values(["step", "metric"], ignore_index=True)
    note = "Every number of metrics.jsonl; docs/training.md says what each means."
    return Table("Metrics by step", frame, columns_shown, note)


def ablation_view(ablation: Ablation) -> View:
    """Return what an ablation found: differences to weight 0, over seeds."""
    charts = [c for factor in _FACTORS for c in _factor_charts(ablation, factor)]
    return View(
        tuple(_arm_facts(ablation)), tuple(charts),
        (_readings_table(ablation), _arms_table(ablation)), tuple(honest_words(ablation)),
    )  # fmt: skip


def _arm_facts(ablation: Ablation) -> Iterator[Fact]:
    """Yield the default arm's difference to weight 0 and to each control."""
    table = ablation.table[
        (ablation.table["metric"] == PRIMARY) & (ablation.table["arm"] == DEFAULT)
    ]
    for row in table.to_dict("records"):
        against = "weight 0" if row["reference"] == BASELINE else f"control {row['reference']}"
        p = "–" if pd.isna(row["p_holm"]) else f"{row['p_holm']:.3f}"
        yield Fact(
            f"pass@1, default − {against}", Number.of(row, "difference"),
            f"n = {int(row['n_seeds'])} training seeds, t interval; Holm's p {p}",
        )  # fmt: skip


def _factor_charts(ablation: Ablation, factor: str) -> Iterator[Chart]:
    frame = factor_frame(ablation, factor)
    means = frame[frame["seed"].isna()] if len(frame) else frame
    for panel, rows in means.groupby("panel", sort=False):
        levels = list(dict.fromkeys(f"{r.factor} {r.level}" for r in rows.itertuples()))
        metrics = list(dict.fromkeys(rows["metric"]))
        yield place_chart(
            rows.assign(
                place=[f"{r.factor} {r.level}" for r in rows.itertuples()],
                n=counted(rows["n_seeds"], "seed"),
            ),
            place="place", series="metric", value="difference", line=False, flip=True, zero=True,
            looks={metric: look(i, metric.removeprefix("eval/")) for i, metric in enumerate(metrics)},
            places=levels[::-1], title=f"{panel}: {factor} against weight 0", unit="Difference",
            note="Paired by seed; 95 % t intervals over seeds, pointwise. Controls are arms too.",
        )  # fmt: skip


def _readings_table(ablation: Ablation) -> Table:
    columns = tuple(Column(key, key) for key in ("arm", "accuracy", "geometry"))
    note = "Accuracy by Holm's p below 0.05; geometry by pointwise intervals."
    return Table("Arms in words", readings(ablation), columns, note)


def _arms_table(ablation: Ablation) -> Table:
    table = ablation.table
    means = table.drop_duplicates(["metric", "arm"]).set_index(["metric", "arm"])["value"]
    floors = [
        float(means.get((floor_of(str(metric)) or "", arm), float("nan")))
        for metric, arm in zip(table["metric"], table["arm"], strict=True)
    ]
    columns = (
        Column("metric", "metric"), Column("arm", "arm"), Column("reference", "against"),
        Column("difference", "difference (95 %)", "interval"), Column("p_holm", "p (Holm)", "p"),
        Column("value", "arm", "number"), Column("floor", "its floor", "number"),
        Column("reference_value", "reference", "number"), Column("n_seeds", "seeds", "count"),
        Column("n_comparisons", "comparisons", "count"),
        Column("detectable_corrected", "detectable", "number"),
    )  # fmt: skip
    note = "Paired by seed; t intervals over seeds; “detectable” with 80 % power, corrected."
    return Table("Comparisons", table.assign(floor=floors), columns, note)
