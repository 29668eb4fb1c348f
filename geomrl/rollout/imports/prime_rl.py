"""Episodes that prime-rl and verifiers 1 write (`rollouts/step_N/train/all/traces.jsonl`).

One episode a line: `id, env, task{data, key, hash}, group{id}, run{work{step}}, ok, traces`; a trace
is a graph of messages, `nodes[{parent, message, sampled, token_ids, mask}]`, whose ids along a path
are exactly what the model read and sampled
([source](https://github.com/PrimeIntellect-ai/verifiers/blob/main/verifiers/v1/graph.py)).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.problems.nested import plain
from geomrl.progress import Say
from geomrl.rollout.imports.files import ASKED, FILE, ROW, SAID
from geomrl.rollout.imports.flat import first_at, without
from geomrl.rollout.imports.format import Format, signature

_GOLD = ("answer", "gold", "ground_truth", "gt", "expected_answer", "target", "solution")
_LIMITS = ("max_output_tokens", "max_total_tokens", "context_length")


def _flat(raw: pd.DataFrame, say: Say) -> pd.DataFrame:
    """Return a row for each trace of one turn of the model that is trained."""
    rows = pd.DataFrame(
        [row for record in raw.to_dict("records") for row in _traces(plain(record))]
    )
    rows = without(rows, rows["turns"] == 0, "they failed before a response was sampled", say)
    several = "the model answered in several turns, between which others spoke"
    rows = without(rows, rows["turns"] > 1, several, say)
    return rows.dropna(axis="columns", how="all")


def _traces(episode: dict[str, Any]) -> Iterator[dict[str, Any]]:
    common = {
        "id": episode["id"],
        "problem_id": first_at(episode, "task.key", "task.hash", "group.id", "task.data.idx"),
        "gold": first_at(episode, *(f"task.data.{name}" for name in _GOLD)),
        "benchmark": first_at(episode, "env.name", "env.id"),
        "step": first_at(episode, "run.work.step"),
        "policy": first_at(episode, "run.name", "run.id"),
        FILE: episode[FILE],
        ROW: episode[ROW],
    }
    traces = episode.get("traces") or []
    ours = [each for each in traces if first_at(each, "agent.trainable") is not False]
    for number, trace in enumerate(ours or [{}]):
        yield {**common, "trace": number, "label": _verdict(trace), **_turn(trace)}


def _turn(trace: dict[str, Any]) -> dict[str, Any]:
    """Return the prompt and the response of a trace's one sampled message, as ids where it has them."""
    nodes = trace.get("nodes") or []
    sampled = [number for number, node in enumerate(nodes) if node.get("sampled")]
    found: dict[str, Any] = {"turns": len(sampled)}
    if len(sampled) != 1:
        return found
    path: list[dict[str, Any]] = []
    at: int | None = sampled[0]
    while at is not None:
        path.insert(0, nodes[at])
        at = nodes[at].get("parent")
    last = path[-1]
    ids, mask = last.get("token_ids") or [], last.get("mask") or []
    truncated = trace.get("stop_condition") in _LIMITS or any(
        call.get("finish_reason") == "length" for call in trace.get("calls") or []
    )
    found["finish_reason"] = "length" if truncated else "stop"
    chat = [node["message"] for node in path]
    if not any(mask):
        return {**found, "prompt": chat[:-1], "response": chat[-1:]}
    begin = mask.index(True)
    before = [token for node in path[:-1] for token in node.get("token_ids") or []]
    return {
        **found,
        ASKED: chat[:-1],
        SAID: chat[-1:],
        "prompt_ids": before + ids[:begin],
        "response_ids": [token for token, own in zip(ids, mask, strict=True) if own],
    }


def _verdict(trace: dict[str, Any]) -> Any:
    """Return the score of the only reward, or of the only one that counts."""
    rewards = [each for each in (trace.get("rewards") or {}).values() if each]
    counted = [each for each in rewards if each.get("weight", 1.0) != 0]
    return counted[0]["score"] if len(counted) == 1 else None


def _one_episode(rows: pd.DataFrame, path: Path, say: Say) -> pd.DataFrame:
    """Keep each episode once: those of a batch (`effective`) are also among all (`all`)."""
    repeated = rows.duplicated(["id", "trace"])
    if not repeated.any():
        return rows
    say(f"note: {path}: {repeated.sum()} episodes stand there twice ('all', 'effective')")
    return rows[~repeated].reset_index(drop=True)


FORMAT = Format(
    tool="prime-rl",
    files="rollouts/step_N/train/all/traces.jsonl",
    signatures=(signature("task", "traces", "env"),),
    flat=_flat,
    distinct=_one_episode,
)
