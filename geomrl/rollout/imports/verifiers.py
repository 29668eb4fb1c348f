"""Results of verifiers' evaluations (`results.jsonl`): prompt and completion are chats, or texts.

`example_id, prompt, completion, answer, reward, is_truncated, stop_condition`, `error` where a
rollout failed
([source](https://github.com/PrimeIntellect-ai/verifiers/blob/main/verifiers/legacy/utils/save_utils.py)).
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from geomrl.progress import Say
from geomrl.rollout.imports.flat import mapped, without
from geomrl.rollout.imports.format import Format, signature


def _flat(raw: pd.DataFrame, say: Say) -> pd.DataFrame:
    """Leave out rollouts that failed, and those of several turns."""
    turns = raw["completion"].map(_turns)
    rows = without(raw, turns == 0, "they failed before a response was sampled", say)
    turns = rows["completion"].map(_turns)
    several = "the model answered in several turns, between which others spoke"
    rows = without(rows, turns > 1, several, say)
    return mapped(rows, lambda row: {"finish_reason": _end(row)})


def _turns(completion: Any) -> int:
    if isinstance(completion, str):
        return int(bool(completion))
    turns = completion if hasattr(completion, "__len__") else []
    return sum(turn.get("role") == "assistant" for turn in turns)


def _end(row: dict[str, Any]) -> str | None:
    truncated = row.get("is_truncated")
    return None if truncated is None else "length" if truncated else "stop"


FORMAT = Format(
    tool="verifiers",
    files="results.jsonl",
    signatures=(signature("example_id", "prompt", "completion", "reward"),),
    flat=_flat,
)
