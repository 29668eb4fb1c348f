"""Columns of files of other tools: which of them is the response, the prompt, the gold ...

Names are guessed among those that verl, TRL, lm-eval, vLLM scripts and notebooks write, or given; a
dotted name reaches into nested columns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.problems.nested import look_up, plain
from geomrl.rollout.imports.chats import as_chat, ends_with_answer

# Ours first, then the usual names; the first that the file has is taken. Of the golds the names that
# can mean nothing else come first: "answer" may be the model's, "solution" is a worked one.
GUESSES: dict[str, tuple[str, ...]] = {
    "response": ("response", "completion", "output", "generation", "resps", "responses",
                 "completions", "outputs", "generations", "generated_responses", "code"),
    "problem": ("problem", "question", "query", "instruction", "doc.problem", "doc.question"),
    "prompt": ("prompt", "input", "messages", "prompts", "arguments.gen_args_0.arg_0",
               "arguments.0.0"),
    "gold": ("gold", "gold_answer", "ground_truth", "gt", "gts", "expected_answer", "target",
             "reference_answer", "answer", "reward_model.ground_truth", "doc.answer", "solution"),
    "label": ("label", "correct", "is_correct", "acc", "symbolic_correct", "score", "reward"),
    "problem_id": ("problem_id", "gold_id", "id", "doc_id", "uid", "unique_id", "example_id",
                   "prompt_idx", "index"),
    "sample": ("sample", "sample_id", "rollout", "trial"),
    "benchmark": ("benchmark", "bench", "dataset", "data_source"),
    "policy": ("policy", "model", "model_name"),
    "policy_step": ("policy_step", "step", "global_step"),
    "prompt_ids": ("prompt_ids", "prompt_token_ids", "prompt_tokens"),
    "response_ids": ("response_ids", "response_token_ids", "token_ids", "completion_ids",
                     "response_tokens"),
    "finish_reason": ("finish_reason", "finish_reasons"),
}  # fmt: skip


def select(raw: pd.DataFrame, where: Mapping[str, str], path: Path) -> pd.DataFrame:
    """Return the rows whose columns have these values.

    Raises:
        GeomrlError: there is no such column, or no such row.
    """
    for column, value in where.items():
        cells = column_of(raw, column)
        if cells is None:
            raise GeomrlError(f"{path}: --where names column '{column}'; it has {_listed(raw)}")
        texts = cells.astype(str)
        if not (texts == value).any():
            some = ", ".join(sorted(texts.unique())[:8])
            raise GeomrlError(f"{path}: no row has {column} = '{value}'; there is {some}")
        raw = raw[texts == value]
    return raw.reset_index(drop=True)


def column_of(raw: pd.DataFrame, name: str) -> pd.Series | None:
    """Return a column by its name, or what is at a dotted path in each row; None without any."""
    if name in raw:
        return raw[name]
    first, dot, rest = name.partition(".")
    if not dot or first not in raw:
        return None
    found = raw[first].map(lambda value: look_up(plain(value), rest)).astype(object)
    return None if found.isna().all() else found


def _listed(raw: pd.DataFrame) -> str:
    return ", ".join(name for name in map(str, raw.columns) if not name.startswith("geomrl:"))


def match_columns(raw: pd.DataFrame, given: Mapping[str, str], path: Path) -> dict[str, str]:
    """Return ours -> the file's column names, guessed where they are not given.

    An empty name says that the file has no such column, whatever it looks like.

    Raises:
        GeomrlError: a column is unknown or missing.
    """
    for ours, theirs in given.items():
        if ours not in GUESSES:
            raise GeomrlError(f"--column {ours}=...: unknown; use one of {', '.join(GUESSES)}")
        if theirs and column_of(raw, theirs) is None:
            raise GeomrlError(f"{path}: --column names '{theirs}'; the file has {_listed(raw)}")
    guessed = {
        ours: next((name for name in names if _fits(raw, ours, name)), None)
        for ours, names in GUESSES.items()
    }
    columns = {ours: name for ours, name in guessed.items() if name is not None} | dict(given)
    columns = {ours: name for ours, name in columns.items() if name}
    if not {"response", "response_ids"} & set(columns) and not _answers_in_prompt(raw, columns):
        raise GeomrlError(
            f"{path}: no column with the responses (columns: {_listed(raw)}); "
            "name it with --column response=NAME (OUTER.INNER reaches into a nested one)"
        )
    if not {"problem", "prompt", "prompt_ids"} & set(columns):
        raise GeomrlError(
            f"{path}: no column with the problem or prompt (columns: {_listed(raw)}); name it with "
            "--column problem=NAME (a statement) or --column prompt=NAME (the whole prompt); "
            "OUTER.INNER reaches into a nested one"
        )
    return columns


def _fits(raw: pd.DataFrame, ours: str, name: str) -> bool:
    """Say whether a column may be guessed: there is one, and token ids are lists, no counts."""
    cells = column_of(raw, name)
    if cells is None or not ours.endswith("_ids"):
        return cells is not None
    return all(is_list(value) for value in cells.dropna())


def check_graded(raw: pd.DataFrame, columns: Mapping[str, str], path: Path, labels: bool) -> None:
    """Refuse a file without a gold answer, or with `labels` one without verdicts.

    Raises:
        GeomrlError: it has none.
    """
    if labels and "label" not in columns:
        raise GeomrlError(
            f"{path}: no column with verdicts (columns: {_listed(raw)}); name it with --column "
            "label=NAME: 1 or true is right, 0, -1 or false is wrong"
        )
    if not labels and "gold" not in columns:
        raise GeomrlError(
            f"{path}, row 1: no gold answer to grade against (columns: {_listed(raw)}); name its column "
            "with --column gold=NAME, or keep the file's own verdicts with --keep-labels"
            + ("" if "label" in columns else " --column label=NAME")
        )


def _answers_in_prompt(raw: pd.DataFrame, columns: Mapping[str, str]) -> bool:
    """Say whether the prompts are chats that end with the response."""
    cells = column_of(raw, columns["prompt"]) if "prompt" in columns else None
    chat = None if cells is None else as_chat(cells.iloc[0])
    return chat is not None and ends_with_answer(chat)


def is_list(value: Any) -> bool:
    """Say whether a cell contains a list, or an array of parquet's."""
    return not isinstance(value, (str, dict)) and hasattr(value, "__len__")


def as_key(value: Any) -> str:
    """Return a text as it is and anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(plain(value), sort_keys=True)
