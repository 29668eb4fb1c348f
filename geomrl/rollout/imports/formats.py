"""Formats of other tools' files, one module each; or one of the user's, by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.files import load_user_function
from geomrl.progress import Say
from geomrl.rollout.imports import (
    by_column,
    evalscope,
    every_eval_ever,
    inspect_ai,
    lighteval,
    lm_eval,
    ms_swift,
    nemo_skills,
    open_instruct,
    opencompass,
    prime_rl,
    skythought,
    trl,
    verifiers,
    verl,
)
from geomrl.rollout.imports.columns import GUESSES, match_columns, select
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.imports.files import (
    ASKED,
    FILE,
    SAID,
    column_names,
    files_hash,
    named_files,
    read_files,
)
from geomrl.rollout.imports.format import Format

FORMATS: tuple[Format, ...] = (
    lm_eval.FORMAT,
    verl.FORMAT,
    trl.FORMAT,
    ms_swift.FORMAT,
    open_instruct.FORMAT,
    prime_rl.FORMAT,
    verifiers.FORMAT,
    inspect_ai.FORMAT,
    nemo_skills.FORMAT,
    evalscope.FORMAT,
    opencompass.FORMAT,
    lighteval.FORMAT,
    skythought.FORMAT,
    every_eval_ever.FORMAT,
    by_column.FORMAT,
)
"""In the order in which they are tried; the last one takes every file."""


@dataclass(frozen=True)
class Opened:
    """Rows that are wanted, a problem or a response each; ours -> their columns; the file's format."""

    rows: pd.DataFrame
    columns: dict[str, str]
    format: Format


def opened(path: Path, config: ImportConfig, say: Say) -> Opened:
    """Return what a file, a folder or a pattern of files contains.

    Raises:
        GeomrlError: a file cannot be read, files of several tools are mixed, or a column is missing.
    """
    if config.format is not None:
        rows = select(_own_rows(config.format, path, config, say), config.where, path)
        return Opened(rows, match_columns(rows, config.columns, path), by_column.FORMAT)
    chosen, files = recognised(path)
    beside = [other for file in files for other in chosen.beside(file) if other not in files]
    rows = chosen.flat(read_files([*files, *beside]), say)
    if path not in files:
        _tell_files(chosen, files, path, say)
        rows = _named_by_folder(rows, path)
    rows = chosen.distinct(select(rows, config.where, path), path, say)
    return Opened(rows, match_columns(rows, config.columns, path), chosen)


def with_texts_alone(found: Opened) -> Opened:
    """Return the same without token ids, where the messages stand beside them."""
    if SAID not in found.rows or "response_ids" not in found.columns:
        return found
    others = {k: v for k, v in found.columns.items() if k not in ("prompt_ids", "response_ids")}
    return replace(found, columns={**others, "prompt": ASKED, "response": SAID})


def recognised(path: Path) -> tuple[Format, list[Path]]:
    """Return the format of what a path names, and the files that have it.

    In a folder other files are passed over: those of no tool where some are a tool's.

    Raises:
        GeomrlError: there is no file of rollouts, or there are files of several tools.
    """
    files = named_files(path)
    if files == [path]:
        return _format_of(column_names(path)), files
    found: dict[str | None, tuple[Format, list[Path]]] = {}
    for file in files:
        names = _columns_if_any(file)
        each = _format_of(names)
        if each.tool is not None or _looks_like_rollouts(names):
            found.setdefault(each.tool, (each, []))[1].append(file)
    tools = [tool for tool in found if tool is not None]
    if not found:
        raise GeomrlError(
            f"{path}: none of its {len(files)} files holds rollouts that geomrl recognises; give one of "
            "them, and name its columns (--column response=NAME)"
        )
    if len(tools) > 1:
        raise GeomrlError(
            f"{path}: holds files of several tools ({', '.join(tools)}); give the folder of one of them"
        )
    return found[tools[0] if tools else None]


def content_hash(path: Path, config: ImportConfig) -> str:
    """Return the hash of the content of what an import reads.

    Raises:
        GeomrlError: as `recognised`.
    """
    if config.format is None:
        return files_hash(recognised(path)[1], path)
    inside = sorted(each for each in path.rglob("*") if each.is_file())
    return files_hash(inside or named_files(path), path)


def _format_of(columns: Collection[str]) -> Format:
    return next(each for each in FORMATS if each.matches(columns))


def _columns_if_any(file: Path) -> frozenset[str]:
    try:
        return column_names(file)
    except GeomrlError:
        return frozenset()  # settings, metrics: no rows at all


def _looks_like_rollouts(columns: Collection[str]) -> bool:
    return all(
        any(name in columns for role in roles for name in GUESSES[role])
        for roles in (("response", "response_ids"), ("prompt", "problem", "prompt_ids"))
    )


def _tell_files(chosen: Format, files: list[Path], path: Path, say: Say) -> None:
    names = ", ".join(file.name for file in files[:4]) + (" ..." if len(files) > 4 else "")
    say(f"note: {path}: {len(files)} files of {chosen.tool or 'rollouts'} are read: {names}")


def _named_by_folder(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Name the benchmark of several files, where none is named, and the policy by their folders."""
    name = path.name if path.is_dir() else path.parent.name
    if "benchmark" not in rows:
        rows = rows.assign(benchmark=name or "rollouts")
    folders = rows[FILE].map(lambda file: Path(file).parent)
    if folders.nunique() == 1 or any(known in rows for known in GUESSES["policy"]):
        return rows
    whose = [str(each.relative_to(path)) if path.is_dir() else str(each) for each in folders]
    return rows.assign(policy=whose)


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
