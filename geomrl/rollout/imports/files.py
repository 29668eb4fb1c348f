"""Rows of JSON, JSON lines, parquet and Inspect's logs, as they are written; the files of a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.files import file_hash, read_json_lines, read_parquet, text_hash
from geomrl.rollout.imports.zipped import zipped_samples
from geomrl.runs.layout import ROLLOUTS

_JSON = (".jsonl", ".json", ".ndjson")
_ZIP = ".eval"
SUFFIXES = (*_JSON, ".parquet", _ZIP)
"""Of files that are read."""
KEY = "geomrl:key"
"""The column of the names under which one JSON object has its rows."""
ASKED, SAID = "geomrl:asked", "geomrl:said"
"""Columns of prompts and responses as messages, beside their token ids."""
FILE, ROW = "geomrl:file", "geomrl:row"
"""Columns that name where a row is from: the file, and the row's number in it, from 1."""


def named_files(path: Path) -> list[Path]:
    """Return the files that a path names: itself, all below a folder, or those of a pattern (`*`).

    Of a run of geomrl its rollout table alone; hidden files and folders are passed over.

    Raises:
        GeomrlError: there are none.
    """
    if path.is_file():
        return [path]
    if (path / ROLLOUTS).is_file():
        return [path / ROLLOUTS]
    if path.is_dir():
        found = [each for each in path.rglob("*") if not _hidden(each.relative_to(path))]
        found = [each for each in found if each.suffix in SUFFIXES and each.is_file()]
        if not found:
            raise GeomrlError(
                f"{path}: holds no file of rollouts ({', '.join(SUFFIXES)}); name their folder"
            )
        return sorted(found, key=_in_order)
    start = Path(path.anchor or ".")
    pattern = str(path.relative_to(path.anchor) if path.anchor else path)
    found = list(start.glob(pattern)) if "*" in pattern else []
    if not found:
        raise GeomrlError(f"{path}: no such file; check the path")
    return sorted((each for each in found if each.is_file()), key=_in_order)


def files_hash(files: list[Path], below: Path) -> str:
    """Return the hash of a file's content; of several, that of their names below a folder and hashes."""
    if files == [below]:
        return file_hash(below)
    return text_hash(*(f"{each.name} {file_hash(each)}" for each in files))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _in_order(path: Path) -> list[Any]:
    """Sort numbers in names by their value: 9.jsonl comes before 10.jsonl."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def read_files(files: list[Path]) -> pd.DataFrame:
    """Read the rows of files one after another; the columns FILE and ROW say where each is from.

    Raises:
        GeomrlError: a file is torn or empty, or of a kind that is not read.
    """
    frames = []
    for file in files:
        rows = read_rows(file)
        rows[FILE], rows[ROW] = str(file), range(1, len(rows) + 1)
        frames.append(rows)
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def read_rows(path: Path) -> pd.DataFrame:
    """Read a file's rows as they are.

    Raises:
        GeomrlError: the file is torn or empty, or of a kind that is not read.
    """
    if path.suffix == ".parquet":
        frame = read_parquet(path)
    elif path.suffix in _JSON:
        frame = pd.DataFrame(list(_json_rows(path)))
    elif path.suffix == _ZIP:
        frame = pd.DataFrame(list(zipped_samples(path)))
    else:
        raise GeomrlError(
            f"{path}: rollouts come as .jsonl, .json, .parquet or .eval, not '{path.suffix}'; write one "
            "JSON object a line, with prompt, response and gold"
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
    if path.suffix == _ZIP and path.is_file():
        return frozenset(next(zipped_samples(path), {}))
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
    rows = _rows_inside(whole)
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
        alone = not file.read(1) and _rows_inside(begun) is not begun
        return begun if alone or isinstance(begun, list) or _numbers_rows(begun) else None


def _rows_inside(whole: Any) -> Any:
    """Return the rows of one JSON value: of a list, under numbers or names, or of an Inspect log.

    A name is kept as the row's KEY. What is none of these is returned as it is.
    """
    if not isinstance(whole, dict):
        return whole
    if isinstance(whole.get("samples"), list) and "eval" in whole:
        return [{**row, "eval": whole["eval"]} for row in whole["samples"] if isinstance(row, dict)]
    if _numbers_rows(whole):
        return [{KEY: key, **row} for key, row in whole.items()]
    if whole and all(isinstance(row, dict) for row in whole.values()):
        common = set.intersection(*(set(row) for row in whole.values()))
        if common:
            return [{KEY: key, **row} for key, row in whole.items()]
    return whole


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
