"""Predictions of OpenCompass (`predictions/MODEL/SET.json`): one object, a number a request.

`origin_prompt` (a text, or turns of HUMAN, BOT and SYSTEM), `prediction` (a text, or a list), `gold`. A
number is the request's, not the problem's: rollouts share a problem where their prompts are the same
([source](https://github.com/open-compass/opencompass/blob/main/opencompass/openicl/icl_inferencer/icl_base_inferencer.py)).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.progress import Say
from geomrl.rollout.imports.files import FILE, KEY
from geomrl.rollout.imports.flat import mapped
from geomrl.rollout.imports.format import Format, signature

_ROLES = {"HUMAN": "user", "BOT": "assistant", "SYSTEM": "system"}
_SHARD = re.compile(r"_\d+$")


def _flat(raw: pd.DataFrame, say: Say) -> pd.DataFrame:
    """Turn prompts into chats; files of one set's shards have its name."""
    shards = [_SHARD.sub("", Path(file).stem) for file in raw[FILE]]
    rows = mapped(raw, lambda row: {"prompt": _prompt(row["origin_prompt"])})
    rows = rows.assign(response=raw["prediction"], benchmark=shards)
    return rows.drop(columns=[name for name in (KEY, "idx") if name in rows])


def _prompt(prompt: Any) -> Any:
    if not isinstance(prompt, list):
        return prompt
    return [
        {"role": _ROLES.get(str(turn["role"]), turn["role"]), "content": turn.get("prompt")}
        for turn in prompt
        if isinstance(turn, dict)
    ]


FORMAT = Format(
    tool="OpenCompass",
    files="predictions/MODEL/SET.json",
    signatures=(signature("origin_prompt", "prediction"),),
    flat=_flat,
    texts="question",
)
