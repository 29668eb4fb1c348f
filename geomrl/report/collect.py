"""Read whatever a folder contains of geomrl's, for the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.ablate.ablation import Ablation, read_ablation
from geomrl.errors import GeomrlError
from geomrl.files import read_json, read_parquet
from geomrl.runs.layout import (
    ABLATION,
    ACCURACY,
    COMPARISON,
    DIFFERENCES,
    METRICS,
    REPLACEMENT,
    ROLLOUTS,
    SIMILARITY,
    SUMMARY,
    VERDICT,
    Kind,
    folder_kinds,
)
from geomrl.runs.manifest import read_manifest
from geomrl.train.metrics_log import read_metrics

KINDS = ("probed run", "rollouts", "training", "ablation", "evaluation", "comparison")


@dataclass(frozen=True, kw_only=True)
class Collected:
    """The tables of one folder; None where it has no such table.

    Attributes:
        path: the folder.
        kinds: what it contains, of `KINDS`.
        manifest: every step's settings, commands and versions.
        config: a training's resolved configuration, as YAML text.
        summary: `summary.json`, of whatever kind wrote it.
        rollouts: whether the folder itself is a run with a rollout table.
        similarity: the tidy similarity table, of one encoder where one was asked for.
        replacement: what replacing anchor states did.
        metrics: a training's log, one row a step.
        ablation: an ablation's findings.
        accuracy: an evaluation's table (eval.parquet).
        differences: its paired differences.
        comparison: a comparison's table.
        verdict: a comparison's verdict.json.
    """

    path: Path
    kinds: tuple[Kind, ...]
    manifest: dict[str, Any]
    config: str | None = None
    summary: dict[str, Any] | None = None
    rollouts: bool = False
    similarity: pd.DataFrame | None = None
    replacement: pd.DataFrame | None = None
    metrics: pd.DataFrame | None = None
    ablation: Ablation | None = None
    accuracy: pd.DataFrame | None = None
    differences: pd.DataFrame | None = None
    comparison: pd.DataFrame | None = None
    verdict: dict[str, Any] | None = None


def collect(path: Path | str, encoder: str | None = None) -> Collected:
    """Read a folder's tables.

    Args:
        path: a run directory, a training, an ablation, an evaluation or a comparison.
        encoder: whose similarities and replacements, where the run contains those of several.

    Raises:
        GeomrlError: the folder contains none of these, or a table in it is torn.
    """
    path = Path(path)
    if not path.is_dir():
        raise GeomrlError(f"{path}: no such folder; name run directories")
    config = path / "config.yaml"
    similarity, replacement = (
        _of_encoder(_table(path / name), encoder) for name in (SIMILARITY, REPLACEMENT)
    )
    found = Collected(
        path=path,
        kinds=folder_kinds(path),
        manifest=read_manifest(path),
        config=config.read_text() if config.exists() else None,
        summary=read_json(path / SUMMARY) if (path / SUMMARY).exists() else None,
        rollouts=(path / ROLLOUTS).exists(),
        similarity=similarity,
        replacement=replacement,
        metrics=read_metrics(path) if (path / METRICS).exists() else None,
        ablation=read_ablation(path) if (path / ABLATION).exists() else None,
        accuracy=_table(path / ACCURACY),
        differences=_table(path / DIFFERENCES),
        comparison=_table(path / COMPARISON),
        verdict=read_json(path / VERDICT) if (path / VERDICT).exists() else None,
    )
    if not found.kinds:
        raise GeomrlError(
            f"{path}: holds nothing that a report can show (no rollouts, similarities, metrics, "
            "ablation, evaluation or comparison); name a folder that geomrl wrote"
        )
    return found


def _of_encoder(table: pd.DataFrame | None, encoder: str | None) -> pd.DataFrame | None:
    if table is None or encoder is None:
        return table
    return table[table["encoder"] == encoder].reset_index(drop=True)


def _table(path: Path) -> pd.DataFrame | None:
    return read_parquet(path) if path.exists() else None
