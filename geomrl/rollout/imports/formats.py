"""Formats of other tools' files, one module each; or one of the user's, by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.files import load_user_function
from geomrl.progress import Say
from geomrl.rollout.imports import by_column, lm_eval
from geomrl.rollout.imports.columns import match_columns, select
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.imports.files import column_names


class Format(Protocol):
    """A module with two functions."""

    def matches(self, columns: Collection[str]) -> bool:
        """Say whether a file whose first row has these columns is of this format."""
        ...

    def read(self, path: Path, config: ImportConfig, say: Say) -> pd.DataFrame:
        """Return the rows that `config.where` wants, a problem or a response each.

        Their columns have names that are guessed (`columns.GUESSES`); those in common, the first of
        each, are prompt, problem, response, gold, label, problem_id, sample ...

        Args:
            path: of the file.
            config: how to read it.
            say: called with a line about what was mended or left out.
        """
        ...


FORMATS: tuple[Format, ...] = (lm_eval, by_column)
"""In the order in which they are tried; the last one takes every file."""


def opened(path: Path, config: ImportConfig, say: Say) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the file's rows that are wanted, and ours -> its columns.

    Raises:
        GeomrlError: the file cannot be read, or a column is missing.
    """
    if config.format is None:
        names = column_names(path)
        chosen = next(each for each in FORMATS if each.matches(names))
        rows = chosen.read(path, config, say)
    else:
        rows = select(_own_rows(config.format, path, config, say), config.where, path)
    return rows, match_columns(rows, config.columns, path)


def _own_rows(name: str, path: Path, config: ImportConfig, say: Say) -> pd.DataFrame:
    """Read a file with a function of the user's, which may return dictionaries, too."""
    read = load_user_function(name, "a rollout format", "(path, config, say) and returns rows")
    found = read(path, config, say)
    rows = found if isinstance(found, pd.DataFrame) else pd.DataFrame(_dictionaries(found, name))
    if rows.empty:
        raise GeomrlError(f"{path}: {name} returns no rollouts of it; is the file of this format?")
    return rows.reset_index(drop=True)


def _dictionaries(found: Any, name: str) -> list[Mapping[str, Any]]:
    rows = list(found) if isinstance(found, Iterable) else [found]
    for row in rows:
        if not isinstance(row, Mapping):
            raise GeomrlError(
                f"{name}: returns {type(row).__name__} where a row belongs; return a pandas table, or"
                " one dictionary a row, with prompt, response and gold"
            )
    return rows
