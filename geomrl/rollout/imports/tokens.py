"""Prompts and token ids of imported rollouts: the file's own where it has them, else made of its texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.models.token_ids import check_ids_fit
from geomrl.models.turns import turn_end_ids
from geomrl.problems.nested import plain
from geomrl.problems.prompts import Prompt, render_prompt
from geomrl.progress import Say
from geomrl.rollout.generate import response_text
from geomrl.rollout.imports.chats import THINK, as_chat
from geomrl.rollout.imports.columns import as_key, is_list
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.imports.prompts import PromptReader


def with_texts(rows: pd.DataFrame, tokenizer: Any, path: Path) -> pd.DataFrame:
    """Return the rows with the text of responses that are known by their token ids alone."""
    if rows["response"].notna().all():
        return rows
    ends = rows.get("finish_reason", pd.Series("", index=rows.index))
    ids = _id_lists(rows, "response_ids", tokenizer, path)
    last = turn_end_ids(None, tokenizer)
    texts = [
        response_text(tokenizer, each, "stop" if each and each[-1] in last else str(end))
        for each, end in zip(ids, ends, strict=True)
    ]
    return rows.assign(response=texts, response_ids=ids)


def tokenised(
    rows: pd.DataFrame,
    columns: Mapping[str, str],
    tokenizer: Any,
    config: ImportConfig,
    texts: str,
    path: Path,
    say: Say,
) -> pd.DataFrame:
    """Return the rows with prompt, prompt_ids and response_ids; ids of the file are kept.

    Prompts and responses each by themselves: a file may know the ids of one alone.

    Args:
        rows: one response a row, each with its text.
        columns: ours -> the file's.
        tokenizer: of the model that will read them.
        config: how to read the file.
        texts: what prompts without a sign of the chat template are (`format.Format`).
        path: of the file, for messages.
        say: called with a line on prompts that were mended.

    Raises:
        GeomrlError: see `table.import_rollouts`.
    """
    kept = set() if config.retokenize else {"prompt_ids", "response_ids"} & set(rows)
    for name in sorted(kept):
        rows = rows.assign(**{name: _id_lists(rows, name, tokenizer, path)})
    if "prompt_ids" in kept:
        said = rows.get("prompt", rows["prompt_ids"].map(tokenizer.decode)).map(as_key)
        rows = rows.assign(prompt=said, prompt_kind="raw")
    else:
        reader = PromptReader(
            tokenizer,
            config.thinking,
            raw=config.raw_prompt or texts == "sampled",
            question=texts == "question",
        )
        rows = _prompted(rows, columns, reader=reader, config=config, path=path, say=say)
    if "response_ids" in kept:
        check_ids_fit(rows, tokenizer, path)
        return rows.assign(token_source="given")
    rows = rows.assign(response=_after_prompt(rows))
    texts = tokenizer(rows["response"].tolist(), add_special_tokens=False)["input_ids"]
    return rows.assign(response_ids=pd.Series(texts, index=rows.index), token_source="re-tokenised")


def _after_prompt(rows: pd.DataFrame) -> list[str]:
    """Return the responses; one whose reasoning was rejoined lacks the tag that its prompt ends with."""
    return [
        response.removeprefix(THINK).removeprefix("\n")
        if rejoined and prompt.rstrip().endswith(THINK)
        else response
        for response, prompt, rejoined in zip(
            rows["response"], rows["prompt"], rows["rejoined"], strict=True
        )
    ]


def _prompted(
    rows: pd.DataFrame,
    columns: Mapping[str, str],
    reader: PromptReader,
    config: ImportConfig,
    path: Path,
    say: Say,
) -> pd.DataFrame:
    """Fill in prompts and their ids from the file's prompts, or else from its problems."""
    source = "prompt" if "prompt" in rows else "problem"  # a prompt is what the policy really saw
    if source not in rows:
        raise GeomrlError(
            f"{path}: --retokenize needs the prompt's text; name --column prompt=NAME"
        )
    keys = rows[source].map(as_key)
    seen: dict[str, Prompt] = {}
    for key, value, row in zip(keys, rows[source], rows["row"], strict=True):
        if key in seen:
            continue
        seen[key] = (
            reader.read(plain(value), f"{path}, row {row}", columns["prompt"])
            if source == "prompt"
            else render_prompt(
                value, reader.tokenizer, template=config.template, system=config.system,
                thinking=config.thinking,
            )
        )  # fmt: skip
    kinds = [prompt.kind for prompt in seen.values()]
    if source == "prompt" and config.thinking is not None:
        _check_thinking(kinds, reader, path)
    if recovered := kinds.count("recovered"):
        say(
            f"note: {path}: {recovered} of {len(kinds)} prompts had lost the special tokens of the chat "
            "template; they were put back, since all other text agrees with the template"
        )
    if source == "prompt" and not config.raw_prompt:
        _tell_without_sign(seen, reader, path, say)
    found = keys.map(seen)
    return rows.assign(
        prompt=[prompt.text for prompt in found],
        prompt_kind=[prompt.kind for prompt in found],
        prompt_ids=pd.Series([prompt.ids for prompt in found], index=rows.index),
        template=config.template if source == "problem" else None,
        system=config.system if source == "problem" else None,
    )


def _tell_without_sign(
    seen: Mapping[str, Prompt], reader: PromptReader, path: Path, say: Say
) -> None:
    """Tell of texts without a sign of the chat template that are taken for what the tool writes."""
    signs = reader.signs
    bare = [key for key in seen if signs and not any(sign in key for sign in signs)]
    asked = sum(seen[key].kind == "messages" and as_chat(key) is None for key in bare)
    kept = sum(seen[key].kind == "raw" for key in bare)
    for count, why in (
        (kept, "the tool writes prompts as they were sent, and they are taken as they stand"),
        (asked, "the tool writes questions so, and each is rendered as a user's turn"),
    ):
        if count:
            say(
                f"note: {path}: {count} of {len(seen)} prompts show no sign of the tokenizer's chat "
                f"template; {why}"
            )


def _check_thinking(kinds: Sequence[str], reader: PromptReader, path: Path) -> None:
    """Refuse the option where no prompt was made by a template that heeds it."""
    if set(kinds) == {"raw"} or not reader.thinking_matters:
        reason = (
            "its prompts are texts, taken as they stand"
            if set(kinds) == {"raw"}
            else "the tokenizer's chat template does not heed it"
        )
        raise GeomrlError(
            f"{path}: --thinking/--no-thinking would change nothing, since {reason}; leave it out"
        )


def _id_lists(rows: pd.DataFrame, name: str, tokenizer: Any, path: Path) -> pd.Series:
    """Return token ids as lists of whole numbers; those of a text are compared with it later."""
    size, lists = len(tokenizer), []
    alone = name == "prompt_ids" or rows["response"].isna().any()
    for row, value in zip(rows["row"], rows[name], strict=True):
        ids = plain(value) if is_list(value) else None
        if ids is None or not all(isinstance(i, int | float) and i == int(i) for i in ids):
            raise GeomrlError(
                f"{path}, row {row}: '{name}' is no list of token ids; name the right column with "
                f"--column {name}=NAME, or tokenise the text again with --retokenize"
            )
        if alone and ids and not 0 <= min(ids) <= max(ids) < size:
            raise GeomrlError(
                f"{path}, row {row}: '{name}' holds ids outside this tokenizer's {size}: they are "
                "another tokenizer's. Tokenise the text again with --retokenize"
            )
        lists.append([int(i) for i in ids])
    return pd.Series(lists, index=rows.index)
