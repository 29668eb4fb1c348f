"""Completions that ms-swift's GRPO logs (`completions.jsonl`): a line a step, a list a column.

`step, prompt, completion`, a column for each reward function, `advantages`. Prompts are written with
their special tokens ([source](https://github.com/modelscope/ms-swift/blob/main/swift/rlhf_trainers/grpo_trainer.py)).
"""

from __future__ import annotations

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.progress import Say
from geomrl.rollout.imports.columns import is_list
from geomrl.rollout.imports.files import FILE
from geomrl.rollout.imports.flat import unfolded, with_verdict, without_repeated_steps
from geomrl.rollout.imports.format import Format, signature


def _flat(raw: pd.DataFrame, say: Say) -> pd.DataFrame:
    """Take the lines apart."""
    sizes = [len(cell) if is_list(cell) else None for cell in raw["completion"]]
    lists = [
        str(name) for name in raw
        if all(is_list(cell) and len(cell) == n for cell, n in zip(raw[name], sizes, strict=True))
    ]  # fmt: skip
    if "completion" not in lists:
        raise GeomrlError(
            f"{raw[FILE].iloc[0]}: a line whose completion is no list; ms-swift writes a list a line"
        )
    return with_verdict(unfolded(raw, lists))


FORMAT = Format(
    tool="ms-swift",
    files="completions.jsonl",
    signatures=(signature("step", "prompt", "completion", "advantages"),),
    flat=_flat,
    distinct=without_repeated_steps,
    texts="sampled",
)
