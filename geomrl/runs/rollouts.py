"""The rollout table: one row a sampled response, with all that later steps need to know of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from geomrl.errors import GeomrlError
from geomrl.files import read_parquet, text_hash, write_parquet
from geomrl.verify.verifier import Grade, Verifier

SCHEMA = pa.schema(
    [
        ("rollout_id", pa.string()),
        ("benchmark", pa.string()),
        ("problem_id", pa.string()),
        ("sample", pa.int32()),
        ("problem", pa.string()),
        ("prompt", pa.string()),
        ("prompt_kind", pa.string()),  # raw, templated or messages
        ("template", pa.string()),
        ("system", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("response", pa.string()),
        ("response_ids", pa.list_(pa.int32())),
        ("token_source", pa.string()),  # generated, given or re-tokenised
        ("finish_reason", pa.string()),
        ("logprobs", pa.list_(pa.float32())),  # of the drawn tokens, natural logarithm
        ("temperature", pa.float64()),
        ("top_p", pa.float64()),
        ("top_k", pa.int32()),
        ("max_tokens", pa.int32()),
        ("seed", pa.int64()),
        ("policy", pa.string()),
        ("policy_hash", pa.string()),
        ("policy_step", pa.int64()),
        ("gold", pa.string()),
        ("answer", pa.string()),
        ("answer_class", pa.int64()),  # within the problem; 0 is the correct class
        ("verdict", pa.string()),
        ("verdict_reason", pa.string()),
    ]
)
COLUMNS = tuple(SCHEMA.names)


def rollout_id(benchmark: str, problem_id: str, sample: int) -> str:
    """Return the id under which a rollout's states are kept."""
    return f"{benchmark}/{problem_id}/{sample}"


def write_rollouts(path: Path, rollouts: pd.DataFrame) -> None:
    """Write a rollout table with the fixed schema, atomically; absent columns become null."""
    write_parquet(path, rollouts, SCHEMA)


def read_rollouts(path: Path) -> pd.DataFrame:
    """Read a rollout table.

    Raises:
        GeomrlError: the file is torn, empty, lacks a column, or names a rollout twice.
    """
    rollouts = read_parquet(path)
    missing = [column for column in COLUMNS if column not in rollouts]
    if missing:
        raise GeomrlError(
            f"{path}: not a geomrl rollout table, it lacks {', '.join(missing)}; "
            "bring rollouts of another tool in with --rollouts FILE or `geomrl rollout --import FILE`"
        )
    if rollouts.empty:
        raise GeomrlError(f"{path}: holds no rollouts; delete it and run again")
    twice = rollouts["rollout_id"][rollouts["rollout_id"].duplicated()]
    if len(twice):
        raise GeomrlError(
            f"{path}: rollout_id '{twice.iloc[0]}' stands there twice; ids must be unique"
        )
    return rollouts.astype({"answer_class": "Int64", "policy_step": "Int64"})


def with_answer_classes(rollouts: pd.DataFrame, verifier: Verifier) -> pd.DataFrame:
    """Return the table with `answer_class` filled in, problem by problem."""
    classes = pd.Series(pd.NA, index=rollouts.index, dtype="Int64")
    for _, group in rollouts.groupby(["benchmark", "problem_id"], sort=False):
        grades = [
            Grade(verdict, answer if isinstance(answer, str) else None)
            for verdict, answer in zip(group["verdict"], group["answer"], strict=True)
        ]
        found = verifier.answer_classes(grades)
        classes.loc[group.index] = pd.array(found, dtype="Int64")
    return rollouts.assign(answer_class=classes)


def grade_columns(grades: Sequence[Grade]) -> dict[str, Any]:
    """Return grades as the table's columns."""
    return {
        "verdict": [grade.verdict for grade in grades],
        "answer": [grade.answer for grade in grades],
        "verdict_reason": [grade.reason for grade in grades],
    }


def labels_hash(rollouts: pd.DataFrame) -> str:
    """Return a hash of verdict, answer class and gold by rollout, which analyses of states go by."""
    labels = rollouts[["rollout_id", "verdict", "answer_class", "gold"]]
    return columns_hash(labels)


def columns_hash(frame: pd.DataFrame) -> str:
    """Return a hash of a table's cells, in order; what is missing counts as missing, of any type."""
    cells = frame.astype(object).where(frame.notna(), "\x00")
    return text_hash(*("\x1e".join(map(str, row)) for row in cells.itertuples(index=False)))


def problem_keys(rows: pd.DataFrame) -> pd.Series:
    """Return "benchmark/problem_id": ids are unique within a benchmark only."""
    return rows["benchmark"].astype(str) + "/" + rows["problem_id"].astype(str)
