"""Samples in the zip archives of Inspect (`.eval`), which are compressed with deflate or zstd.

Layout: `header.json` (or, of an evaluation that was stopped, `_journal/start.json`) and one
`samples/ID_epoch_N.json` a sample
([source](https://github.com/UKGovernmentBEIS/inspect_ai/blob/main/src/inspect_ai/log/_recorders/eval.py)).
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geomrl.errors import GeomrlError

_ZSTD = 93  # the zip format's number for it; zipfile knows it from Python 3.14 on
_LOCAL_HEADER = 30  # bytes before a member's name


def zipped_samples(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a log's samples in their order, each with the header's "eval" (task, model).

    Raises:
        GeomrlError: the file is no whole zip archive, or has no samples.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            header: dict[str, Any] = next(
                (json.loads(_content(archive, name)) for name in _HEADERS if name in names), {}
            )
            samples = [name for name in names if name.startswith("samples/")]
            if not samples:
                raise GeomrlError(
                    f"{path}: a zip archive without samples/*.json; is it a log of Inspect?"
                )
            for name in samples:
                yield {**json.loads(_content(archive, name)), "eval": header.get("eval", {})}
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise GeomrlError(
            f"{path}: cannot be read as a log of Inspect ({error}); copy it again, or write it as JSON "
            "(inspect log convert --to json)"
        ) from error


_HEADERS = ("header.json", "_journal/start.json")


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a member's bytes."""
    info = archive.getinfo(name)
    if info.compress_type != _ZSTD:
        return archive.read(name)
    import pyarrow as pa

    file = archive.fp
    if file is None:
        raise ValueError("the archive is closed")
    file.seek(info.header_offset)
    name_size, extra_size = struct.unpack("<HH", file.read(_LOCAL_HEADER)[26:30])
    file.seek(name_size + extra_size, 1)
    packed = pa.BufferReader(file.read(info.compress_size))
    return bytes(pa.CompressedInputStream(packed, "zstd").read())
