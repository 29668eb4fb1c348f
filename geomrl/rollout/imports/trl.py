"""Completions that TRL's trainers log (`completions/completions_STEP.parquet`).

With `log_completions`: `step, prompt, completion`, a column for each reward function, what was logged
besides, `advantage`. Texts are decoded without special tokens; golds are seldom among them, so that
verdicts are those of a reward of 0 and 1
([source](https://github.com/huggingface/trl/blob/main/trl/trainer/grpo_trainer.py)).
"""

from __future__ import annotations

import pandas as pd

from geomrl.progress import Say
from geomrl.rollout.imports.flat import with_verdict, without_repeated_steps
from geomrl.rollout.imports.format import Format, signature


def _flat(raw: pd.DataFrame, say: Say) -> pd.DataFrame:
    """Name the reward that says right or wrong."""
    return with_verdict(raw)


FORMAT = Format(
    tool="TRL",
    files="completions/completions_STEP.parquet",
    signatures=(signature("step", "prompt", "completion", "advantage"),),
    flat=_flat,
    distinct=without_repeated_steps,
)
