"""Golds and verdicts of imported rollouts: graded again, or the file's own labels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.problems.golds import bare_gold
from geomrl.problems.nested import plain
from geomrl.progress import Progress
from geomrl.runs.rollouts import grade_columns
from geomrl.verify.verifier import Grade, Verifier

_TRUE = {True, "1", "true", "correct", "right", "yes"}
_FALSE = {False, -1, -1.0, "0", "-1", "false", "incorrect", "wrong", "no"}


def graded_rows(
    rows: pd.DataFrame,
    verifier: Verifier,
    columns: Mapping[str, str],
    keep_labels: bool,
    path: Path,
    progress: Progress | None,
) -> pd.DataFrame:
    """Fill in gold and verdict."""
    worked = columns.get("gold", "").rpartition(".")[2] == "solution"
    if "gold" in rows:
        golds = [bare_gold(plain(gold), worked=worked) for gold in rows["gold"]]
        rows = rows.assign(
            gold=pd.Series([gold or None for gold in golds], index=rows.index, dtype=object)
        )
    if keep_labels:
        return rows.assign(**grade_columns(_labelled(rows, verifier, path)))
    if "gold" not in rows or rows["gold"].isna().any():
        raise GeomrlError(_no_gold(rows, columns, path))
    tick = partial(_tell, progress, len(rows)) if progress else None
    grades = verifier.grade(rows["response"].tolist(), rows["gold"].tolist(), tick)
    return rows.assign(**grade_columns(grades))


def _no_gold(rows: pd.DataFrame, columns: Mapping[str, str], path: Path) -> str:
    cure = "name its column with --column gold=NAME, or keep the file's own verdicts with --keep-labels"
    if "gold" not in rows:
        return f"{path}, row 1: no gold answer to grade against; {cure}"
    lacking = rows.loc[rows["gold"].isna(), "row"]
    return (
        f"{path}, row {lacking.iloc[0]}: no gold answer to grade against ('{columns['gold']}' holds none "
        f"in {lacking.nunique()} of {rows['row'].nunique()} rows); fill it in, drop these rows, {cure}"
    )


def _tell(progress: Progress, total: int, done: int) -> None:
    progress(done, total)


def _labelled(rows: pd.DataFrame, verifier: Verifier, path: Path) -> list[Grade]:
    """Turn the file's labels into grades; a wrong response without a closed marker is no answer."""
    if "label" not in rows:
        raise GeomrlError(
            f"{path}: --keep-labels, but no label column; name it with --column label=NAME"
        )
    grades = []
    for row, response, label in zip(rows["row"], rows["response"], rows["label"], strict=True):
        value = label.lower() if isinstance(label, str) else plain(label)
        if isinstance(value, list | dict) or (value not in _TRUE and value not in _FALSE):
            raise GeomrlError(
                f"{path}, row {row}: label {label!r} is neither right (1, true, correct) nor wrong "
                "(0, -1, false, wrong); map it first, or grade again without --keep-labels"
            )
        span = verifier.marker.find(response)
        answer = response[span.answer_start : span.answer_end].strip() if span else None
        if value in _TRUE:
            grades.append(Grade("correct", answer, "label"))
        else:
            grades.append(Grade("wrong" if span else "no_answer", answer, "label"))
    return grades
