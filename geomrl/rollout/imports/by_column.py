"""Any file with a row a problem or a response, whose columns have usual names or are named."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from geomrl.progress import Say
from geomrl.rollout.imports.columns import select
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.imports.files import read_rows


def matches(columns: Collection[str]) -> bool:
    """Say yes: this is the last format."""
    return True


def read(path: Path, config: ImportConfig, say: Say) -> pd.DataFrame:
    """Return the rows that are wanted, as they are written.

    Raises:
        GeomrlError: the file is torn or empty, or of a kind that is not read; no row is wanted.
    """
    return select(read_rows(path), config.where, path)
