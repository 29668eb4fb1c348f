"""Rollouts of another tool: a JSONL or parquet file becomes a geomrl rollout table.

A row may contain one response or a list of them. Prompts pass one gate (`prompts`): what the
policy did not see is refused. Golds are read as those of problem files are (`problems.golds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial, reduce
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.models.turns import first_turn, turn_end_ids, turn_ends
from geomrl.problems.golds import bare_gold
from geomrl.problems.nested import plain
from geomrl.progress import Progress, Say
from geomrl.rollout.imports.chats import as_chat, before_the_answer, content_text, ends_with_answer
from geomrl.rollout.imports.columns import as_key, check_graded, column_of, is_list
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.imports.formats import Opened, opened, with_texts_alone
from geomrl.rollout.imports.grades import graded_rows
from geomrl.rollout.imports.responses import one_response_a_row
from geomrl.rollout.imports.tokens import tokenised, with_texts
from geomrl.runs.rollouts import SCHEMA, rollout_id, with_answer_classes
from geomrl.verify.marker import Marker
from geomrl.verify.verifier import Verifier


def _silent(line: str) -> None:
    """Say nothing."""


def import_rollouts(
    path: Path,
    tokenizer: Any,
    verifier: Verifier,
    config: ImportConfig,
    progress: Progress | None = None,
    say: Say = _silent,
) -> pd.DataFrame:
    """Read rollouts of another tool into the rollout table.

    Args:
        path: of a file, of a folder, or a pattern of files (`formats.FORMATS`).
        tokenizer: of the model that will read them.
        verifier: grades them (its `answer_classes` is used with kept labels too).
        config: how to read the file.
        progress: called with (graded, total).
        say: called with what was done beside reading: repeats dropped, prompts mended.

    Raises:
        GeomrlError: the file is torn or empty, a column is missing, a row has no gold and no label,
            a prompt is not what the policy saw, token ids do not fit the tokenizer, an option has no
            effect, or several policies are mixed.
    """
    path = Path(path)
    found = opened(path, config, say)
    if config.retokenize:
        found = with_texts_alone(found)
    columns = found.columns
    _check_options(columns, config, path)
    labels = _own_verdicts(found, config, path, say)
    rows = one_response_a_row(found.rows, columns, path, labels=labels, say=say)
    rows = _without_answers(with_texts(rows, tokenizer, path), verifier.marker, path, say)
    rows = _with_ids(_first_turns(rows, tokenizer, path, say), path)
    _check_one_policy(rows, columns, path)
    read = tokenised(
        rows,
        columns,
        tokenizer=tokenizer,
        config=config,
        texts=found.format.texts,
        path=path,
        say=say,
    )
    if found.format.tool is not None:
        _tell_prompts(read, found, path, say)
    graded = graded_rows(
        read,
        verifier,
        columns=columns,
        keep_labels=labels,
        path=path,
        progress=progress,
    )
    return with_answer_classes(_numbered(graded).reindex(columns=SCHEMA.names), verifier)


def import_verdicts(
    path: Path,
    verifier: Verifier,
    config: ImportConfig,
    progress: Progress | None = None,
    *,
    benchmark: str | None = None,
    say: Say = _silent,
) -> dict[str, pd.DataFrame]:
    """Read rollouts of another tool for their verdicts alone: no tokenizer, no token ids.

    Returns a rollout table for every policy that the file names, or one under the file's name; a
    training step is a policy of its own. The columns of tokens are null; chat messages are
    JSON in `prompt`.

    Args:
        path: of a file, of a folder, or a pattern of files (`formats.FORMATS`).
        verifier: as in `import_rollouts`.
        config: how to read the file; what concerns tokens and templates is not used.
        progress: called with (graded, total).
        benchmark: the benchmark's name for all rows, whatever the file says.
        say: as in `import_rollouts`.

    Raises:
        GeomrlError: as `import_rollouts`; tokens and several policies aside.
    """
    path = Path(path)
    found = with_texts_alone(opened(path, config, say))
    raw, columns = found.rows, found.columns
    labels = _own_verdicts(found, config, path, say)
    if benchmark is not None:
        raw = raw.assign(benchmark=benchmark)
        columns = {**columns, "benchmark": "benchmark"}
    rows = one_response_a_row(raw, columns, path, labels=labels, say=say)
    if rows["response"].isna().any():
        raise GeomrlError(
            f"{path}: holds responses as token ids alone, which a tokenizer must read: give `geomrl "
            "rollout MODEL --import FILE`, and evaluate what that writes"
        )
    rows = _without_answers(rows, verifier.marker, path, say)
    rows = _first_turns(rows, None, path, say)
    whose = _policies(rows, path)
    parts = [_with_ids(part, path).assign(policy=n) for n, part in rows.groupby(whose, sort=False)]
    graded = graded_rows(
        pd.concat(parts, ignore_index=True),
        verifier,
        columns=columns,
        keep_labels=labels,
        path=path,
        progress=progress,
    )
    prompts = graded["prompt"].map(as_key) if "prompt" in graded else None
    graded = graded.assign(prompt=prompts, prompt_ids=None, response_ids=None)
    graded = _numbered(graded).reindex(columns=SCHEMA.names)
    return {
        str(name): with_answer_classes(part.reset_index(drop=True), verifier)
        for name, part in graded.groupby("policy", sort=False)
    }


def has_prompts(path: Path, config: ImportConfig) -> bool:
    """Say whether a file names prompts: then none is made of a problem by a template.

    Raises:
        GeomrlError: the file cannot be read, or a column is missing.
    """
    columns = opened(Path(path), config, _silent).columns
    return bool({"prompt", "prompt_ids"} & set(columns))


def _own_verdicts(found: Opened, config: ImportConfig, path: Path, say: Say) -> bool:
    """Say whether the file's verdicts are taken: as the user says, or since its tool writes no golds.

    Raises:
        GeomrlError: there is neither a gold answer nor a verdict.
    """
    columns = found.columns
    golds = column_of(found.rows, columns["gold"]) if "gold" in columns else None
    if (
        found.format.tool is not None
        and golds is not None
        and not any(bare_gold(plain(gold)) for gold in golds)
    ):
        del columns["gold"]
    taken = "gold" not in columns and "label" in columns and found.format.tool is not None
    if taken and not config.keep_labels:
        say(
            f"note: {path}: {found.format.tool} writes no gold answers there; the verdicts are the "
            f"file's own ('{columns['label']}')"
        )
    labels = config.keep_labels or taken
    check_graded(found.rows, columns, path, labels)
    return labels


def _tell_prompts(rows: pd.DataFrame, found: Opened, path: Path, say: Say) -> None:
    """Tell where the prompts need not be what the policy saw."""
    if "templated" in set(rows["prompt_kind"]):
        say(
            f"note: {path}: {found.format.tool} writes problems and no prompts; they are rendered with "
            f"the template '{rows['template'].iloc[0]}', which need not be what the policy saw"
        )


def _check_options(columns: Mapping[str, str], config: ImportConfig, path: Path) -> None:
    """Refuse what would change nothing, before anything is graded."""
    found = next((name for name in ("prompt_ids", "prompt") if name in columns), None)
    useless = []
    if found is not None:
        useless += ["--system"] if config.system is not None else []
    if found == "prompt_ids" and not config.retokenize:
        useless += ["--thinking/--no-thinking"] if config.thinking is not None else []
    if found != "prompt" and config.raw_prompt:
        useless.append("--raw-prompt")
    if useless:
        reason = f"its prompts stand in '{columns[found]}'" if found else "it has no prompts"
        raise GeomrlError(
            f"{path}: {' and '.join(useless)} would change nothing, since {reason}; leave it out, or "
            "leave those prompts aside (--column prompt= --column prompt_ids=) to render the problem"
        )


def _first_turns(rows: pd.DataFrame, tokenizer: Any, path: Path, say: Say) -> pd.DataFrame:
    """Cut responses, and ids beside them, at the first token that ends a turn."""
    ends = turn_ends(tokenizer)
    whole = rows["response"]
    cut = whole.map(partial(first_turn, ends=ends))
    further = [
        bool(reduce(lambda text, end: text.replace(end, ""), ends, text[len(kept) :]).strip())
        for text, kept in zip(whole, cut, strict=True)
    ]
    if any(further):
        say(
            f"note: {path}: {sum(further)} responses go on behind the end of their turn; what stands "
            "there is neither graded nor read"
        )
    rows = rows.assign(response=cut)
    if tokenizer is not None and "response_ids" in rows:
        last = turn_end_ids(None, tokenizer)
        rows["response_ids"] = [
            _up_to(last, ids) if is_list(ids) and len(text) != len(kept) else ids
            for ids, text, kept in zip(rows["response_ids"], whole, cut, strict=True)
        ]
    return rows


def _up_to(ends: frozenset[int], ids: Any) -> list[Any]:
    """The ids up to the first one that ends a turn, that one included."""
    found = list(ids)
    return next((found[: i + 1] for i, token in enumerate(found) if token in ends), found)


def _without_answers(rows: pd.DataFrame, marker: Marker, path: Path, say: Say) -> pd.DataFrame:
    """Part prompts and responses that overlap: messages with the answer, text with the prompt."""
    if "prompt" not in rows:
        return rows
    keys = rows["prompt"].map(as_key)
    chats = {key: as_chat(value) for key, value in zip(keys, rows["prompt"], strict=True)}
    cut: dict[str, Any] = {}
    for key, part in rows.groupby(keys, sort=False):
        chat, first = chats[str(key)], part.iloc[0]
        if chat is not None and ends_with_answer(chat):
            closed = marker.find(content_text(chat[-1])) is not None
            cut[str(key)] = before_the_answer(
                chat,
                part["response"].tolist(),
                problem=first.get("problem"),
                answers=closed,
                place=f"{path}, row {first['row']}",
            )
    if cut:
        say(
            f"note: {path}: messages of {len(cut)} problems end with an assistant's turn that holds an "
            "answer; the prompt is what stands before it"
        )
        prompts = [cut.get(key, value) for key, value in zip(keys, rows["prompt"], strict=True)]
        rows = rows.assign(prompt=pd.Series(prompts, index=rows.index))
    texts = all(isinstance(value, str) and value for value in rows["prompt"])
    if not texts or any(chats.values()):
        return rows
    pairs = list(zip(rows["prompt"], rows["response"], strict=True))
    if all(response.startswith(prompt) for prompt, response in pairs):
        say(f"note: {path}: every response begins with its prompt, which is not counted to it")
        return rows.assign(response=[response[len(prompt) :] for prompt, response in pairs])
    for row, (prompt, response) in zip(rows["row"], pairs, strict=True):
        if len(response.strip()) > _SURELY and response.strip() in prompt[-2 * len(response) :]:
            raise GeomrlError(
                f"{path}, row {row}: its prompt ends with the response ({response.strip()[:40]!r}), "
                "which would stand there twice: this is not what the policy saw. Cut it off, or name "
                "another column with --column prompt=NAME"
            )
    return rows


_SURELY = 20  # characters of a response that no prompt ends with by chance


def _with_ids(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Give every row a benchmark, a problem id (by its text where none is named) and a sample."""
    rows = rows.assign(benchmark=rows.get("benchmark", pd.Series(_name(path), index=rows.index)))
    rows["benchmark"] = rows["benchmark"].fillna(_name(path)).astype(str)
    text = next(rows[c] for c in ("problem", "prompt", "prompt_ids") if c in rows).map(as_key)
    # A file's `id` often numbers its rows: then it says nothing of which rollouts share a problem.
    if "problem_id" in rows:
        rows["problem_id"] = rows["problem_id"].map(as_key)
    numbers_rows = "problem_id" in rows and rows["problem_id"].is_unique and not text.is_unique
    if "problem_id" not in rows or numbers_rows:
        rows["problem_id"] = [f"problem-{code:04d}" for code in pd.factorize(text)[0]]
    rows["problem_id"] = rows["problem_id"].astype(str)
    key = ["benchmark", "problem_id"]
    mixed = text.groupby([rows[k] for k in key]).nunique()
    if (mixed > 1).any():
        name = mixed.index[mixed > 1][0][1]
        raise GeomrlError(
            f"{path}: problem_id '{name}' stands for {int(mixed.max())} different prompts; the rollouts "
            "of one problem share its prompt. Name the right column with --column problem_id=NAME"
        )
    samples = [] if "sample" not in rows else rows["sample"].map(plain).tolist()
    numbered = bool(samples) and all(isinstance(s, int | float) and s == s for s in samples)
    if not numbered or rows.duplicated([*key, "sample"]).any():
        rows["sample"] = rows.groupby(key, sort=False).cumcount()
    rows["rollout_id"] = [
        rollout_id(b, p, int(s))
        for b, p, s in zip(rows["benchmark"], rows["problem_id"], rows["sample"], strict=True)
    ]
    return rows


def _name(path: Path) -> str:
    """Return what to call what a path names; for a pattern that is its folder."""
    return path.parent.name if "*" in path.name else path.stem


def _policies(rows: pd.DataFrame, path: Path) -> pd.Series:
    """Return whose each rollout is: the policy's name, with the training step where there are several."""
    named = (
        rows.get("policy", pd.Series(_name(path), index=rows.index)).fillna(_name(path)).astype(str)
    )
    steps = _steps(rows)
    return named if len(steps) < 2 else named + "@" + rows["policy_step"].map(_step_text)


def _steps(rows: pd.DataFrame) -> list[str]:
    if "policy_step" not in rows:
        return []
    return list(dict.fromkeys(rows["policy_step"].dropna().map(_step_text)))


def _numbered(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with training steps as whole numbers, or none where they are something else."""
    if "policy_step" not in rows:
        return rows
    texts = rows["policy_step"].map(_step_text)
    steps = [int(text) if text.isdecimal() else pd.NA for text in texts]
    return rows.assign(policy_step=pd.array(steps, dtype="Int64"))


def _step_text(step: Any) -> str:
    value = bare_gold(plain(step))  # 10.0 is step 10
    return value or "none"


def _check_one_policy(rows: pd.DataFrame, columns: Mapping[str, str], path: Path) -> None:
    policies = sorted(rows["policy"].dropna().astype(str).unique()) if "policy" in rows else []
    for role, names, what in (
        ("policy", policies, "policies"),
        ("policy_step", _steps(rows), "training steps"),
    ):
        if len(names) > 1:
            raise GeomrlError(
                f"{path}: rollouts of {len(names)} {what} ({', '.join(names[:4])}) would be mixed in one "
                f"group; take one with --where {columns[role]}='{names[0]}'"
                + (", or pool them by --column policy_step=" if role == "policy_step" else "")
            )
