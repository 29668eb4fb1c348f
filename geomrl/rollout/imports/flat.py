"""The toolkit of the formats: nested and folded rows become flat columns of usual names."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.problems.nested import look_up, plain
from geomrl.progress import Say
from geomrl.rollout.imports.columns import as_key
from geomrl.rollout.imports.files import FILE, ROW

NO_VERDICT = ("advantage", "advantages", "entropy", "step", "prompt", "completion")
_SAYS_RIGHT = re.compile(r"acc|correct|right|solved|verif|math|answer|match", re.IGNORECASE)


def mapped(raw: pd.DataFrame, row: Callable[[dict[str, Any]], Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows with the columns that `row` makes of each; a column of None alone is left out.

    Args:
        raw: the rows.
        row: called with a row in plain Python's types; returns column -> cell.

    Raises:
        GeomrlError: a row has not the tool's layout.
    """
    made = [_made(row, plain(record)) for record in raw.to_dict("records")]
    names = dict.fromkeys(name for each in made for name in each)
    columns = {name: [each.get(name) for each in made] for name in names}
    filled = {
        name: pd.Series(cells, index=raw.index, dtype=object)
        for name, cells in columns.items()
        if any(cell is not None for cell in cells)
    }
    empty = [name for name in columns if name not in filled and name in raw]
    return raw.drop(columns=empty).assign(**filled)


def _made(
    row: Callable[[dict[str, Any]], Mapping[str, Any]], record: dict[str, Any]
) -> Mapping[str, Any]:
    try:
        return row(record)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise GeomrlError(
            f"{record[FILE]}, row {record[ROW]}: is not as its tool writes it ({type(error).__name__}: "
            f"{error}); name columns of your own with --format FILE.py:FUNCTION"
        ) from error


def first_at(row: Mapping[str, Any], *paths: str) -> Any:
    """Return what is at the first dotted path where there is something; None without any.

    >>> first_at({"task": {"data": {"answer": "4"}}}, "task.gold", "task.data.answer")
    '4'
    """
    return next((found for path in paths if (found := look_up(row, path)) is not None), None)


def unfolded(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return a row for each item of the lists in these columns, which have the same length in a row."""
    present = [name for name in names if name in rows]
    lists = rows.assign(**{name: rows[name].map(plain) for name in present})
    sizes = [
        lists[name].map(lambda cell: len(cell) if isinstance(cell, list) else 1) for name in present
    ]
    if any((each != sizes[0]).any() for each in sizes):
        raise GeomrlError(
            f"{rows[FILE].iloc[0]}: lists that belong together ({', '.join(present)}) have different "
            "lengths; leave one of them aside with --format FILE.py:FUNCTION"
        )
    return lists.explode(present, ignore_index=True)


def without(rows: pd.DataFrame, left_out: pd.Series, why: str, say: Say) -> pd.DataFrame:
    """Return the rows that can be read, and say how many cannot, and why.

    Raises:
        GeomrlError: none can.
    """
    if not left_out.any():
        return rows
    if left_out.all():
        raise GeomrlError(f"{rows[FILE].iloc[0]}: none of its {len(rows)} rows can be read: {why}")
    say(f"note: {_where(rows)}: {left_out.sum()} of {len(rows)} rows are left out: {why}")
    return rows[~left_out].reset_index(drop=True)


def _where(rows: pd.DataFrame) -> str:
    files = rows[FILE].unique()
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


def one_of_alternatives(golds: Any) -> Any:
    """Return the first of several gold answers of which each is right.

    >>> one_of_alternatives(["1/2", "0.5"]), one_of_alternatives("7")
    ('1/2', '7')
    """
    return golds[0] if isinstance(golds, list) and golds else golds


def message(content: Any, reasoning: Any = None) -> list[dict[str, Any]]:
    """Return a response as a turn of the assistant; its reasoning, if apart, is rejoined later."""
    return [{"role": "assistant", "content": content, "reasoning_content": reasoning}]


def asked(text: str) -> list[dict[str, Any]]:
    """Return a question as a user's turn."""
    return [{"role": "user", "content": text}]


def verdict_column(raw: pd.DataFrame, others: Collection[str] = NO_VERDICT) -> str | None:
    """Return the one column of rewards that says right or wrong; None where that is not certain.

    That is a column of nothing but 0 and 1 (or -1): the only one, or the only one that is named so.
    """
    found = [
        str(name) for name in raw
        if name not in others and not str(name).startswith("geomrl:") and _is_verdict(raw[name])
    ]  # fmt: skip
    named = [name for name in found if _SAYS_RIGHT.search(name)]
    best = named if len(found) > 1 else found
    return best[0] if len(best) == 1 else None


def with_verdict(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the reward that says right or wrong as their label, where there is one."""
    name = verdict_column(rows)
    return rows if name is None else rows.assign(label=rows[name])


def _is_verdict(cells: pd.Series) -> bool:
    values = cells.dropna()
    return len(values) > 0 and all(
        isinstance(value, int | float) and value in (0, 1, -1) for value in map(plain, values)
    )


def without_repeated_steps(rows: pd.DataFrame, path: Path, say: Say) -> pd.DataFrame:
    """Return the rows without steps at which a trainer logged the rollouts of an earlier one again.

    A trainer that takes several optimizer steps on one batch of rollouts logs it at each of them.
    """
    if "step" not in rows:
        return rows
    seen: set[tuple[str, ...]] = set()
    repeated = []
    steps = rows["step"].map(as_key)
    for step, part in rows.groupby(steps, sort=False):
        keys = part["prompt"].map(as_key) + "\x1f" + part["completion"].map(as_key)
        batch = tuple(sorted(keys))
        if batch in seen:
            repeated.append(step)
        seen.add(batch)
    if not repeated:
        return rows
    say(
        f"note: {path}: the rollouts of {len(repeated)} steps ({', '.join(map(str, repeated[:4]))}) are "
        "those of an earlier one, logged again; they are left out"
    )
    return rows[~steps.isin(repeated)].reset_index(drop=True)
