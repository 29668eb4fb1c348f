"""Problems from rows: local JSONL and parquet files, and the rows of hub datasets.

Only data is read: no pickles, no dataset scripts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from geomrl.errors import GeomrlError
from geomrl.files import read_json_lines, read_parquet
from geomrl.problems.golds import bare_gold
from geomrl.problems.nested import look_up, plain
from geomrl.problems.problem import Problem

# Tried in this order, in lower case. `solution` comes last: where there is also an answer, it is
# a worked solution.
COLUMN_NAMES = {
    "statement": ("problem", "statement", "question", "prompt"),
    "gold": (
        "answer",
        "gold",
        "final_answer",
        "expected_answer",
        "gold_answer",
        "ground_truth",
        "gt",
        "target",
        "reward_model.ground_truth",
        "solution",
    ),
    "id": ("problem_id", "id", "unique_id", "uid", "problem_idx", "extra_info.index", "index"),
}
_NEEDED = {"statement": "the problem's text", "gold": "the gold answer"}

# The instruction that DAPO-Math-17k wraps around every statement.
_DAPO_WRAPPER = re.compile(
    r"^Solve the following math problem step by step\..*?\n\n(?P<statement>.*)\n\n"
    r'Remember to put your answer on its own line after "Answer:"\.\s*$',
    re.DOTALL,
)


def read_problems(
    path: Path, benchmark: str, columns: Mapping[str, str] | None = None
) -> list[Problem]:
    """Read a `.jsonl` or `.parquet` file, one problem a row.

    Raises:
        GeomrlError: the file is missing, torn or empty; a column is missing; an answer is empty;
            or an id occurs twice. The message names the file and the line.
    """
    return problems_of(file_rows(path), benchmark, str(path), columns)


def file_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return an iterator over the ("FILE, row N", row) of a `.jsonl` or `.parquet` file.

    Raises:
        GeomrlError: there is no such file, or (while it is read) it is torn.
    """
    if not path.exists():
        raise GeomrlError(f"{path}: no such file; check the path")
    return read_json_lines(path) if path.suffix == ".jsonl" else _parquet_rows(path)


def problems_of(
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    benchmark: str,
    source: str,
    columns: Mapping[str, str] | None = None,
    *,
    repeats: bool = False,
) -> list[Problem]:
    """Turn (place, row) pairs into problems; `place` names the row in error messages.

    With `repeats`, for training sets that contain their rows many times, a row whose statement and
    answer are in an earlier one gives that one's problem again, and ids may occur twice.
    """
    known: dict[tuple[str, str], Problem] = {}
    problems: list[Problem] = []
    places: dict[str, str] = {}
    names: dict[str, str] | None = None
    for place, row in rows:
        names = names or _resolve_columns(row, columns or {}, place)
        if repeats:
            cells = (str(look_up(row, names["statement"])), str(look_up(row, names["gold"])))
            if cells not in known:
                known[cells] = _problem_of(row, names, benchmark, place, number=len(problems))
            problems.append(known[cells])
            continue
        problem = _problem_of(row, names, benchmark, place, number=len(problems))
        if problem.problem_id in places:
            raise GeomrlError(
                f"{place}: the id '{problem.problem_id}' was already used at"
                f" {places[problem.problem_id]}, and rollouts could not be told apart; give each"
                " problem its own id, or map `id` to another column"
            )
        places[problem.problem_id] = place
        problems.append(problem)
    if not problems:
        raise GeomrlError(f"{source}: holds no rows; write at least one problem into it")
    return problems


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in enumerate(read_parquet(path).to_dict("records")):
        yield f"{path}, row {number}", {str(key): plain(value) for key, value in row.items()}


def _resolve_columns(
    row: Mapping[str, Any], columns: Mapping[str, str], place: str
) -> dict[str, str]:
    unknown = set(columns) - set(COLUMN_NAMES)
    if unknown:
        raise GeomrlError(
            f"columns {sorted(unknown)} are not known: map only {sorted(COLUMN_NAMES)}"
        )
    by_lower_case = {key.lower(): key for key in row}
    names: dict[str, str] = {}
    for role, candidates in COLUMN_NAMES.items():
        if role in columns:
            names[role] = columns[role]
            continue
        for candidate in candidates:
            first, dot, rest = candidate.partition(".")
            name = by_lower_case.get(first, first) + dot + rest
            if look_up(row, name) is not None or (not dot and name in row):
                names[role] = name
                break
    for role, meaning in _NEEDED.items():
        if role not in names or (role in columns and not _has(row, names[role])):
            tried = columns.get(role) or ", ".join(COLUMN_NAMES[role])
            raise GeomrlError(
                f"{place}: no column with {meaning} (tried {tried}; found"
                f" {', '.join(map(str, row))}); name it, as in columns={{'{role}': 'COLUMN'}}"
            )
    return names


def _has(row: Mapping[str, Any], name: str) -> bool:
    first, _, rest = name.partition(".")
    return name in row or (first in row and (not rest or look_up(row, name) is not None))


def _problem_of(
    row: Mapping[str, Any], names: Mapping[str, str], benchmark: str, place: str, number: int
) -> Problem:
    statement = statement_of(look_up(row, names["statement"]))
    if not statement:
        raise GeomrlError(
            f"{place}: the column '{names['statement']}' is empty; fill it in or drop the row"
        )
    gold = bare_gold(look_up(row, names["gold"]), worked=names["gold"].lower() == "solution")
    if not gold:
        raise GeomrlError(
            f"{place}: the column '{names['gold']}' holds no answer; a problem without a gold"
            " answer cannot be graded: fill it in or drop the row"
        )
    identity = look_up(row, names["id"]) if "id" in names else None
    problem_id = f"{benchmark}-{number}" if identity is None else str(identity)
    used = {name.partition(".")[0] for name in names.values()}
    meta = {key: value for key, value in row.items() if key not in used}
    return Problem(problem_id, benchmark, statement, gold, meta=meta)


def statement_of(value: Any) -> str:
    """Return a text, or the last user message of a chat; without the wrapper of DAPO's set."""
    if isinstance(value, list):
        users = [m for m in value if isinstance(m, Mapping) and m.get("role") == "user"]
        value = users[-1].get("content") if users else None
    text = "" if value is None else str(value).strip()
    wrapped = _DAPO_WRAPPER.match(text)
    return wrapped["statement"].strip() if wrapped else text
