"""Samples of lm-eval (`samples_TASK_DATE.jsonl`), which repeat each document for every filter."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.progress import Say
from geomrl.rollout.imports.columns import as_key, select
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.imports.files import read_rows


def matches(columns: Collection[str]) -> bool:
    """Say whether lm-eval wrote the file."""
    return {"filter", "doc_id", "resps"} <= set(columns)


def read(path: Path, config: ImportConfig, say: Say) -> pd.DataFrame:
    """Return the rows of one filter.

    Raises:
        GeomrlError: rows of one document differ in more than the filter, or the file is torn or empty.
    """
    return _without_repeats(select(read_rows(path), config.where, path), path, say)


def _without_repeats(raw: pd.DataFrame, path: Path, say: Say) -> pd.DataFrame:
    """Keep one row a document.

    The repeats contain the same responses: as rollouts of their own, each would have a twin.

    Raises:
        GeomrlError: rows of one document differ in more than the filter.
    """
    if raw["filter"].nunique() < 2:
        return raw
    kept = str(raw["filter"].iloc[0])
    texts = raw["resps"].map(as_key)
    if (texts.groupby(raw["doc_id"]).nunique() > 1).any():
        raise GeomrlError(
            f"{path}: rows of several filters ({', '.join(map(str, raw['filter'].unique()))}) hold "
            f"different responses to one document; take one filter with --where filter={kept}"
        )
    say(
        f"note: {path}: every document stands there once for each of {raw['filter'].nunique()} "
        f"filters, with the same responses; those of filter '{kept}' are taken"
    )
    return raw[raw["filter"] == kept].reset_index(drop=True)
