"""What a rollout format is: a tool's layout of files, recognised by its columns and made flat."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from geomrl.progress import Say


def as_written(raw: pd.DataFrame, say: Say) -> pd.DataFrame:
    """Return the rows as they are."""
    return raw


def all_rows(rows: pd.DataFrame, path: Path, say: Say) -> pd.DataFrame:
    """Return every row."""
    return rows


def alone(path: Path) -> list[Path]:
    """Return no other file."""
    return []


@dataclass(frozen=True, kw_only=True)
class Format:
    """One tool's files.

    tool: its name; None: none in particular. files: what they are called. signatures: sets of
    columns; a file whose rows have all of one set is the tool's. flat: called with the rows of all
    files, as they are written, and `say`; returns them with columns of usual names beside
    (`columns.GUESSES`; those in common, the first of each, are prompt, problem, response, gold ...).
    distinct: called with the rows that are wanted, the path and `say`; returns them without repeats.
    beside: called with a file, returns files that belong to it. texts: what a prompt is that is a text
    and shows no sign of the chat template: "sampled", what was sampled from; "question", a user's turn;
    "stripped", a text that has lost its special tokens.
    """

    tool: str | None
    files: str
    signatures: tuple[frozenset[str], ...]
    flat: Callable[[pd.DataFrame, Say], pd.DataFrame] = as_written
    distinct: Callable[[pd.DataFrame, Path, Say], pd.DataFrame] = all_rows
    beside: Callable[[Path], list[Path]] = alone
    texts: Literal["sampled", "question", "stripped"] = "stripped"

    def matches(self, columns: Collection[str]) -> bool:
        """Say whether a file whose first row has these columns is of this format."""
        return any(signature <= set(columns) for signature in self.signatures)


def signature(*columns: str) -> frozenset[str]:
    """Return columns as a signature."""
    return frozenset(columns)
