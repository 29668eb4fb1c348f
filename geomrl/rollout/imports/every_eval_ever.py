"""Samples of Every Eval Ever (`UUID_samples.jsonl`), instance-level schema 0.2.

`sample_id, model_id, evaluation_name, input{raw, formatted, reference[]}, output{raw[],
reasoning_trace[]}, evaluation{is_correct}`; a sample that several metrics score is repeated
([source](https://github.com/evaleval/every_eval_ever/blob/main/every_eval_ever/schemas/instance_level_eval.schema.json)).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.progress import Say
from geomrl.rollout.imports.columns import as_key
from geomrl.rollout.imports.flat import (
    asked,
    mapped,
    message,
    one_of_alternatives,
    unfolded,
    without,
)
from geomrl.rollout.imports.format import Format, signature


def _flat(raw: pd.DataFrame, say: Say) -> pd.DataFrame:
    """Return a row a response."""
    output = raw.get("output", pd.Series(None, index=raw.index, dtype=object))
    several = "they are transcripts of several turns"
    rows = mapped(without(raw, output.isna(), several, say), _row)
    return unfolded(rows, ["response"])


def _row(row: dict[str, Any]) -> dict[str, Any]:
    asks, said = row["input"], row["output"]
    traces = [*(said.get("reasoning_trace") or []), *[None] * len(said["raw"])]
    verdict = row["evaluation"]["is_correct"] if len(said["raw"]) == 1 else None
    return {
        "prompt": asks.get("formatted") or asked(asks["raw"]),
        "response": [message(text, why) for text, why in zip(said["raw"], traces, strict=False)],
        "gold": one_of_alternatives(asks.get("reference")),
        "label": verdict,
        "problem_id": row["sample_id"],
        "policy": row["model_id"],
        "benchmark": row["evaluation_name"],
    }


def _one_metric(rows: pd.DataFrame, path: Path, say: Say) -> pd.DataFrame:
    """Keep the first result of each sample where others contain the same responses."""
    named = [name for name in ("evaluation_name", "evaluation_result_id") if name in rows]
    result = rows[named].map(as_key).agg(" ".join, axis="columns")
    sample = [rows[name].map(as_key) for name in ("model_id", "sample_id", "input")]
    texts = rows["response"].map(as_key).groupby([*sample, result]).agg(sorted).map(tuple)
    repeated = texts.groupby(level=[0, 1, 2]).nunique().eq(1).all()
    first = result.groupby(sample).transform("first")
    if not repeated or (result == first).all():
        return rows
    say(
        f"note: {path}: a sample stands there once for each of {result.nunique()} results, with the same "
        "responses; those of its first one are taken"
    )
    return rows[result == first].reset_index(drop=True)


FORMAT = Format(
    tool="Every Eval Ever",
    files="UUID_samples.jsonl",
    signatures=(signature("sample_id", "model_id", "evaluation_name", "input", "evaluation"),),
    flat=_flat,
    distinct=_one_metric,
    texts="sampled",
)
