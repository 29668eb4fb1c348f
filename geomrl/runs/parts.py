"""Finished pieces of an analysis on disk: a killed one resumes, a finished one is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.files import read_json, read_parquet, safe_name, text_hash, write_json, write_parquet


@dataclass(frozen=True)
class Parts:
    """Pieces of one analysis, each under its names (such as anchor and layer).

    A piece that was made under another key is not there: it is made anew and written over.

    Attributes:
        folder: where they lie.
        key: a hash of all that decides their content (`parts_key`).
    """

    folder: Path
    key: str

    def read(self, *names: str) -> Any | None:
        """Return a piece in JSON's types; None where there is none of this key."""
        path = self._path(names, "json")
        found = read_json(path) if path.exists() else {}
        return found["content"] if found.get("key") == self.key else None

    def write(self, content: Any, *names: str) -> None:
        """Write a piece in JSON's types."""
        write_json(self._path(names, "json"), {"key": self.key, "content": content})

    def read_frame(self, *names: str) -> pd.DataFrame | None:
        """Return a piece that is a table; None where there is none of this key."""
        path = self._path(names, "parquet")
        found = read_parquet(path) if path.exists() else None
        return found if found is not None and found.attrs.get("key") == self.key else None

    def write_frame(self, frame: pd.DataFrame, *names: str) -> None:
        """Write a piece that is a table."""
        keyed = frame.copy()
        keyed.attrs["key"] = self.key
        write_parquet(self._path(names, "parquet"), keyed)

    def _path(self, names: tuple[str, ...], suffix: str) -> Path:
        return self.folder / f"{'--'.join(map(safe_name, names))}.{suffix}"


def parts_key(**decisive: Any) -> str:
    """Return a key of settings and hashes, in JSON's types."""
    return text_hash(json.dumps(decisive, sort_keys=True))
