"""Rows of a tensor in a safetensors file, read without the rest of the tensor.

The safetensors library maps the file into memory, where the system reads whatever its readahead takes
around a page that is touched (128 kB here, 8 MB there): for a block of some hundred kB that is most
of what is read. Here a block is asked for as it lies, and read as it is asked for.

The format (github.com/huggingface/safetensors): the header's length in 8 bytes, little-endian; the
header, a JSON object; the tensors, row-major, at the offsets that it gives.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
}  # fmt: skip
_GAP = 65536  # bytes: what lies between two rows is read along where asking twice takes longer


class TornFileError(Exception):
    """The file is not a whole safetensors file, or lacks what is asked for."""


def read_metadata(path: Path) -> dict[str, str]:
    """Return what was recorded in the file beside its tensors.

    Raises:
        TornFileError: see there.
    """
    with FileIO(path) as file:
        return dict(_header(file)[0].get("__metadata__") or {})


def read_rows(path: Path, tensor: str, rows: Sequence[int]) -> Float[np.ndarray, "rows width"]:
    """Return rows of a matrix in float32, in the order asked for.

    Raises:
        TornFileError: see there.
    """
    with FileIO(path) as file:
        header, start = _header(file)
        if tensor not in header:
            raise TornFileError(f"it contains no tensor {tensor}")
        height, width = header[tensor]["shape"]
        dtype = _DTYPES[header[tensor]["dtype"]]
        wanted = np.asarray(rows, dtype=np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < height:
            raise TornFileError(f"{tensor} has {height} rows, and row {wanted.max()} is asked for")
        found = np.empty((wanted.size, width), dtype=np.float32)
        size = max(width * dtype.itemsize, 1)  # bytes of a row
        start += header[tensor]["data_offsets"][0]
        for run in runs_of(wanted, _GAP // size):
            raw = _read(file, start + run.start * size, len(run) * size)
            block = torch.frombuffer(raw, dtype=dtype).view(len(run), width)
            here = (wanted >= run.start) & (wanted < run.stop)
            found[here] = block[torch.from_numpy(wanted[here] - run.start)].float().numpy()
    return found


def runs_of(rows: Int[np.ndarray, " rows"], gap: int) -> list[range]:
    """Return ranges that cover the rows, in order; one spans what has at most `gap` rows between.

    >>> runs_of(np.array([8, 0, 1, 2, 9, 13]), gap=2)
    [range(0, 3), range(8, 10), range(13, 14)]
    """
    ordered = np.unique(rows)
    cuts = np.flatnonzero(np.diff(ordered) > gap + 1) + 1
    return [range(int(p[0]), int(p[-1]) + 1) for p in np.split(ordered, cuts) if p.size]


def _header(file: FileIO) -> tuple[dict[str, Any], int]:
    """Return the header, and where the tensors begin; see that the file is as long as they are."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
    total = os.fstat(file.fileno()).st_size
    length = int.from_bytes(_read(file, 0, 8), "little")
    if 8 + length > total:
        raise TornFileError(f"its header is {length} bytes long, and the file {total}")
    try:
        header: dict[str, Any] = json.loads(bytes(_read(file, 8, length)))
    except ValueError as error:
        raise TornFileError(f"its header cannot be read: {error}") from error
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if 8 + length + max(ends, default=0) != total:
        raise TornFileError("it is not as long as its tensors")
    return header, 8 + length


def _read(file: FileIO, offset: int, size: int) -> bytearray:
    raw = bytearray(size)
    file.seek(offset)
    done = 0
    while done < size:  # one call reads 2 GB at most
        n = file.readinto(memoryview(raw)[done:])
        if not n:
            raise TornFileError(f"it ends before byte {offset + size}")
        done += n
    return raw
