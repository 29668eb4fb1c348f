"""Details of lighteval (`details/MODEL/DATE/details_TASK_DATE.parquet`), before and since version 0.9.

Since: structs `doc{query, choices, gold_index, id, task_name}`, `model_response{input, input_tokens,
text[], output_tokens[][]}`, `metric`. Before: `full_prompt, predictions[], gold[]`. The gold answer is
the choice at `gold_index`; `text_post_processed` lacks the reasoning and is left aside
([source](https://github.com/huggingface/lighteval/blob/main/src/lighteval/logging/info_loggers.py)).
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from geomrl.progress import Say
from geomrl.rollout.imports.flat import mapped, message, one_of_alternatives, unfolded, without
from geomrl.rollout.imports.format import Format, signature


def _flat(raw: pd.DataFrame, say: Say) -> pd.DataFrame:
    """Return a row a response."""
    rows = mapped(raw, _row if "doc" in raw else _older)
    if "response" not in rows:
        rows = rows.assign(response=None)
    no_text = "they have likelihoods of choices, and no sampled text"
    rows = without(rows, rows["response"].isna(), no_text, say)
    rows = unfolded(rows, ["response", "response_ids"])
    unknown = "response_ids" in rows and rows["response_ids"].isna().any()
    return rows.drop(columns="response_ids") if unknown else rows


def _row(row: dict[str, Any]) -> dict[str, Any]:
    doc, said = row["doc"], row["model_response"]
    ids = said.get("output_tokens") or []
    given = bool(ids) and all(ids) and len(ids) == len(said["text"])
    prompt = said.get("input") or doc["query"]
    apart = [*(said.get("reasonings") or []), *[None] * len(said["text"])]
    responses = [message(text, why) for text, why in zip(said["text"], apart, strict=False)]
    return {
        "prompt": prompt if isinstance(prompt, str) or not said.get("input_tokens") else None,
        "prompt_ids": said.get("input_tokens") or None,
        "response": responses or None,
        "response_ids": ids if given else [None] * len(responses),
        "gold": _gold(doc),
        "problem_id": doc.get("id") or None,
        "benchmark": doc.get("task_name") or None,
    }


def _older(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt": row["full_prompt"],
        "response": row["predictions"] or None,
        "gold": one_of_alternatives(row["gold"]),
    }


def _gold(doc: dict[str, Any]) -> Any:
    """Return the right one of the choices, the first where there are several."""
    place = one_of_alternatives(doc["gold_index"])
    return doc["choices"][place]


FORMAT = Format(
    tool="lighteval",
    files="details/MODEL/DATE/details_TASK_DATE.parquet",
    signatures=(
        signature("doc", "model_response", "metric"),
        signature("full_prompt", "predictions", "gold"),
    ),
    flat=_flat,
    texts="sampled",
)
