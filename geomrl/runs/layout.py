"""What geomrl's folders contain: the names of their files, and which kind a folder is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from geomrl.files import read_json

MANIFEST = "manifest.json"
"""In every folder: settings, command and versions of each step; see `runs.manifest`."""
SUMMARY = "summary.json"
ROLLOUTS = "rollouts.parquet"
STATES = "states"
"""A folder with a state store for each encoder."""
SIMILARITY = "similarity.parquet"
REPLACEMENT = "replacement.parquet"
METRICS = "metrics.jsonl"
ABLATION = "ablation.parquet"
ACCURACY, DIFFERENCES = "eval.parquet", "differences.parquet"
COMPARISON, VERDICT = "comparison.parquet", "verdict.json"

GRADING = "grading"
"""The manifest's step of grading."""

USER_CODE = "user_code"
"""In the settings of a step, where code of the user's decides them: "FILE.py:NAME" -> hash."""

Kind = Literal["probed run", "training", "ablation", "evaluation", "comparison", "rollouts"]

_SIGNS: dict[Kind, str] = {
    "probed run": SIMILARITY,
    "training": METRICS,
    "ablation": ABLATION,
    "evaluation": ACCURACY,
    "comparison": COMPARISON,
}


def folder_kinds(path: Path | str) -> tuple[Kind, ...]:
    """Return what a folder contains; "rollouts" where nothing has been made of them yet."""
    found = tuple(kind for kind, file in _SIGNS.items() if (Path(path) / file).exists())
    return found or (("rollouts",) if (Path(path) / ROLLOUTS).exists() else ())


def is_training_run(path: Path) -> bool:
    """Say whether `geomrl train` made this folder, even if it has not finished a step yet."""
    return (path / MANIFEST).exists() and "train" in read_json(path / MANIFEST)
