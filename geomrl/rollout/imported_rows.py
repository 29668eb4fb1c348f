"""Files of other tools, read into rows: columns matched, one response a row.

Column names are guessed among those that verl, TRL, lm-eval, vLLM scripts and notebooks write, or
given; a dotted name reaches into nested columns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.files import read_json_lines, read_parquet
from geomrl.problems.nested import look_up, plain, text_paths
from geomrl.problems.rows import statement_of
from geomrl.progress import Say
from geomrl.rollout.chats import as_chat, ends_with_answer, sampled_text

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
_OF_A_RESPONSE = ("response", "response_ids", "label", "finish_reason")


def read_rows(path: Path) -> pd.DataFrame:
    """Read a file's rows as they are.

    Raises:
        GeomrlError: the file is torn or empty, or of a kind that is not read.
    """
    if path.suffix == ".parquet":
        frame = read_parquet(path)
    elif path.suffix in (".jsonl", ".json", ".ndjson"):
        frame = pd.DataFrame(_json_rows(path))
    else:
        raise GeomrlError(
            f"{path}: rollouts come as .jsonl, .json or .parquet, not '{path.suffix}'; write one JSON "
            "object a line, with prompt, response and gold"
        )
    if frame.empty:
        raise GeomrlError(f"{path}: holds no rollouts; check that it was written to the end")
    return frame


def _json_rows(path: Path) -> list[dict[str, Any]]:
    """Return the objects of JSON lines, of one list, or of one object that numbers them."""
    whole = _one_value(path)
    if whole is None:
        return [row for _, row in read_json_lines(path)]
    rows = list(whole.values()) if _numbers_rows(whole) else whole
    if not isinstance(rows, list) or not all(isinstance(each, dict) for each in rows):
        keys = f" ({', '.join(map(str, whole))[:80]})" if isinstance(whole, dict) else ""
        raise GeomrlError(
            f"{path}: holds one JSON {'object' if keys else 'value'}{keys}, not rollouts; write a list "
            "of objects, or one object a line, each with prompt, response and gold"
        )
    return rows


def _one_value(path: Path) -> Any:
    """Return what a file that is one JSON value holds, over one line or several; None of JSON lines."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8") as file:
        first = file.readline()
        begun = _parsed(first)
        if begun is None:
            return _parsed(first + file.read())
        return begun if isinstance(begun, list) or _numbers_rows(begun) else None


def _parsed(text: str) -> Any:
    """Return the JSON value of a text; None where it is not one."""
    try:
        return json.loads(text)
    except ValueError:
        return None  # the reader of lines names the place


def _numbers_rows(value: Any) -> bool:
    """Say whether an object holds rows under their numbers, as OpenCompass writes them."""
    return isinstance(value, dict) and all(
        str(key).isdecimal() and isinstance(row, dict) for key, row in value.items()
    )


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
    """Return a column by its name, or what stands at a dotted path in each row; None without any."""
    if name in raw:
        return raw[name]
    first, dot, rest = name.partition(".")
    if not dot or first not in raw:
        return None
    found = raw[first].map(lambda value: look_up(plain(value), rest)).astype(object)
    return None if found.isna().all() else found


def without_repeats(raw: pd.DataFrame, path: Path, say: Say) -> pd.DataFrame:
    """Keep one row a document of lm-eval's samples, which repeat each document for every filter.

    The repeats hold the same responses: as rollouts of their own, each would have a twin.

    Raises:
        GeomrlError: rows of one document differ in more than the filter.
    """
    if not {"filter", "doc_id", "resps"} <= set(raw) or raw["filter"].nunique() < 2:
        return raw
    kept = str(raw["filter"].iloc[0])
    texts = raw["resps"].map(as_key)
    if (texts.groupby(raw["doc_id"]).nunique() > 1).any():
        raise GeomrlError(
            f"{path}: rows of several filters ({', '.join(map(str, raw['filter'].unique()))}) hold "
            f"different responses to one document; take one filter with --where filter={kept}"
        )
    say(
        f"note: {path}: every document stands there once for each of {raw['filter'].nunique()} "
        f"filters, with the same responses; those of filter '{kept}' are taken"
    )
    return raw[raw["filter"] == kept].reset_index(drop=True)


def _listed(raw: pd.DataFrame) -> str:
    return ", ".join(map(str, raw.columns))


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


def _answers_in_prompt(raw: pd.DataFrame, columns: Mapping[str, str]) -> bool:
    """Say whether the prompts are chats that end with the response."""
    cells = column_of(raw, columns["prompt"]) if "prompt" in columns else None
    chat = None if cells is None else as_chat(cells.iloc[0])
    return chat is not None and ends_with_answer(chat)


def one_response_a_row(
    raw: pd.DataFrame, columns: Mapping[str, str], path: Path, *, labels: bool = False
) -> pd.DataFrame:
    """Rename to our columns, and unfold rows that hold a list of responses (lm-eval nests twice).

    `row` is the row's number in the file, from 1; a response that is known by its ids alone is null.

    Args:
        raw: the file's rows.
        columns: ours -> the file's.
        path: of the file, for messages.
        labels: whether the file's labels will be used: each response then needs one.

    Raises:
        GeomrlError: a response, or a problem, is no text.
    """
    rows = pd.DataFrame({ours: column_of(raw, name) for ours, name in columns.items()})
    rows = rows.assign(row=range(1, len(rows) + 1))
    if "response" not in rows and "response_ids" not in rows:
        rows = _split_chats(rows, path)
    if "problem" in rows:
        rows["problem"] = [
            _statement(value, f"{path}, row {row}", columns["problem"])
            for value, row in zip(rows["problem"], rows["row"], strict=True)
        ]
    if "response" not in rows:
        return rows.assign(response=None)
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
    """Take one level of lists apart, of responses and of what stands in lists beside them."""
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
        chat = as_chat(value)
        if chat is None:
            raise GeomrlError(
                f"{path}, row {row}: neither a response nor messages that end with one; name the "
                "column of the responses with --column response=NAME, or leave the row out"
            )
        responses.append(sampled_text(chat, f"{path}, row {row}"))
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
    """Return what to say of a cell that should hold a text: what it holds, and how its text is reached."""
    value = plain(value)
    inside = list(text_paths(value, column))[:4] if isinstance(value, dict | list) else []
    if inside:
        return (
            f"{place}: its {role} is no text but an object; name the text inside: "
            + " or ".join(f"--column {role}={name}" for name in inside)
        )
    said = "is missing" if value is None else f"is no text ({value!r})"
    return f"{place}: its {role} {said}; remove the row, or name another column with --column {role}=NAME"


def is_list(value: Any) -> bool:
    """Say whether a cell holds a list, or an array of parquet's."""
    return not isinstance(value, (str, dict)) and hasattr(value, "__len__")


def as_key(value: Any) -> str:
    """Return a text as it is and anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(plain(value), sort_keys=True)
