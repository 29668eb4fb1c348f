"""Rollouts of another tool: a JSONL or parquet file becomes a geomrl rollout table.

Column names are guessed among those that verl, TRL, lm-eval, vLLM scripts and notebooks write, or
given. A row may hold one response or a list of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.files import read_json_lines, read_parquet
from geomrl.problems.prompts import render_prompt
from geomrl.rollout.table import SCHEMA, grade_columns, rollout_id, with_answer_classes
from geomrl.verify.verifier import Grade, Verifier

# Ours first, then the usual names; the first that the file has is taken.
GUESSES: dict[str, tuple[str, ...]] = {
    "response": ("response", "completion", "output", "generation", "resps", "responses",
                 "completions", "outputs", "generations"),
    "problem": ("problem", "question", "query", "instruction"),
    "prompt": ("prompt", "input", "messages", "prompts"),
    "gold": ("gold", "answer", "ground_truth", "gts", "target", "reference_answer"),
    "label": ("label", "correct", "is_correct", "acc", "score", "reward"),
    "problem_id": ("problem_id", "gold_id", "id", "doc_id", "uid", "unique_id", "index"),
    "sample": ("sample", "sample_id", "rollout", "trial"),
    "benchmark": ("benchmark", "bench", "dataset", "data_source"),
    "policy": ("policy", "model", "model_name"),
    "prompt_ids": ("prompt_ids", "prompt_token_ids"),
    "response_ids": ("response_ids", "response_token_ids", "token_ids", "completion_ids"),
    "finish_reason": ("finish_reason",),
}  # fmt: skip
_TRUE = {True, "1", "true", "correct", "right", "yes"}
_FALSE = {False, -1, -1.0, "0", "-1", "false", "incorrect", "wrong", "no"}


@dataclass(frozen=True)
class ImportConfig:
    """How to read the file.

    columns: ours -> the file's, where guessing is wrong. where: keep only rows whose column has this
    value. keep_labels: take the file's verdicts instead of grading again. retokenize: ignore the
    file's token ids. template, system and thinking are used where a row has a problem statement
    instead of a prompt.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)
    keep_labels: bool = False
    retokenize: bool = False
    template: str = "boxed"
    system: str | None = None
    thinking: bool | None = None


def import_rollouts(
    path: Path,
    tokenizer: Any,
    verifier: Verifier,
    config: ImportConfig,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Read rollouts of another tool into the rollout table.

    Args:
        path: .jsonl, .json or .parquet.
        tokenizer: of the model that will read them.
        verifier: grades them (its `answer_classes` is used with kept labels too).
        config: how to read the file.
        progress: told (graded, total).

    Raises:
        GeomrlError: the file is torn or empty, a column is missing, a row has no gold and no label,
            token ids do not fit the tokenizer, or several policies are mixed.
    """
    raw = _select(_read_rows(Path(path)), config.where, path)
    columns = _match_columns(raw, config.columns, path)
    rows = _one_response_a_row(raw, columns, path)
    rows = _with_ids(rows, path)
    _check_one_policy(rows, columns, path)
    graded = _graded(rows, verifier, config.keep_labels, path, progress)
    tokenised = _tokenised(graded, tokenizer, config, path)
    return with_answer_classes(tokenised.reindex(columns=SCHEMA.names), verifier)


def import_verdicts(
    path: Path,
    verifier: Verifier,
    config: ImportConfig,
    progress: Callable[[int, int], None] | None = None,
    *,
    benchmark: str | None = None,
) -> dict[str, pd.DataFrame]:
    """Read rollouts of another tool for their verdicts alone: no tokenizer, no token ids.

    Returns a rollout table for every policy that the file names, or one under the file's name. The
    columns of tokens are null; chat messages stand as JSON in `prompt`.

    Args:
        path: .jsonl, .json or .parquet.
        verifier: as in `import_rollouts`.
        config: how to read the file; what concerns tokens and templates is not used.
        progress: told (graded, total).
        benchmark: the benchmark's name for all rows, whatever the file says.

    Raises:
        GeomrlError: as `import_rollouts`, token ids and several policies aside.
    """
    path = Path(path)
    raw = _select(_read_rows(path), config.where, path)
    if benchmark is not None:
        raw = raw.assign(benchmark=benchmark)
    columns = _match_columns(raw, config.columns, path)
    named = columns.get("policy")
    whose = pd.Series(path.stem, index=raw.index) if named is None else raw[named].fillna(path.stem)
    parts = [
        _with_ids(_one_response_a_row(part, columns, path), path).assign(policy=str(name))
        for name, part in raw.groupby(whose, sort=False)
    ]
    graded = _graded(
        pd.concat(parts, ignore_index=True), verifier, config.keep_labels, path, progress
    )
    prompts = graded["prompt"].map(_as_key) if "prompt" in graded else None
    graded = graded.assign(prompt=prompts, prompt_ids=None, response_ids=None)
    graded = graded.reindex(columns=SCHEMA.names)
    return {
        str(name): with_answer_classes(part.reset_index(drop=True), verifier)
        for name, part in graded.groupby("policy", sort=False)
    }


def _read_rows(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        frame = read_parquet(path)
    elif path.suffix in (".jsonl", ".json", ".ndjson"):
        frame = pd.DataFrame([row for _, row in read_json_lines(path)])
    else:
        raise GeomrlError(f"{path}: rollouts come as .jsonl or .parquet, not '{path.suffix}'")
    if frame.empty:
        raise GeomrlError(f"{path}: holds no rollouts; check that it was written to the end")
    return frame


def _select(raw: pd.DataFrame, where: Mapping[str, str], path: Path) -> pd.DataFrame:
    for column, value in where.items():
        if column not in raw:
            raise GeomrlError(f"{path}: --where names column '{column}'; it has {_listed(raw)}")
        kept = raw[raw[column].astype(str) == value]
        if kept.empty:
            some = ", ".join(sorted(raw[column].astype(str).unique())[:8])
            raise GeomrlError(f"{path}: no row has {column} = '{value}'; there is {some}")
        raw = kept
    return raw.reset_index(drop=True)


def _listed(raw: pd.DataFrame) -> str:
    return ", ".join(map(str, raw.columns))


def _match_columns(raw: pd.DataFrame, given: Mapping[str, str], path: Path) -> dict[str, str]:
    """Return ours -> the file's column names."""
    for ours, theirs in given.items():
        if ours not in GUESSES:
            raise GeomrlError(f"--column {ours}=...: unknown; use one of {', '.join(GUESSES)}")
        if theirs not in raw:
            raise GeomrlError(f"{path}: --column names '{theirs}'; the file has {_listed(raw)}")
    guessed = {
        ours: next((name for name in names if name in raw), None) for ours, names in GUESSES.items()
    }
    columns = {ours: name for ours, name in guessed.items() if name is not None} | dict(given)
    if "response" not in columns:
        raise GeomrlError(
            f"{path}: no column with the responses (columns: {_listed(raw)}); "
            "name it with --column response=NAME"
        )
    if not {"problem", "prompt", "prompt_ids"} & set(columns):
        raise GeomrlError(
            f"{path}: no column with the problem or prompt (columns: {_listed(raw)}); name it with "
            "--column problem=NAME (a statement) or --column prompt=NAME (the whole prompt)"
        )
    return columns


def _one_response_a_row(raw: pd.DataFrame, columns: Mapping[str, str], path: Path) -> pd.DataFrame:
    """Rename to our columns, and unfold rows that hold a list of responses (lm-eval nests twice)."""
    rows = raw[list(columns.values())].set_axis(list(columns), axis=1)
    rows = rows.assign(row=rows.index + 1)
    while any(_is_list(value) for value in rows["response"]):
        several = [
            c for c in ("response", "response_ids", "label", "finish_reason") if c in rows
            and all(_is_list(v) and _is_list(r) and len(v) == len(r)
                    for v, r in zip(rows[c], rows["response"], strict=True))
        ]  # fmt: skip
        if "response" not in several:
            raise GeomrlError(f"{path}: some rows hold one response and others a list; split them")
        rows = rows.explode(several, ignore_index=True)
    bad = rows[~rows["response"].map(lambda value: isinstance(value, str))]
    if len(bad):
        raise GeomrlError(
            f"{path}, row {bad['row'].iloc[0]}: its response is no text; remove the row"
        )
    return rows


def _is_list(value: Any) -> bool:
    return not isinstance(value, (str, dict)) and hasattr(value, "__len__")


def _with_ids(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Give every row a benchmark, a problem id (by its text where none is named) and a sample."""
    rows = rows.assign(benchmark=rows.get("benchmark", pd.Series(path.stem, index=rows.index)))
    rows["benchmark"] = rows["benchmark"].fillna(path.stem).astype(str)
    text = next(rows[c] for c in ("problem", "prompt", "prompt_ids") if c in rows).map(_as_key)
    # A file's `id` often numbers its rows: then it says nothing of which rollouts share a problem.
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
    if "sample" not in rows or rows.duplicated([*key, "sample"]).any():
        rows["sample"] = rows.groupby(key, sort=False).cumcount()
    rows["rollout_id"] = [
        rollout_id(b, p, int(s))
        for b, p, s in zip(rows["benchmark"], rows["problem_id"], rows["sample"], strict=True)
    ]
    return rows


def _as_key(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    """Turn parquet's arrays into lists."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return (
        [_plain(v) for v in value] if _is_list(value) else getattr(value, "item", lambda: value)()
    )


def _check_one_policy(rows: pd.DataFrame, columns: Mapping[str, str], path: Path) -> None:
    policies = sorted(rows["policy"].dropna().astype(str).unique()) if "policy" in rows else []
    if len(policies) > 1:
        raise GeomrlError(
            f"{path}: rollouts of {len(policies)} policies ({', '.join(policies[:4])}) would be mixed "
            f"in one group; take one with --where {columns['policy']}='{policies[0]}'"
        )


def _graded(
    rows: pd.DataFrame,
    verifier: Verifier,
    keep_labels: bool,
    path: Path,
    progress: Callable[[int, int], None] | None,
) -> pd.DataFrame:
    if keep_labels:
        return rows.assign(**grade_columns(_labelled(rows, verifier, path)))
    if "gold" not in rows or rows["gold"].isna().any():
        row = 1 if "gold" not in rows else rows["row"][rows["gold"].isna()].iloc[0]
        raise GeomrlError(
            f"{path}, row {row}: no gold answer to grade against; name its column with --column "
            "gold=NAME, or keep the file's own verdicts with --keep-labels"
        )
    golds = rows["gold"].map(_gold_text)
    tick = partial(_tell, progress, len(rows)) if progress else None
    grades = verifier.grade(rows["response"].tolist(), golds.tolist(), tick)
    return rows.assign(gold=golds, **grade_columns(grades))


def _tell(progress: Callable[[int, int], None], total: int, done: int) -> None:
    progress(done, total)


def _gold_text(gold: Any) -> str:
    if _is_list(gold) and len(gold) == 1:
        gold = gold[0]
    return str(_plain(gold)) if not isinstance(gold, str) else gold


def _labelled(rows: pd.DataFrame, verifier: Verifier, path: Path) -> list[Grade]:
    """Turn the file's labels into grades; a wrong response without a closed marker is no answer."""
    if "label" not in rows:
        raise GeomrlError(
            f"{path}: --keep-labels, but no label column; name it with --column label=NAME"
        )
    grades = []
    for row, response, label in zip(rows["row"], rows["response"], rows["label"], strict=True):
        value = label.lower() if isinstance(label, str) else label
        if value not in _TRUE and value not in _FALSE:
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


def _tokenised(
    rows: pd.DataFrame, tokenizer: Any, config: ImportConfig, path: Path
) -> pd.DataFrame:
    """Fill in prompt, prompt_ids and response_ids."""
    given = {"prompt_ids", "response_ids"} <= set(rows) and not config.retokenize
    if given:
        rows["prompt_ids"] = rows["prompt_ids"].map(_integers)
        rows["response_ids"] = rows["response_ids"].map(_integers)
        check_ids_fit(rows, tokenizer, path)
        prompts = rows.get("prompt", rows["prompt_ids"].map(tokenizer.decode)).map(_as_key)
        return rows.assign(prompt=prompts, prompt_kind="raw", token_source="given")
    source = "prompt" if "prompt" in rows else "problem"  # a prompt is what the policy really saw
    if source not in rows:
        raise GeomrlError(
            f"{path}: --retokenize needs the prompt's text; name --column prompt=NAME"
        )
    seen: dict[str, tuple[str, str, list[int]]] = {}
    for value in rows[source]:
        key = _as_key(value)
        if key not in seen:
            seen[key] = _prompt(value, tokenizer, config, is_problem=source == "problem")
    found = [seen[_as_key(value)] for value in rows[source]]
    responses = tokenizer(rows["response"].tolist(), add_special_tokens=False)["input_ids"]
    return rows.assign(
        prompt=[text for text, _, _ in found],
        prompt_kind=[kind for _, kind, _ in found],
        prompt_ids=pd.Series([ids for _, _, ids in found], index=rows.index),
        response_ids=pd.Series(responses, index=rows.index),
        token_source="re-tokenised",
        template=config.template if source == "problem" else None,
        system=config.system if source == "problem" else None,
    )


def _integers(ids: Any) -> list[int]:
    return [int(i) for i in ids]


def _prompt(
    value: Any, tokenizer: Any, config: ImportConfig, *, is_problem: bool
) -> tuple[str, str, list[int]]:
    if is_problem:
        prompt = render_prompt(
            value, tokenizer, template=config.template, system=config.system,
            thinking=config.thinking,
        )  # fmt: skip
        return prompt.text, prompt.kind, prompt.ids
    if _is_list(value):  # chat messages, as TRL and verl keep them
        text = tokenizer.apply_chat_template(
            _plain(value), tokenize=False, add_generation_prompt=True
        )
        return text, "messages", tokenizer(text, add_special_tokens=False)["input_ids"]
    return value, "raw", tokenizer(value, add_special_tokens=False)["input_ids"]


def check_ids_fit(rows: pd.DataFrame, tokenizer: Any, path: Path, limit: int = 200) -> None:
    """Check that token ids, read by this tokenizer, say the rollouts' text.

    The first `limit` rows are compared, white space aside.

    Raises:
        GeomrlError: an id is outside the vocabulary, or the ids say something else.
    """
    size = len(tokenizer)
    pairs: Sequence[tuple[str, list[int], str]] = list(
        zip(rows["rollout_id"], rows["response_ids"], rows["response"], strict=True)
    )
    for name, ids, text in pairs[:limit]:
        said = (
            tokenizer.decode(list(ids), skip_special_tokens=True)
            if max(ids, default=0) < size
            else ""
        )
        plain = tokenizer.decode(
            tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True
        )
        if "".join(said.split()) != "".join(plain.split()):
            raise GeomrlError(
                f"{path}: the token ids of rollout {name} do not say its text with this model's "
                f"tokenizer ({said[:40]!r} against {plain[:40]!r}): they are another tokenizer's. "
                "Tokenise the text again with --retokenize"
            )
