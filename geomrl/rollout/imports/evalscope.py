"""Reviews of evalscope (`reviews/MODEL/SET.jsonl`), or its predictions with the reviews beside them.

Reviews: `index, target, messages, sample_score{score{value, prediction}, group_id, generation_index}`.
Predictions (`predictions/MODEL/SET.jsonl`): `index, model, model_output{choices}, messages`, which say
how a response ended ([source](https://github.com/modelscope/evalscope/blob/main/evalscope/api/evaluator/cache.py)).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.progress import Say
from geomrl.rollout.imports.chats import as_chat, ends_with_answer
from geomrl.rollout.imports.columns import as_key
from geomrl.rollout.imports.files import FILE
from geomrl.rollout.imports.flat import asked, first_at, mapped, message
from geomrl.rollout.imports.format import Format, signature

_ENDS = {"max_tokens": "length", "model_length": "length"}


def _flat(raw: pd.DataFrame, say: Say) -> pd.DataFrame:
    """Return the reviews, each with what its prediction says of its end.

    Raises:
        GeomrlError: there are predictions without reviews.
    """
    reviewed = raw["sample_score"].notna() if "sample_score" in raw else pd.Series(False, raw.index)
    predicted, reviews = raw[~reviewed], raw[reviewed]
    names = [Path(file).name for file in raw[FILE]]
    keys = pd.Series(
        list(zip(_models(raw), names, raw["index"].map(as_key), strict=True)), index=raw.index
    )
    lost = set(keys[~reviewed]) - set(keys[reviewed])
    if lost:
        raise GeomrlError(
            f"{predicted[FILE].iloc[0]}: {len(lost)} predictions of evalscope without a review, which "
            "has the gold answer (reviews/MODEL/SET.jsonl); give the folder that contains both"
        )
    rows = mapped(reviews, _row).assign(
        policy=_models(reviews), benchmark=[Path(file).stem for file in reviews[FILE]]
    )
    if not predicted.empty:
        ends = _in_turn(keys[~reviewed])
        ended = dict(zip(ends, predicted["model_output"].map(_end), strict=True))
        found = [ended.get(key) for key in _in_turn(keys[reviewed])]
        rows["finish_reason"] = pd.Series(found, index=rows.index, dtype=object)
    return rows.reset_index(drop=True)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    score = row["sample_score"]
    chat = as_chat(row.get("messages"))
    if chat is None or not ends_with_answer(chat):
        response = message(first_at(score, "score.prediction"))
        chat = [*(chat or asked(str(row.get("input")))), *response]
    values = list((first_at(score, "score.value") or {}).values())
    return {
        "prompt": chat[:-1],
        "response": chat[-1:],
        "gold": row.get("target"),
        "label": values[0] if values else None,
        "problem_id": row["index"] if score.get("group_id") is None else score["group_id"],
        "sample": score.get("generation_index"),
    }


def _models(raw: pd.DataFrame) -> list[str]:
    """Return the models' names: those of the files' folders."""
    return [Path(file).parent.name or "evalscope" for file in raw[FILE]]


def _in_turn(keys: pd.Series) -> list[tuple[Any, int]]:
    """Return keys with a number that tells repeated ones apart."""
    return list(zip(keys, keys.groupby(keys).cumcount(), strict=True))


def _end(output: Any) -> str | None:
    ended = first_at(output, "choices.0.stop_reason") if isinstance(output, dict) else None
    return _ENDS.get(str(ended), ended)


def _reviews(file: Path) -> list[Path]:
    """Return the reviews of predictions."""
    folder = file.parent.parent
    found = folder.with_name("reviews") / file.parent.name / file.name
    return [found] if folder.name == "predictions" and found.is_file() else []


FORMAT = Format(
    tool="evalscope",
    files="reviews/MODEL/SET.jsonl, predictions/MODEL/SET.jsonl",
    signatures=(signature("index", "sample_score"), signature("index", "model_output", "messages")),
    flat=_flat,
    beside=_reviews,
)
