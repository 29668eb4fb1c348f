"""Samples of lm-eval (`samples_TASK_DATE.jsonl`), which repeat each document for every filter.

Prompts are the strings that were sent, or chats printed as JSON; they are read from `arguments`
([source](https://github.com/EleutherAI/lm-evaluation-harness/blob/main/lm_eval/evaluator.py)).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.problems.nested import plain
from geomrl.progress import Say
from geomrl.rollout.imports.columns import as_key
from geomrl.rollout.imports.files import FILE
from geomrl.rollout.imports.flat import without
from geomrl.rollout.imports.format import Format, signature

_NAME = re.compile(r"samples_(?P<task>.+?)_\d{4}-\d\d-\d\dT[\d.:-]+")


def _flat(raw: pd.DataFrame, say: Say) -> pd.DataFrame:
    """Name the task of each row by its file, and leave out what was not sampled."""
    no_text = "they have likelihoods of choices, and no sampled text"
    raw = without(raw, ~raw["resps"].map(_sampled), no_text, say)
    raw = raw.assign(filter=raw["filter"].map(as_key))
    found = {file: _NAME.fullmatch(Path(file).stem) for file in raw[FILE].unique()}
    if not all(found.values()):
        return raw
    return raw.assign(benchmark=[match["task"] for file in raw[FILE] if (match := found[file])])


def _sampled(responses: Any) -> bool:
    """Say whether a cell contains texts, in lists of lists."""
    inner = plain(responses)
    while isinstance(inner, list) and inner:
        inner = inner[0]
    return isinstance(inner, str)


def _one_filter(raw: pd.DataFrame, path: Path, say: Say) -> pd.DataFrame:
    """Keep one row a document.

    The repeats contain the same responses: as rollouts of their own, each would have a twin.

    Raises:
        GeomrlError: rows of one document differ in more than the filter.
    """
    if "filter" not in raw or raw["filter"].nunique() < 2:
        return raw
    texts = raw["resps"].map(as_key)
    document = [raw["doc_id"].map(as_key), raw[FILE]]
    first = str(raw["filter"].iloc[0])
    if (texts.groupby(document).nunique() > 1).any():
        raise GeomrlError(
            f"{path}: rows of several filters ({', '.join(map(str, raw['filter'].unique()))}) hold "
            f"different responses to one document; take one filter with --where filter={first}"
        )
    kept = raw.groupby(FILE)["filter"].transform("first")
    say(
        f"note: {path}: every document stands there once for each of {raw['filter'].nunique()} "
        f"filters, with the same responses; those of filter '{first}' are taken"
    )
    return raw[raw["filter"] == kept].reset_index(drop=True)


FORMAT = Format(
    tool="lm-eval",
    files="samples_TASK_DATE.jsonl",
    signatures=(signature("filter", "doc_id", "resps"),),
    flat=_flat,
    distinct=_one_filter,
    texts="sampled",
)
