"""Values inside nested rows: JSON objects, and the structs and arrays that pandas makes of parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Return NumPy's scalars and arrays, which pandas makes of nested columns, as plain Python.

    NaN, a missing cell, becomes None.
    """
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if value != value else value


def look_up(row: Any, path: str) -> Any:
    """Return what is at a dotted path; a number is a place in a list. None where nothing does.

    >>> look_up({"doc": {"question": "1+1?"}, "resps": [["2"]]}, "doc.question")
    '1+1?'
    >>> look_up({"resps": [["2"]]}, "resps.0.0")
    '2'
    """
    value = row
    for step in [path] if isinstance(row, Mapping) and path in row else path.split("."):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def text_paths(value: Any, path: str) -> Iterator[str]:
    """Yield the dotted paths of the texts inside a value at `path`.

    >>> list(text_paths({"question": "1+1?", "id": 3, "parts": ["a"]}, "doc"))
    ['doc.question', 'doc.parts.0']
    """
    if isinstance(value, str):
        yield path
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from text_paths(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from text_paths(inner, f"{path}.{place}")
