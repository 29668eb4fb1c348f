"""Rollouts that open-instruct saves (`RUN_rollouts_SHARD.jsonl`): token ids, and no text.

`step, prompt_idx, prompt_tokens, response_tokens, reward, finish_reason, dataset, ground_truth`; texts
are decoded from the ids ([source](https://github.com/allenai/open-instruct/blob/main/open_instruct/rl_utils.py)).
"""

from __future__ import annotations

import pandas as pd

from geomrl.progress import Say
from geomrl.rollout.imports.flat import mapped, one_of_alternatives
from geomrl.rollout.imports.format import Format, signature


def _flat(raw: pd.DataFrame, say: Say) -> pd.DataFrame:
    """Take the first of a row's answers and data sets, which are lists."""
    return mapped(
        raw,
        lambda row: {
            "prompt_ids": row["prompt_tokens"],
            "response_ids": row["response_tokens"],
            "gold": one_of_alternatives(row.get("ground_truth")),
            "benchmark": one_of_alternatives(row.get("dataset")),
        },
    )


FORMAT = Format(
    tool="open-instruct",
    files="RUN_rollouts_SHARD.jsonl",
    signatures=(signature("step", "prompt_idx", "prompt_tokens", "response_tokens"),),
    flat=_flat,
)
