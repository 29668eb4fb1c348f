"""Arms of several training seeds in the report of a comparison: means over seeds, and differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from geomrl.compare.arm_changes import SHOWN_CELLS, cells_by_layer, difference_name, verdicts_by_arm
from geomrl.report.charts import counted, look, place_chart
from geomrl.report.views import Chart, Column, Fact, Number, Table
from geomrl.viz.tables import anchor_label, ordered
from geomrl.viz.theme import GREY, Look

_HEADLINES = ("pass@1", "CC, raw", "floor, raw", "CC, centred")
_ANCHORS = ("before_marker", "marker_end")


def arm_facts(
    found: pd.DataFrame,
    record: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    arms: Sequence[str],
) -> Iterator[Fact]:
    """Yield the verdicts of each arm, and the headline changes of arms and between them.

    Args:
        found: of `compare.arm_changes.arm_changes`.
        record: the comparison's verdict file.
        entries: its checkpoints.
        arms: their names, that of reference first.
    """
    place = record["place"]
    counts = verdicts_by_arm(entries)
    for arm in arms:
        own = counts[counts["arm"] == arm].sort_values("checkpoints", ascending=False)
        words = ", ".join(
            f"{row['verdict']} ×\u00a0{row['checkpoints']}" for row in own.to_dict("records")
        )
        parts = "; ".join(filter(None, own["components"]))
        yield Fact(
            f"Verdicts on {arm}", Number(None),
            f"of {parts or 'nothing'}; n = {record['n_problems']} problems, {record['n_samples']} samples "
            f"each, seed {record['seed']}, {anchor_label(place['anchor'])}, layer {place['layer']}",
            text=words,
        )  # fmt: skip
    at_place = (found["layer"] == place["layer"]) & (found["anchor"] == place["anchor"])
    here = found[at_place | (found["layer"] == "")]
    names = [*arms, *(difference_name(arm, arms[0]) for arm in arms[1:])]
    for measure in _HEADLINES:
        rows = {row["arm"]: row for row in here[here["measure"] == measure].to_dict("records")}
        for arm in names:
            if arm in rows:
                row = rows[arm]
                p = f"; Holm's p {row['p_holm']:.3f}" if row["p_holm"] == row["p_holm"] else ""
                yield Fact(
                    f"Change in {measure}, {arm}", Number.of(row),
                    f"{row['n_seeds']} training seeds, t interval over them; n = "
                    f"{row['n_problems']} problems{p}",
                )  # fmt: skip


def arm_table(found: pd.DataFrame) -> Table:
    """Return all changes of arms, and their differences."""
    columns = (
        *(Column(key, key) for key in ("measure", "arm", "layer", "anchor")),
        Column("value", "change (95 %)", "interval"), Column("p", "p", "p"),
        Column("p_holm", "p (Holm)", "p"), Column("detectable", "detectable", "number"),
        Column("n_seeds", "seeds", "count"), Column("n_problems", "problems", "count"),
    )  # fmt: skip
    note = (
        "Means over training seeds with t intervals over them, on identical rollouts. Holm's p: of "
        "differences between arms, over the measures of a place. “Detectable”: 80 % power."
    )
    return Table("Arms", found, columns, note)


def arm_charts(table: pd.DataFrame, arms: Sequence[str]) -> Iterator[Chart]:
    """Yield cells by layer: the base model and each arm, on their own rollouts."""
    names = ["base", *arms]
    looks = {
        name: Look(GREY, "X", "before RL") if name == "base" else look(i, name)
        for i, name in enumerate(names)
    }
    known = [anchor for anchor in _ANCHORS if anchor in set(table["anchor"])]
    for anchor in known or ordered([a for a in table["anchor"].astype(str) if a], "anchor")[:1]:
        frame = cells_by_layer(table, anchor)
        frame = frame[frame["series"].isin(names)]
        for panel in SHOWN_CELLS:
            part = frame[frame["panel"] == panel]
            if part.empty:
                continue
            words = panel if "centred" in panel else f"{panel}, raw"
            yield place_chart(
                part.assign(n=counted(part["n_problems"], "problem")), place="layer",
                series="series", axis="Layer", unit="Cosine", looks=looks, apart="final",
                places=ordered(part["layer"].tolist(), "layer"), zero="centred" in panel,
                title=f"{words}: {anchor_label(anchor)}",
                note="Each model on its own rollouts; arms: means over seeds, t intervals over them.",
            )  # fmt: skip
