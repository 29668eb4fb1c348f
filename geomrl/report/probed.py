"""A probed run in the report: accuracy, similarities by layer and position, interventions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from geomrl.geometry.cells import CELL_WORDS
from geomrl.report.charts import counted, look, place_chart
from geomrl.report.collect import Collected
from geomrl.report.views import Chart, Column, Fact, Number, Table, View, with_floor
from geomrl.viz.contrasts import CONTRASTS
from geomrl.viz.profiles import PROFILE_CELLS
from geomrl.viz.spectra import spectrum_profile
from geomrl.viz.tables import Axis, anchor_label, layer_words, ordered, profile
from geomrl.viz.theme import SPACES, Look, cell_label, cell_look

_KEYS = ("policy", "encoder", "step", "benchmark")
_AT = (*_KEYS, "layer", "anchor", "space", "measure", "weighting")
_SHARP = "CC-II_same_answer"


def probed_view(run: Collected) -> View:
    """Return what a run's summary and similarity table have to show."""
    tables: list[Table] = []
    charts: list[Chart] = []
    if run.similarity is not None and len(run.similarity):
        tables.append(_similarity_table(run.similarity))
        charts += [chart for _, part in _parts(run.similarity) for chart in _charts(part)]
    if run.replacement is not None:
        tables.append(_replacement_table(run.replacement))
        charts += _replacement_charts(run.replacement)
    summary = run.summary or {}
    accuracy = _accuracy_table(summary)
    if accuracy is not None:
        tables.insert(0, accuracy)
    notes = [*summary.get("notes", []), *summary.get("shortcomings", [])]
    return View(tuple(_facts(summary)), tuple(charts), tuple(tables), tuple(map(str, notes)))


def _facts(summary: Mapping[str, Any]) -> Iterator[Fact]:
    """Yield the headline figures of a run's summary, each cosine with its floor."""
    seed = summary.get("seed")
    for name, found in summary.get("benchmarks", {}).items():
        rests = f"{found['n_problems']} problems × {found.get('samples', '?')} samples, seed {seed}"
        ks = [k for k in found if k.startswith("pass@") and isinstance(found[k], dict)]
        for key in dict.fromkeys([*ks[:1], *[k for k in ks if k == "pass@8"], *ks[-1:]]):
            yield Fact(f"{key}, {name}", Number.of(found[key]), rests)
        for place in found["headlines"]:
            cells = {row["cell"]: row for row in place["cells"]}
            where = f"{anchor_label(place['anchor'])}, {layer_words(place['layer'])}"
            for space in ("raw", "centred"):
                floor = _cell(cells, "floor", space)
                for cell in ("CC", _SHARP):
                    number = _cell(cells, cell, space)
                    if number is not None and number.value is not None:
                        n = cells[cell]["n_problems"]
                        rests = f"{where} · {name} · n = {n} problems, seed {seed}"
                        if "-" in cell:  # a difference has no floor
                            yield Fact(f"{CELL_WORDS[cell]}, {space}", number, rests)
                        else:
                            words = f"{CELL_WORDS[cell]}, {space} cosine"
                            yield Fact(words, number, rests, floor=floor or Number(None))


def _cell(cells: Mapping[str, Any], cell: str, space: str) -> Number | None:
    return Number.of(cells[cell], space, f"{space}_") if cell in cells else None


def _accuracy_table(summary: Mapping[str, Any]) -> Table | None:
    rows = [
        {"benchmark": name, "measure": key, **value, "samples": found.get("samples")}
        for name, found in summary.get("benchmarks", {}).items()
        for key, value in found.items()
        if key.startswith("pass@") and isinstance(value, dict)
    ]
    if not rows:
        return None
    columns = (
        Column("benchmark", "benchmark"), Column("measure", "measure"),
        Column("value", "value (95 % by problem)", "interval"),
        Column("n_problems", "problems", "count"), Column("samples", "samples", "count"),
    )  # fmt: skip
    note = f"Intervals resample problems; seed {summary.get('seed')}."
    return Table("Accuracy", pd.DataFrame(rows), columns, note)


def _similarity_table(table: pd.DataFrame) -> Table:
    """Return the whole similarity table, each cosine beside its floor."""
    frame = with_floor(table, _AT)
    several = [key for key in _KEYS if frame[key].nunique(dropna=False) > 1]
    columns = (
        *(Column(key, key) for key in several),
        Column("layer", "layer"),
        Column("anchor", "anchor"),
        Column("measure", "measure"),
        Column("cell", "cell"),
        Column("space", "space"),
        Column("weighting", "weighting"),
        Column("value", "value (95 %)", "interval"),
        Column("floor", "its floor", "interval", low="floor_low", high="floor_high"),
        Column("p", "p", "p"),
        Column("n_problems", "problems", "count"),
        Column("n_pairs", "pairs", "count"),
        Column("seed", "seed", "count"),
    )
    note = (
        "Every cell, contrast, test and spectrum (similarity.csv). Intervals by problem; p two-sided, "
        "adjusted over the layers of an anchor. Contrasts pair the cells of each problem and have no "
        "floor. Weighting “pair” pools pairs and compares easy problems with hard ones."
    )
    return Table("Similarity", frame, columns, note)


def _parts(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for key, part in table.groupby(list(_KEYS), sort=False, dropna=False):
        yield " · ".join(str(k) for k in key), part


def _charts(table: pd.DataFrame) -> Iterator[Chart]:
    """Yield the charts of one policy, encoder, step and benchmark."""
    layers = ordered(table["layer"].tolist(), "layer")
    anchors = ordered(table["anchor"].tolist(), "anchor")
    layer = "final" if "final" in layers else layers[-1]
    first = table.iloc[0]
    source = f"{first['benchmark']}, encoder {first['encoder']}, seed {first['seed']}"
    for anchor in [a for a in ("before_marker", "marker_end") if a in anchors] or anchors[:1]:
        for space in ("raw", "centred"):
            yield from _profile(
                table, "layer", at=anchor, space=space, cells=PROFILE_CELLS, source=source
            )
        yield from _profile(
            table, "layer", at=anchor, space="raw", cells=CONTRASTS, source=source, zero=True
        )
        yield from _spectrum(table, anchor, source)
    for space in ("raw", "centred"):
        yield from _profile(
            table, "anchor", at=layer, space=space, cells=PROFILE_CELLS, source=source
        )
    yield from _profile(
        table, "anchor", at=layer, space="raw", cells=CONTRASTS, source=source, zero=True
    )


def _profile(
    table: pd.DataFrame, by: Axis, at: str, space: str, cells: tuple[str, ...], source: str,
    *, zero: bool = False,
) -> Iterator[Chart]:  # fmt: skip
    frame = profile(table, by=by, at=at, cells=cells, spaces=(space,))
    if frame.empty:
        return
    places = ordered(frame[by].tolist(), by)
    words = [anchor_label(p) for p in places] if by == "anchor" else places
    where = anchor_label(at) if by == "layer" else layer_words(at)
    along = "layer" if by == "layer" else "position"
    what = f"Contrasts, {space} cosine" if zero else f"{SPACES[space]} cosine"
    yield place_chart(
        frame.assign(n=counted(frame["n_problems"], "problem")),
        place=by, series="cell", looks={cell: cell_words(cell) for cell in cells}, places=places,
        labels=words, apart="final" if by == "layer" else None, zero=zero,
        line=not zero, title=f"{what} by {along}: {where}",
        axis="Layer" if by == "layer" else "", unit="Difference" if zero else "Cosine",
        note=f"{source}; bars are 95 % intervals by problem, pointwise.", wide=by == "anchor",
    )  # fmt: skip


def cell_words(cell: str) -> Look:
    """Return a cell's look, with its short name among its words."""
    known = cell_look(cell)
    return Look(known.colour, known.marker, cell_label(cell))


def _spectrum(table: pd.DataFrame, anchor: str, source: str) -> Iterator[Chart]:
    frame = spectrum_profile(table, at=anchor)
    frame = frame[frame["measure"] == "effective_rank"] if len(frame) else frame
    if frame.empty:
        return
    cells = list(dict.fromkeys(frame["cell"]))
    yield place_chart(
        frame.assign(n=counted(frame["n_problems"], "problem")),
        place="layer", series="cell", looks={cell: cell_look(cell) for cell in cells},
        places=ordered(frame["layer"].tolist(), "layer"), apart="final", axis="Layer",
        title=f"Effective rank at equal n: {anchor_label(anchor)}", unit="Effective rank",
        note=f"{source}; of un-normalised states.",
    )  # fmt: skip


def _replacement_table(table: pd.DataFrame) -> Table:
    keys = ("encoder", "anchor", "layer", "arm", "verdict")
    columns = tuple(
        Column(key, key) for key in keys if key != "encoder" or table[key].nunique() > 1
    )
    columns += (
        Column("value", "change in nats (95 %)", "interval"),
        Column("n_problems", "problems", "count"),
    )
    note = "Change of the correct answer's log-probability when the anchor's state is replaced."
    return Table("Interventions", table, columns, note)


def _replacement_charts(table: pd.DataFrame) -> list[Chart]:
    arms = list(dict.fromkeys(table["arm"]))
    found = []
    keys = ["encoder", "anchor", "verdict"]
    several = table["encoder"].nunique() > 1
    for (encoder, name, verdict), rows in table.groupby(keys, sort=False):
        anchor = anchor_label(str(name)) + (f", encoder {encoder}" if several else "")
        found.append(
            place_chart(
                rows.assign(n=counted(rows["n_problems"], "problem")),
                place="layer", series="arm",
                looks={arm: look(i, arm.replace("_", " ")) for i, arm in enumerate(arms)},
                places=ordered(rows["layer"].tolist(), "layer"), apart="final", axis="Layer",
                title=f"State at {anchor} replaced, {verdict} rollouts",
                unit="Change in nats", zero=True,
                note="Log-probability of the correct answer; 95 % intervals by problem.",
            )
        )  # fmt: skip
    return found
