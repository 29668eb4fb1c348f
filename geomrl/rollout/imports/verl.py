"""Rollouts and validation samples that verl dumps (`STEP.jsonl`).

`trainer.rollout_data_dir` and `trainer.validation_data_dir`: `input, output, gts, score, step` and
what the reward function returns beside (`acc`, `pred`). Texts are decoded without special tokens, so
prompts are mended afterwards ([source](https://github.com/volcengine/verl/blob/main/verl/trainer/ppo/ray_trainer.py)).
"""

from __future__ import annotations

import pandas as pd

from geomrl.progress import Say
from geomrl.rollout.imports.flat import with_verdict
from geomrl.rollout.imports.format import Format, signature


def _flat(raw: pd.DataFrame, say: Say) -> pd.DataFrame:
    """Leave ids of single rows aside, which do not say which rollouts share a problem."""
    rows = raw.drop(columns=[name for name in ("uid", "request_id") if name in raw])
    return rows if "acc" in rows else with_verdict(rows)


FORMAT = Format(
    tool="verl",
    files="STEP.jsonl",
    signatures=(signature("input", "output", "score", "step"),),
    flat=_flat,
)
