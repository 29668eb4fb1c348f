"""What a checkpoint's files are: `complete.json`, and whether they still are as they were written.

Each rank fingerprints the files that it wrote, and rank 0 writes them all into `complete.json`, last.
A folder without that record was cut off; one in which a file differs from it is damaged.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from geomrl.errors import GeomrlError
from geomrl.files import file_hash, read_json

COMPLETE = "complete.json"
MODEL = "model/"
"""The plain Hugging Face folder in a checkpoint, which no training reads again."""

_OWNER = re.compile(r"(?:pp_rank_|random-)(\d+)")

Names = Callable[[str], bool]


def everything(name: str) -> bool:
    """Say of each file that it matters."""
    return True


def for_training(name: str) -> bool:
    """Say whether a training needs this file of a checkpoint to resume."""
    return not name.startswith(MODEL)


def of_model(name: str) -> bool:
    """Say whether a file belongs to the plain Hugging Face folder."""
    return name.startswith(MODEL)


def owner(name: str) -> int:
    """Return the rank that writes a file.

    >>> owner("deepspeed/state/zero_pp_rank_3_mp_rank_00_optim_states.pt"), owner("trainer.json")
    (3, 0)
    """
    found = _OWNER.search(name)
    return int(found[1]) if found else 0


def random_file(rank: int) -> str:
    """Return the name of the file with a rank's random state."""
    return f"random-{rank:05d}.pt"


def fingerprints(folder: Path, rank: int) -> dict[str, dict[str, Any]]:
    """Return size and hash of each file that a rank wrote, after making sure of the disk."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name == COMPLETE or owner(name) != rank:
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
        found[name] = {"bytes": path.stat().st_size, "hash": file_hash(path)}
    return found


def damage(folder: Path, names: Names, share: tuple[int, int] = (0, 1)) -> str | None:
    """Return what is wrong with a checkpoint's files, in words; None where nothing is.

    Args:
        folder: the checkpoint.
        names: which of its files matter.
        share: (rank, ranks): each rank hashes its part of them.
    """
    record = folder / COMPLETE
    if not record.exists():
        return f"{COMPLETE} is missing"
    try:
        files: Mapping[str, Any] = read_json(record)
    except GeomrlError:
        return f"{COMPLETE} is not valid JSON"
    wanted = [name for name in sorted(files) if names(name)]
    rank, ranks = share
    found = (_difference(folder / name, name, files[name]) for name in wanted[rank::ranks])
    return next((fault for fault in found if fault), None)


def _difference(path: Path, name: str, known: Mapping[str, Any]) -> str | None:
    if not path.exists():
        return f"{name} is missing"
    there = path.stat().st_size
    if there != known["bytes"]:
        return f"{name} has {there} bytes, and {known['bytes']} were written"
    if file_hash(path) != known["hash"]:
        return f"{name} is not what was written (its hash differs)"
    return None


def absent_rank(files: Iterable[str], world: int) -> str | None:
    """Return which rank's files are not among a checkpoint's, in words; None where all ranks' are.

    Ranks that do not share a folder leave such a checkpoint: every file in it is whole.

    >>> absent_rank(["random-00000.pt", "trainer.json"], 2)
    'random-00001.pt of rank 1 was never written there'
    """
    files = list(files)
    split = any("pp_rank_" in name for name in files)
    for rank in range(world):
        theirs = [name for name in files if owner(name) == rank]
        if random_file(rank) not in theirs:
            return f"{random_file(rank)} of rank {rank} was never written there"
        if split and not any(f"pp_rank_{rank}_" in name for name in theirs):
            return f"the optimiser's part of rank {rank} was never written there"
    return None
