"""Logs of Inspect: `.eval` archives, or the same as JSON; one row a sample and epoch.

`id, epoch, input, target, messages, output{choices[{message, stop_reason}]}, scores, attachments`; long
texts are in `attachments`, in their place `attachment://HASH`
([source](https://github.com/UKGovernmentBEIS/inspect_ai/blob/main/src/inspect_ai/log/_log.py)).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from geomrl.progress import Say
from geomrl.rollout.imports.flat import (
    asked,
    first_at,
    mapped,
    one_of_alternatives,
    unfolded,
    without,
)
from geomrl.rollout.imports.format import Format, signature

_ATTACHED = "attachment://"
_ENDS = {"max_tokens": "length", "model_length": "length"}
_VERDICTS = {"C": True, "I": False}


def _flat(raw: pd.DataFrame, say: Say) -> pd.DataFrame:
    """Part a sample's messages into the prompt and the response, and name its problem and epoch."""
    rows = mapped(raw, _row)
    if "response" not in rows:
        rows = rows.assign(response=None)
    failed = "they failed before a response was sampled"
    rows = without(rows, rows["response"].isna(), failed, say)
    return unfolded(rows, ["response", "finish_reason"])


def _row(sample: dict[str, Any]) -> dict[str, Any]:
    attached = sample.get("attachments") or {}
    choices = _whole(first_at(sample, "output.choices") or [], attached)
    ended = [choice.get("stop_reason") for choice in choices]
    chat = _whole(sample.get("messages") or [], attached)
    asks = _whole(sample["input"], attached)
    before = chat[:-1] if chat and chat[-1].get("role") == "assistant" else chat
    return {
        "prompt": before or (asked(asks) if isinstance(asks, str) else asks),
        "response": [[choice["message"]] for choice in choices] or None,
        "gold": one_of_alternatives(_whole(sample.get("target"), attached)),
        "label": _verdict(sample.get("scores") or {}),
        "problem_id": sample["id"],
        "sample": sample["epoch"],
        "benchmark": first_at(sample, "eval.task"),
        "policy": first_at(sample, "eval.model", "output.model"),
        "finish_reason": [_ENDS.get(end, end) for end in ended] or None,
    }


def _whole(value: Any, attached: Mapping[str, str]) -> Any:
    """Return a value with its attachments in their places."""
    if isinstance(value, str):
        return attached.get(value.removeprefix(_ATTACHED), value)
    if isinstance(value, list):
        return [_whole(each, attached) for each in value]
    if isinstance(value, dict):
        return {key: _whole(each, attached) for key, each in value.items()}
    return value


def _verdict(scores: Mapping[str, Any]) -> Any:
    """Return the verdict of the only scorer."""
    values = [score.get("value") for score in scores.values()]
    return _VERDICTS.get(str(values[0]), values[0]) if len(values) == 1 else None


FORMAT = Format(
    tool="Inspect",
    files="LOG.eval, LOG.json",
    signatures=(signature("id", "epoch", "input", "target", "output"),),
    flat=_flat,
)
