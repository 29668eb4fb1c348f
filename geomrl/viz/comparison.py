"""Pictures of a comparison: before and after RL, by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from geomrl.compare.comparison import Comparison
from geomrl.compare.measures.measure import Line, Panel
from geomrl.compare.shown import pictures
from geomrl.progress import Progress
from geomrl.viz import theme
from geomrl.viz.picture import write_picture
from geomrl.viz.series import Panels, Series, draw_series
from geomrl.viz.tables import anchor_label, layer_order

_PLOTTED = ["panel", "series", "policy", "layer", "anchor", "value", "low", "high", "n_problems"]
_INTERVALS = "95 % intervals by problem"


def draw_comparison(
    comparison: Comparison,
    out: Path | None = None,
    *,
    anchor: str | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Draw each checkpoint's pictures: PNG, PDF and the CSV behind each; return the files.

    Args:
        comparison: the opened folder.
        out: where to write; FOLDER/figures by default.
        anchor: the anchor shown; the verdict's by default.
        progress: called with the number of pictures done and of all.
    """
    folder = Path(out) if out is not None else comparison.path / "figures"
    anchor = anchor or str(comparison.record["place"]["anchor"])
    checkpoints, wanted = list(comparison.verdicts), pictures(comparison.record)
    made, written = 0, []
    for number, checkpoint in enumerate(checkpoints):
        suffix = f"_{number + 1}" if len(checkpoints) > 1 else ""
        table = comparison.table[comparison.table["checkpoint"] == checkpoint]
        for name, panels in wanted.items():
            frame = panels_frame(table, panels, anchor)
            if len(frame):
                note = _footnote(comparison, checkpoint, anchor, frame)
                picture = draw_series(frame, _layout(panels), note, f"compare_{name}{suffix}")
                written += write_picture(picture, folder)
            made += 1
            if progress:
                progress(made, len(checkpoints) * len(wanted))
    return written


def panels_frame(table: pd.DataFrame, panels: Sequence[Panel], anchor: str) -> pd.DataFrame:
    """Return a picture's data: the rows that its panels' lines join at an anchor, by layer."""
    here = table[(table["anchor"] == anchor) & table["value"].notna()]
    parts = [
        _rows(here, line).assign(panel=panel.name, series=line.series)
        for panel in panels
        for line in panel.lines
    ]
    rows = pd.concat([part for part in parts if len(part)] or parts[:1])
    rows = rows.assign(order=rows["layer"].map(layer_order))
    rows = rows.sort_values(["panel", "series", "order"], kind="stable")
    return rows[_PLOTTED].reset_index(drop=True)


def _rows(table: pd.DataFrame, line: Line) -> pd.DataFrame:
    keys = ("measure", "policy", "encoder", "cell", "space")
    return table[np.logical_and.reduce([table[key] == getattr(line, key) for key in keys])]


def _layout(panels: Sequence[Panel]) -> Panels:
    series: dict[str, Series] = {}
    for line in (line for panel in panels for line in panel.lines):
        look = theme.Look(line.colour, line.marker, line.label)
        series.setdefault(line.series, Series(look, line.dashed))
    return Panels(
        titles={panel.name: panel.title for panel in panels},
        units={panel.name: panel.unit for panel in panels},
        series=series,
        levels={panel.name: panel.level for panel in panels if panel.level is not None},
    )


def _footnote(comparison: Comparison, checkpoint: str, anchor: str, frame: pd.DataFrame) -> str:
    record = comparison.record
    parts = [
        anchor_label(anchor), theme.span(frame["n_problems"], "problem"),
        f"{record['n_samples']} samples each", _INTERVALS, f"seed {record['seed']}",
        f"before {theme.shorten(record['base'])}", f"after {theme.shorten(checkpoint)}",
        "rollouts of the policy before" if (frame["policy"] == "base").any() else "",
    ]  # fmt: skip
    return "; ".join(part.replace(" ", "\u00a0") for part in parts if part)
