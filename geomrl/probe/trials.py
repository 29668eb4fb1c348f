"""The trials of an intervention: a rollout up to its marker, with the correct answer behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.probe.anchors import find_anchors
from geomrl.probe.extraction import ModelProbe
from geomrl.verify.marker import Marker

_NAMES = ("before_marker", "answer_last")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One rollout with the correct answer's tokens behind it.

    `ids` is prompt, response up to the marker, and the marker with the correct answer. `anchor` and
    `answer` are positions in `ids`; the answer's first token is at `answer.start`.
    """

    rollout_id: str
    problem: str
    correct: bool
    ids: list[int]
    anchor: int
    answer: range


def build_trials(
    probe: ModelProbe, rollouts: pd.DataFrame, marker: Marker, anchor: str
) -> list[Trial]:
    """Build a trial for every rollout whose group has two correct rollouts or more.

    Wrong rollouts take the marker and answer of their group's first correct rollout.
    """
    trials = []
    keys = ["benchmark", "problem_id"]
    for key, group in rollouts.groupby(keys, sort=False):
        spans = {
            row["rollout_id"]: (row, span)
            for row in group.to_dict("records")
            if row["verdict"] in ("correct", "wrong")
            and (span := _answer_span(probe, row, marker)) is not None
        }
        correct = [item for item in spans.values() if item[0]["verdict"] == "correct"]
        if len(correct) < 2:
            continue
        reference, reference_span = correct[0]
        for row, span in spans.values():
            right = row["verdict"] == "correct"
            source, where = (row, span) if right else (reference, reference_span)
            tail = list(source["response_ids"])[where.start : where.stop]
            response = list(row["response_ids"])[: span.start] + tail
            trial = _trial(
                probe,
                row,
                response=response,
                marker=marker,
                anchor=anchor,
                problem="/".join(map(str, key)),
            )
            if trial is not None:
                trials.append(trial)
    if not trials:
        raise GeomrlError(
            f"no problem has two correct rollouts with anchor '{anchor}', so there is no correct mean "
            "to put in: sample more (-n) or take easier problems"
        )
    return trials


def _answer_span(probe: ModelProbe, row: Mapping[Any, Any], marker: Marker) -> range | None:
    """Return the response tokens from the marker's first to the answer's last."""
    before, last = find_anchors(
        probe.tokens, row["response_ids"], marker, _NAMES, stop_ids=probe.stop_ids
    )
    if before.token_index is None or last.token_index is None:
        return None
    # One token more: the one that closes the marker, without which no anchor could be found.
    return range(before.token_index + 1, last.token_index + 2)


def _trial(
    probe: ModelProbe,
    row: Mapping[Any, Any],
    response: list[int],
    marker: Marker,
    anchor: str,
    problem: str,
) -> Trial | None:
    names = [anchor, "before_answer", "answer_last"]
    at = [a.token_index for a in find_anchors(probe.tokens, response, marker, names)]
    if None in at:
        return None
    where, before, last = (int(i) for i in at if i is not None)
    prompt = list(row["prompt_ids"])
    if where > before or where + len(prompt) < 0:
        return None  # behind the answer's start there is no effect on its first token
    loaded = probe.loaded
    room = min(loaded.max_length or 2**31, loaded.steady_length or 2**31)
    if len(prompt) + last + 1 > room:
        return None
    start = len(prompt) + before + 1
    return Trial(
        rollout_id=row["rollout_id"],
        problem=problem,
        correct=row["verdict"] == "correct",
        ids=prompt + response[: last + 1],
        anchor=len(prompt) + where,
        answer=range(start, len(prompt) + last + 1),
    )
