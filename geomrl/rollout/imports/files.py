"""Rows of JSON, JSON lines and parquet, as they are written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.files import read_json_lines, read_parquet

_JSON = (".jsonl", ".json", ".ndjson")


def read_rows(path: Path) -> pd.DataFrame:
    """Read a file's rows as they are.

    Raises:
        GeomrlError: the file is torn or empty, or of a kind that is not read.
    """
    if path.suffix == ".parquet":
        frame = read_parquet(path)
    elif path.suffix in _JSON:
        frame = pd.DataFrame(list(_json_rows(path)))
    else:
        raise GeomrlError(
            f"{path}: rollouts come as .jsonl, .json or .parquet, not '{path.suffix}'; write one JSON "
            "object a line, with prompt, response and gold"
        )
    if frame.empty:
        raise GeomrlError(f"{path}: holds no rollouts; check that it was written to the end")
    return frame


def column_names(path: Path) -> frozenset[str]:
    """Return the names of the first row's columns; none where `read_rows` cannot read the file.

    Raises:
        GeomrlError: as `read_rows`, of JSON.
    """
    if path.suffix in _JSON:
        return frozenset(next(_json_rows(path), {}))
    if path.suffix == ".parquet" and path.is_file():
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return frozenset(pq.read_schema(path).names)
        except (pa.ArrowInvalid, OSError):
            pass  # torn: its reader says so
    return frozenset()


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of JSON lines, of one list, or of one object that numbers them."""
    whole = _one_value(path)
    if whole is None:
        yield from (row for _, row in read_json_lines(path))
        return
    rows = list(whole.values()) if _numbers_rows(whole) else whole
    if not isinstance(rows, list) or not all(isinstance(each, dict) for each in rows):
        keys = f" ({', '.join(map(str, whole))[:80]})" if isinstance(whole, dict) else ""
        raise GeomrlError(
            f"{path}: holds one JSON {'object' if keys else 'value'}{keys}, not rollouts; write a list "
            "of objects, or one object a line, each with prompt, response and gold"
        )
    yield from rows


def _one_value(path: Path) -> Any:
    """Return what a file that is one JSON value contains, over one line or several; None of JSON lines."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8") as file:
        first = file.readline()
        begun = _parsed(first)
        if begun is None:
            return _parsed(first + file.read())
        return begun if isinstance(begun, list) or _numbers_rows(begun) else None


def _parsed(text: str) -> Any:
    """Return the JSON value of a text; None where it is not one."""
    try:
        return json.loads(text)
    except ValueError:
        return None  # the reader of lines names the place


def _numbers_rows(value: Any) -> bool:
    """Say whether an object contains rows under their numbers, as OpenCompass writes them."""
    return isinstance(value, dict) and all(
        str(key).isdecimal() and isinstance(row, dict) for key, row in value.items()
    )
