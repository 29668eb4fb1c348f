"""The files of interventions in a run: rows of several anchors and encoders, side by side."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.files import read_parquet, write_csv, write_parquet
from geomrl.runs.layout import REPLACEMENT

EACH = "replacement_rollouts.parquet"
"""Every rollout's change; `REPLACEMENT` has the means by layer, arm and verdict."""


def write_replacement(
    run: Path, rollouts: pd.DataFrame, summary: pd.DataFrame, *, anchor: str, encoder: str
) -> None:
    """Write one anchor's and encoder's interventions; rows of others are kept, theirs replaced.

    Args:
        run: the run directory.
        rollouts: what `intervention.replace` returned.
        summary: what `intervention.summarise_replacement` returned.
        anchor: whose states were replaced.
        encoder: the model's key.

    Raises:
        GeomrlError: a file does not say whose states were replaced (an older geomrl wrote it).
    """
    parts = {EACH: rollouts, REPLACEMENT: summary}
    whole = {
        name: _with_others(run / name, rows.assign(encoder=encoder), anchor, encoder)
        for name, rows in parts.items()
    }
    for name, rows in whole.items():  # the summary last: `replaced_anchors` goes by it
        write_parquet(run / name, rows)
    write_csv((run / REPLACEMENT).with_suffix(".csv"), whole[REPLACEMENT])


def replaced_anchors(run: Path, encoder: str) -> set[str]:
    """Return the anchors whose states were replaced in a run, in one encoder."""
    path = run / REPLACEMENT
    if not path.exists():
        return set()
    table = read_parquet(path)
    return set(table.loc[table["encoder"] == encoder, "anchor"])


def _with_others(path: Path, rows: pd.DataFrame, anchor: str, encoder: str) -> pd.DataFrame:
    if not path.exists():
        return rows
    before = read_parquet(path)
    if "encoder" not in before:
        raise GeomrlError(
            f"{path}: written by an older geomrl, and says not whose states were replaced; delete "
            f"the replacement files in {path.parent} and run this again"
        )
    kept = before[(before["anchor"] != anchor) | (before["encoder"] != encoder)]
    return pd.concat([kept, rows], ignore_index=True)
