"""Generations of NeMo-Skills (`output-rsSEED.jsonl`, one file a sample): problems, and no prompts.

`problem, expected_answer, generation`, and what of the data set and the grader is beside. Reasoning
that was split off is in `_full_generation` (with the rest) or `reasoning_content`
([source](https://github.com/NVIDIA/NeMo-Skills/blob/main/nemo_skills/inference/generate.py)).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.progress import Say
from geomrl.rollout.imports.files import FILE
from geomrl.rollout.imports.flat import first_at, mapped, message
from geomrl.rollout.imports.format import Format, signature

_SEED = re.compile(r"-rs(\d+)")


def _flat(raw: pd.DataFrame, say: Say) -> pd.DataFrame:
    """Put reasoning back; name benchmarks by their folder, and samples by the seed of their file."""
    return mapped(raw, _row)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    seed = _SEED.search(Path(row[FILE]).stem)
    text, apart = row["generation"], row.get("reasoning_content")
    return {
        "response": row.get("_full_generation") or (message(text, apart) if apart else text),
        "gold": row["expected_answer"],
        "label": first_at(row, "symbolic_correct", "is_correct", "judge_correct"),
        "sample": int(seed[1]) if seed else None,
        "benchmark": Path(row[FILE]).resolve().parent.name,
    }


FORMAT = Format(
    tool="NeMo-Skills",
    files="output-rsSEED.jsonl",
    signatures=(signature("problem", "expected_answer", "generation"),),
    flat=_flat,
)
