"""Rows of a file, parted: one response a row, under our names of columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.problems.nested import plain, text_paths
from geomrl.problems.rows import statement_of
from geomrl.progress import Say
from geomrl.rollout.imports.chats import (
    as_chat,
    ends_with_answer,
    keeps_reasoning_apart,
    sampled_text,
)
from geomrl.rollout.imports.columns import column_of, is_list
from geomrl.rollout.imports.files import FILE, ROW

_OF_A_RESPONSE = ("response", "response_ids", "label", "finish_reason")


def one_response_a_row(
    raw: pd.DataFrame,
    columns: Mapping[str, str],
    path: Path,
    *,
    labels: bool = False,
    say: Say = lambda line: None,
) -> pd.DataFrame:
    """Rename to our columns, and unfold rows that contain a list of responses (lm-eval nests twice).

    `row` is the row's number in the file, from 1, with the file's name where there are several;
    `rejoined` says that its reasoning was kept apart; a response that is known by its ids alone is null.

    Args:
        raw: the file's rows.
        columns: ours -> the file's.
        path: of the file, for messages.
        labels: whether the file's labels will be used: each response then needs one.
        say: called with how many responses were rejoined with their reasoning.

    Raises:
        GeomrlError: a response, or a problem, is no text.
    """
    rows = pd.DataFrame({ours: column_of(raw, name) for ours, name in columns.items()})
    rows = rows.assign(row=_places(raw), rejoined=False)
    if "response" not in rows and "response_ids" not in rows:
        rows = _split_chats(rows, path)
    if "problem" in rows:
        rows["problem"] = [
            _statement(value, f"{path}, row {row}", columns["problem"])
            for value, row in zip(rows["problem"], rows["row"], strict=True)
        ]
    if "response" not in rows:
        return rows.assign(response=None)
    apart = rows["response"].map(keeps_reasoning_apart)
    if apart.any():
        _tell_apart(int(apart.sum()), path, say)
    rows["rejoined"] = apart
    rows["response"] = [
        _plain_response(value, f"{path}, row {row}")
        for value, row in zip(rows["response"], rows["row"], strict=True)
    ]
    while any(isinstance(value, list) for value in rows["response"]):
        rows = _unfolded(rows, raw, path, labels)
    for row, value in zip(rows["row"], rows["response"], strict=True):
        if not isinstance(value, str):
            raise GeomrlError(no_text(value, f"{path}, row {row}", "response", columns["response"]))
    return rows


def _tell_apart(count: int, path: Path, say: Say) -> None:
    say(
        f"note: {path}: {count} rows keep the reasoning apart from the response; it is put back between "
        "<think> and </think>, which may differ from what was sampled in white space"
    )


def _places(raw: pd.DataFrame) -> list[Any]:
    """Return where each row is from: its number, with the file's name where there are several."""
    if ROW not in raw:
        return list(range(1, len(raw) + 1))
    if raw[FILE].nunique() < 2:
        return raw[ROW].tolist()
    return [f"{row} of {Path(file).name}" for row, file in zip(raw[ROW], raw[FILE], strict=True)]


def _plain_response(value: Any, place: str) -> Any:
    """Return a text, or a list of texts or lists; a chat becomes the text of its one answer."""
    value = plain(value)
    chat = as_chat(value)
    if chat is None:
        several = isinstance(value, list)
        if several and value and all(isinstance(each, int) for each in value):
            raise GeomrlError(
                f"{place}: its response is a list of numbers; if they are token ids, name the column with "
                "--column response_ids=NAME"
            )
        return [_plain_response(each, place) for each in value] if several else value
    turns = sum(message["role"] == "assistant" for message in chat)
    if turns > 1:
        raise GeomrlError(
            f"{place}: its response has {turns} turns of the assistant, between which others spoke; "
            "geomrl reads responses of one turn: leave such rows out"
        )
    return sampled_text(chat, place)


def _unfolded(rows: pd.DataFrame, raw: pd.DataFrame, path: Path, labels: bool) -> pd.DataFrame:
    """Take one level of lists apart, of responses and of what is in lists beside them."""
    lists = [isinstance(value, list) for value in rows["response"]]
    if not all(lists):
        raise GeomrlError(f"{path}: some rows hold one response and others a list; split them")
    sizes = rows["response"].map(len)
    several = [
        name for name in _OF_A_RESPONSE
        if name in rows and all(_length(v) == n for v, n in zip(rows[name], sizes, strict=True))
    ]  # fmt: skip
    alone = [name for name in _OF_A_RESPONSE if name in rows and name not in several]
    if (sizes > 1).any():
        if labels and "label" in alone:
            raise GeomrlError(_one_label(raw, sizes, path))
        rows = rows.drop(columns=alone)  # one for all of them says nothing of each
    rows = rows.assign(**{name: rows[name].map(plain) for name in several})
    return rows.explode(several, ignore_index=True)


def _length(value: Any) -> int | None:
    return len(value) if is_list(value) else None


def _one_label(raw: pd.DataFrame, sizes: pd.Series, path: Path) -> str:
    fit = [
        str(name) for name in raw
        if len(raw) == len(sizes)
        and all(_length(v) == n for v, n in zip(raw[name], sizes, strict=True))
    ]  # fmt: skip
    listed = f" (lists of that length: {', '.join(fit)})" if fit else ""
    return (
        f"{path}, row 1: {sizes.iloc[0]} responses and one label for all of them; name a column with a "
        f"label for each by --column label=NAME{listed}, or grade again without --keep-labels"
    )


def _split_chats(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Part chats that end with the response into prompt and response."""
    prompts, responses = [], []
    for value, row in zip(rows["prompt"], rows["row"], strict=True):
        chat, place = as_chat(value), f"{path}, row {row}"
        if chat is None:
            raise GeomrlError(
                f"{place}: neither a response nor messages that end with one; name the "
                "column of the responses with --column response=NAME, or leave the row out"
            )
        responses.append(chat[-1:] if ends_with_answer(chat) else sampled_text(chat, place))
        prompts.append(chat[:-1])
    if not all(prompts):
        raise GeomrlError(
            f"{path}: messages hold an answer and no question; name the prompt's column with --column "
            "prompt=NAME, and that of the responses with --column response=NAME"
        )
    return rows.assign(
        prompt=pd.Series(prompts, index=rows.index), response=pd.Series(responses, index=rows.index)
    )


def _statement(value: Any, place: str, column: str) -> str:
    value = plain(value)
    if isinstance(value, str):
        return value
    if as_chat(value) is not None:
        return statement_of(value)
    raise GeomrlError(no_text(value, place, "problem", column))


def no_text(value: Any, place: str, role: str, column: str) -> str:
    """Return what to say of a cell that should be a text: what it is, and how its text is reached."""
    value = plain(value)
    inside = list(text_paths(value, column))[:4] if isinstance(value, dict | list) else []
    if inside:
        return (
            f"{place}: its {role} is no text but an object; name the text inside: "
            + " or ".join(f"--column {role}={name}" for name in inside)
        )
    said = "is missing" if value is None else f"is no text ({value!r})"
    return f"{place}: its {role} {said}; remove the row, or name another column with --column {role}=NAME"
