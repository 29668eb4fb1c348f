"""Interventions: put another state in an anchor's place and see what the answer's probability does.

For every rollout the continuation from the marker to the answer's end is scored: its own where it is
correct, that of its group's first correct rollout where it is wrong. Replacing the anchor's state
leaves that continuation as it is, so the change in its log-probability is the state's doing.

What this cannot show: that the model would have *sampled* another answer; only how probable the
correct one became. Arms and targets are our choices; the paper makes no intervention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from geomrl.errors import GeomrlError
from geomrl.models.decoder import FINAL, score_next
from geomrl.probe.anchors import find_anchors
from geomrl.probe.extraction import ModelProbe, token_batches
from geomrl.probe.extractor import Rows, Write
from geomrl.progress import Bar, Progress
from geomrl.seeds import derive_rng
from geomrl.stats.intervals import mean_interval
from geomrl.verify.marker import Marker

ARMS = ("correct_mean", "random_residual", "other_mean")
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


@torch.inference_mode()
def replace(
    probe: ModelProbe,
    trials: Sequence[Trial],
    layers: Sequence[str],
    *,
    anchor: str,
    seed: int = 0,
    batch_tokens: int = 16384,
    progress: Progress | None = None,
    finished: Callable[[str, pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """Score every trial untouched and under each arm, layer by layer.

    Arms: `correct_mean`, the group's mean state over correct rollouts (the residual removed);
    `random_residual`, that mean plus a random direction of the residual's norm; `other_mean`, the
    correct mean of another problem, drawn by seed. `finished(layer, rows)` is called with each layer's
    rows; they do not depend on the other layers.

    Returns:
        One row a (layer, arm, rollout): rollout_id, problem, correct, logprob, change (in nats,
        against the untouched trial).
    """
    batches = token_batches([len(t.ids) for t in trials], batch_tokens)
    bar = Bar(progress)
    bar.set(0, len(trials) * (1 + len(layers) * len(ARMS)))

    def run(layer: str | None, values: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        logprob = torch.empty(len(trials))
        states = {name: torch.empty(len(trials), probe.hidden_size) for name in layers}
        for batch in batches:
            chosen = [trials[i] for i in batch]
            put = None if values is None else values[torch.tensor(batch)]
            score, read = _score(
                probe, chosen, layers=layers if layer is None else [], written=layer, values=put
            )
            logprob[torch.tensor(batch)] = score.cpu()
            for name in read:
                states[name][torch.tensor(batch)] = read[name].float().cpu()
            bar.advance(len(batch))
        return logprob, states

    untouched, states = run(None, None)
    frames = []
    for layer in layers:
        arms = []
        for arm, values in _replacements(states[layer].numpy(), trials, seed, layer):
            logprob, _ = run(layer, torch.from_numpy(values).to(probe.loaded.dtype))
            arms.append(
                _arm_frame(
                    trials, layer, anchor=anchor, arm=arm, logprob=logprob, untouched=untouched
                )
            )
        frames.append(pd.concat(arms, ignore_index=True))
        if finished:
            finished(layer, frames[-1])
    return pd.concat(frames, ignore_index=True)


def _score(
    probe: ModelProbe,
    batch: Sequence[Trial],
    layers: Sequence[str],
    written: str | None,
    values: Tensor | None,
) -> tuple[Float[Tensor, " trials"], dict[str, Tensor]]:
    """Return each trial's answer log-probability, and the anchor states of `layers`."""
    device = probe.loaded.device
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(t.ids) for t in batch], batch_first=True)
    anchors = [(i, t.anchor) for i, t in enumerate(batch)]
    predicting = [(i, p - 1) for i, t in enumerate(batch) for p in t.answer]
    rows = _rows([*anchors, *predicting], device)
    write = None
    if written is not None and values is not None:
        write = Write(written, _rows(anchors, device), values.to(device))
    inputs = {"input_ids": ids.to(device), "use_cache": False}
    read = probe.extractor.read(inputs, rows, [*layers, FINAL], write).states
    targets = torch.tensor([batch[i].ids[p + 1] for i, p in predicting], device=device)
    each, _ = score_next(probe.loaded.model, read[FINAL][len(batch) :], targets)
    owner = torch.tensor([i for i, _ in predicting], device=device)
    total = torch.zeros(len(batch), device=device).index_add(0, owner, each)
    return total, {name: read[name][: len(batch)] for name in layers}


def _rows(pairs: Sequence[tuple[int, int]], device: torch.device) -> Rows:
    sequence, position = (torch.tensor(x, device=device) for x in zip(*pairs, strict=True))
    return Rows(sequence, position)


def _replacements(
    states: Float[np.ndarray, "trials hidden"], trials: Sequence[Trial], seed: int, layer: str
) -> Iterator[tuple[str, Float[np.ndarray, "trials hidden"]]]:
    """Yield each arm's states."""
    problems = np.array([t.problem for t in trials])
    correct = np.array([t.correct for t in trials])
    names = list(dict.fromkeys(problems))
    mean_of = {name: states[(problems == name) & correct].mean(0) for name in names}
    own = np.stack([mean_of[p] for p in problems])
    yield "correct_mean", own

    rng = derive_rng(seed, "replace", "residual", layer)
    direction = rng.standard_normal(states.shape).astype(np.float32)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    yield "random_residual", own + direction * np.linalg.norm(states - own, axis=1, keepdims=True)

    if len(names) > 1:
        # One shift along a shuffled ring gives every problem another one.
        order = derive_rng(seed, "replace", "other").permutation(len(names))
        other = {names[a]: names[b] for a, b in zip(order, np.roll(order, 1), strict=True)}
        yield "other_mean", np.stack([mean_of[other[p]] for p in problems])


def _arm_frame(
    trials: Sequence[Trial], layer: str, anchor: str, arm: str, logprob: Tensor, untouched: Tensor
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "layer": layer,
            "anchor": anchor,
            "arm": arm,
            "rollout_id": [t.rollout_id for t in trials],
            "problem": [t.problem for t in trials],
            "correct": [t.correct for t in trials],
            "logprob": logprob.numpy(),
            "change": (logprob - untouched).numpy(),
        }
    )


def summarise_replacement(
    trials: pd.DataFrame, *, seed: int = 0, n_boot: int = 2000
) -> pd.DataFrame:
    """Return the mean change by layer, arm and verdict, each problem one vote, 95 % by problem."""
    rows: list[dict[str, Any]] = []
    for key, group in trials.groupby(["layer", "anchor", "arm", "correct"], sort=False):
        layer, anchor, arm, correct = key
        by_problem = group.groupby("problem", sort=False)["change"].mean().to_numpy()
        label = f"replace/{layer}/{anchor}/{arm}/{correct}"
        interval = mean_interval(by_problem, seed=seed, label=label, n_boot=n_boot)
        rows.append(
            {
                "layer": layer,
                "anchor": anchor,
                "arm": arm,
                "verdict": "correct" if correct else "wrong",
                "measure": "answer_logprob_change",
                "value": interval.value,
                "low": interval.low,
                "high": interval.high,
                "n_problems": len(by_problem),
                "n_rollouts": len(group),
                "n_boot": n_boot,
                "seed": seed,
            }
        )
    return pd.DataFrame(rows)


def arm_contrast(
    trials: pd.DataFrame,
    one: str = "correct_mean",
    other: str = "random_residual",
    *,
    correct: bool = True,
    seed: int = 0,
    n_boot: int = 2000,
) -> pd.DataFrame:
    """Return the difference of two arms' changes, paired by rollout, each problem one vote.

    Args:
        trials: what `replace` returned, of one encoder.
        one, other: arms; the difference is one - other, in nats.
        correct: of correct rollouts, or of wrong ones.
        seed: of the bootstrap.
        n_boot: its draws.

    Returns:
        One row an (anchor, layer): anchor, layer, value, low, high (95 % by problem), n_problems.
    """
    rows: list[dict[str, Any]] = []
    chosen = trials[trials["correct"] == correct]
    for (anchor, layer), group in chosen.groupby(["anchor", "layer"], sort=False):
        change = group.pivot(index=["problem", "rollout_id"], columns="arm", values="change")
        difference = (change[one] - change[other]).groupby("problem").mean().to_numpy(float)
        found = mean_interval(
            difference, seed=seed, label=f"replace/{layer}/{anchor}/{one}-{other}", n_boot=n_boot
        )
        rows.append(
            {"anchor": anchor, "layer": layer, "value": found.value, "low": found.low,
             "high": found.high, "n_problems": len(difference)}
        )  # fmt: skip
    return pd.DataFrame(rows)
