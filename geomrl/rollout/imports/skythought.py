"""Results of SkyThought (`results.json`): one object, a problem a key, responses inside.

`responses[{content, correctness}]` (before February 2025 under their temperature), `prompt`,
`input_conversation`, and the data set's own columns, the gold answer among them
([source](https://github.com/NovaSky-AI/SkyThought/blob/main/skythought/evals/inference_and_check.py)).
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from geomrl.progress import Say
from geomrl.rollout.imports.files import KEY
from geomrl.rollout.imports.flat import asked, first_at, mapped, unfolded
from geomrl.rollout.imports.format import Format, signature

_UNFOLDED = ["response", "label", "temperature"]


def _flat(raw: pd.DataFrame, say: Say) -> pd.DataFrame:
    """Return a row a response; the problem's key is its id."""
    rows = unfolded(mapped(raw, _row), _UNFOLDED)
    temperatures = [name for name in rows["temperature"].unique() if name is not None]
    if len(temperatures) > 1:
        say(
            f"note: responses of {len(temperatures)} temperatures ({', '.join(temperatures)}) are read "
            f"as one policy's; take one with --where temperature={temperatures[0]}"
        )
    return rows


def _row(row: dict[str, Any]) -> dict[str, Any]:
    found = [*_responses(row["responses"])]
    return {
        "prompt": row.get("input_conversation") or asked(_question(row)),
        "response": [entry["content"] for _, entry in found],
        "label": [entry.get("correctness") for _, entry in found],
        "temperature": [temperature for temperature, _ in found],
        "problem_id": row.get(KEY, row.get("_index")),
    }


def _question(row: dict[str, Any]) -> str:
    return str(first_at(row, "prompt", "problem", "question") or row.get(KEY))


def _responses(value: Any) -> list[tuple[str | None, dict[str, Any]]]:
    """Return (temperature, response) pairs, of a list, or of such lists or single ones by temperature."""
    if isinstance(value, str):
        return [(None, {"content": value})]
    if isinstance(value, list):
        return [pair for entry in value for pair in _responses(entry)]
    if "content" in value:
        return [(None, value)]
    return [(key, entry) for key, inner in value.items() for _, entry in _responses(inner)]


FORMAT = Format(
    tool="SkyThought",
    files="results.json",
    signatures=(
        signature("responses", "input_conversation"),
        signature("responses", "token_usages"),
        signature(KEY, "responses"),
    ),
    flat=_flat,
)
