"""A comparison of models before and after RL in the report: verdict, evidence, profiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import pandas as pd

from geomrl.compare.arm_changes import arm_changes, changes, seeded_arms
from geomrl.compare.shown import charts as measure_charts
from geomrl.report.arms import arm_charts, arm_facts, arm_table
from geomrl.report.charts import counted, look, place_chart
from geomrl.report.collect import Collected
from geomrl.report.views import Chart, Column, Fact, Number, Table, View, with_floor
from geomrl.viz.tables import anchor_label, ordered
from geomrl.viz.theme import SPACES, Look

_AT = ("checkpoint", "measure", "policy", "encoder", "layer", "anchor", "space")
_ROLES = ("base", "rl")
_PAIRED_LOOKS = (("#56B4E9", "o"), ("#0072B2", "s"), ("#B5B5B5", "X"), ("#7A7A7A", "D"))
_FIRST = ("before_marker", "marker_end")
_DRAWN = 3  # checkpoints, each with two dozen charts


def comparison_view(run: Collected) -> View:
    """Return what a comparison's table and verdict have to show.

    Where arms of several training seeds were compared (checkpoints named ARM-SEED), the figures are
    means over seeds, and single checkpoints are in the tables. Of many checkpoints without arms only
    the first `_DRAWN` are drawn.
    """
    assert run.comparison is not None
    record = run.verdict or {}
    entries = record.get("checkpoints", [])  # none yet: the comparison was interrupted
    tests = _tests_table(entries)
    notes = [f"{entry['checkpoint']}: {remark}" for entry in entries for remark in entry["remarks"]]
    table = run.comparison
    checkpoints = list(dict.fromkeys(table["checkpoint"].astype(str)))
    arms = seeded_arms(checkpoints) if entries else []
    tables = [*([] if tests is None else [tests]), _table(table)]
    if arms:
        found = arm_changes(changes(table), arms)
        facts = tuple(arm_facts(found, record, entries, arms))
        charts = tuple(arm_charts(table, arms))
        return View(facts, charts, (arm_table(found), *tables), tuple(notes))
    charts = tuple(
        chart
        for name in checkpoints[:_DRAWN]
        for part in [table[table["checkpoint"] == name]]
        for chart in [*_cosines(part, name), *_measures(part, name, measure_charts(record))]
    )
    if len(checkpoints) > _DRAWN:
        notes.append(f"drawn: the first {_DRAWN} of {len(checkpoints)}; all are in the tables")
    return View(tuple(_facts(record, entries)), charts, tuple(tables), tuple(notes))


def _facts(record: Mapping[str, Any], entries: list[Mapping[str, Any]]) -> Iterator[Fact]:
    """Yield each checkpoint's verdict, and the tests that it rests on where checkpoints are few."""
    for entry in entries:
        name, made_of = entry["checkpoint"], ", ".join(entry["components"])
        place = f"{anchor_label(record['place']['anchor'])}, layer {record['place']['layer']}"
        rests = (
            f"n = {record['n_problems']} problems, {record['n_samples']} samples each, "
            f"seed {record['seed']}, {place}"
        )
        words = f"of {made_of}; {rests}" if made_of and made_of != entry["verdict"] else rests
        yield Fact(f"Verdict on {name}", Number(None), words, text=entry["verdict"])
        for test in entry["tests"]:
            wanted = test["shown"] and len(entries) <= _DRAWN
            if wanted or test["test"] == "pass@1":
                p = "–" if test["p_holm"] is None else f"{test['p_holm']:.3f}"
                yield Fact(
                    f"Change in {test['test']}, {name}", Number.of(test),
                    f"n = {test['n_problems']} problems, seed {record['seed']}; Holm's p {p}",
                )  # fmt: skip


def _tests_table(entries: list[Mapping[str, Any]]) -> Table | None:
    rows = [
        {"checkpoint": entry["checkpoint"], **test} for entry in entries for test in entry["tests"]
    ]
    if not rows:
        return None
    columns = (
        Column("checkpoint", "checkpoint"), Column("test", "test"), Column("component", "shows"),
        Column("value", "value (95 %)", "interval"), Column("p_holm", "p (Holm)", "p"),
        Column("margin", "margin", "number"), Column("detectable", "detectable", "number"),
        Column("shown", "shown"), Column("n_problems", "problems", "count"),
    )  # fmt: skip
    note = (
        "A component is named where its test rejects “no change” after Holm's correction and its "
        "estimate reaches the margin. “Detectable”: the smallest true effect that would be found."
    )
    return Table("Evidence", pd.DataFrame(rows), columns, note)


def _table(table: pd.DataFrame) -> Table:
    """Return the whole table, each cosine beside its floor."""
    frame = with_floor(table, list(_AT))
    columns = (
        *(Column(key, key) for key in _AT[:-1]),
        Column("cell", "cell"),
        Column("space", "space"),
        Column("value", "value (95 %)", "interval"),
        Column("floor", "its floor", "interval", low="floor_low", high="floor_high"),
        Column("p", "p", "p"),
        Column("n_problems", "problems", "count"),
        Column("seed", "seed", "count"),
    )
    note = "“rl-base” marks a difference, or a comparison of the two models."
    return Table("Comparison", frame, columns, note)


def _anchors(table: pd.DataFrame) -> list[str]:
    known = ordered([a for a in table["anchor"].astype(str) if a], "anchor")
    return [a for a in _FIRST if a in known] or known[:1]


def _cosines(table: pd.DataFrame, name: str) -> Iterator[Chart]:
    """Yield both encoders' CC and floor by layer, on each policy's rollouts."""
    rows = table[
        (table["measure"] == "cosine")
        & table["cell"].isin(["CC", "floor"])
        & table["encoder"].isin(_ROLES)
        & table["policy"].isin(_ROLES)
        & table["space"].isin(["raw", "centred"])
    ]
    looks = {
        f"{cell} · {encoder} encoder": Look(colour, marker, f"{cell}, {encoder} encoder")
        for (cell, encoder), (colour, marker) in zip(
            product(["CC", "floor"], _ROLES), _PAIRED_LOOKS, strict=True
        )
    }
    rows = rows.assign(
        series=rows["cell"].astype(str) + " · " + rows["encoder"].astype(str) + " encoder",
        n=counted(rows["n_problems"], "problem"),
    )
    for anchor in _anchors(rows):
        here = rows[rows["anchor"] == anchor]
        for key, part in here.groupby(["policy", "space"], sort=False):
            policy, space = map(str, key)
            yield place_chart(
                part, place="layer", series="series", axis="Layer", unit=f"{SPACES[space]} cosine",
                looks=looks, apart="final", places=ordered(part["layer"].tolist(), "layer"),
                title=f"{SPACES[space]} cosine of {policy} rollouts: {anchor_label(anchor)}",
                note=f"{name}; 95 % intervals by problem, pointwise.",
            )  # fmt: skip


def _measures(table: pd.DataFrame, name: str, titles: Mapping[str, str]) -> Iterator[Chart]:
    """Yield the other measures by layer, a line a policy, encoder, cell and space."""
    for measure, title in titles.items():
        rows = table[(table["measure"] == measure) & (table["layer"].astype(str) != "")]
        for anchor in _anchors(rows):
            part = rows[rows["anchor"] == anchor]
            columns = [part[c].astype(str) for c in ("policy", "encoder", "cell", "space")]
            words = [" · ".join(w for w in four if w) for four in zip(*columns, strict=True)]
            part = part.assign(series=words, n=counted(part["n_problems"], "problem"))
            names = list(dict.fromkeys(words))
            yield place_chart(
                part, place="layer", series="series", axis="Layer", unit=title,
                looks={each: look(i, each) for i, each in enumerate(names)}, apart="final",
                places=ordered(part["layer"].tolist(), "layer"), zero=measure == "alignment",
                title=f"{title}: {anchor_label(anchor)}",
                note=f"{name}; 95 % intervals by problem, pointwise.",
            )  # fmt: skip
