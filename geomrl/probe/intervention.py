"""Interventions: put another state in an anchor's place and see what the answer's probability does.

For every rollout the continuation from the marker to the answer's end is scored: its own where it is
correct, that of its group's first correct rollout where it is wrong. Replacing the anchor's state
leaves that continuation as it is, so the change in its log-probability is the state's doing.

What this cannot show: that the model would have *sampled* another answer; only how probable the
correct one became. Arms and targets are our choices; the paper makes no intervention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from geomrl.models.decoder import FINAL, score_next
from geomrl.models.trial import NATS, STATES, distance, nats
from geomrl.probe.extraction import ModelProbe, token_batches
from geomrl.probe.extractor import Rows, Write
from geomrl.probe.prefix import Prefix, read_prefix, takes_prefix
from geomrl.probe.trials import Trial
from geomrl.progress import Bar, Progress, Say
from geomrl.seeds import derive_rng
from geomrl.stats.intervals import mean_interval

ARMS = ("correct_mean", "random_residual", "other_mean")
LONG = 256
"""Mean tokens before the anchor from which they are run once; of less, a whole forward is as fast."""
LAYERS_AT_ONCE = 8
"""Layers that share a run of the tokens before the anchor; what a killed command loses at most."""


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
    say: Say = lambda line: None,
) -> pd.DataFrame:
    """Score every trial untouched and under each arm, layer by layer.

    Arms: `correct_mean`, the group's mean state over correct rollouts (the residual removed);
    `random_residual`, that mean plus a random direction of the residual's norm; `other_mean`, the
    correct mean of another problem, drawn by seed. `finished(layer, rows)` is called with each layer's
    rows; they do not depend on the other layers.

    Where the trials are long, the tokens before the anchor are run once for `LAYERS_AT_ONCE` layers,
    and each forward begins at the anchor (`probe.prefix`); `say` is called with the reason where this
    model needs whole forwards.

    Returns:
        One row a (layer, arm, rollout): rollout_id, problem, correct, logprob, change (in nats,
        against the untouched trial).
    """
    batches = token_batches([len(t.ids) for t in trials], batch_tokens)
    bar = Bar(progress)
    bar.set(0, len(trials) * (1 + len(layers) * len(ARMS)))
    from_anchor = _from_anchor(probe, trials, batches, layers, say=say)

    untouched = torch.empty(len(trials))
    states = {name: torch.empty(len(trials), probe.hidden_size) for name in layers}
    for batch in batches:
        score, read = _forwards(probe, [trials[i] for i in batch], from_anchor)(layers)
        untouched[torch.tensor(batch)] = score.cpu()
        for name in read:
            states[name][torch.tensor(batch)] = read[name].float().cpu()
        bar.advance(len(batch))

    frames = []
    at_once = LAYERS_AT_ONCE if from_anchor else 1
    for some in (layers[i : i + at_once] for i in range(0, len(layers), at_once)):
        values = {
            (layer, arm): torch.from_numpy(put).to(probe.loaded.dtype)
            for layer in some
            for arm, put in _replacements(states[layer].numpy(), trials, seed, layer)
        }
        logprobs = {name: torch.empty(len(trials)) for name in values}
        for batch in batches:
            at = torch.tensor(batch)
            forward = _forwards(probe, [trials[i] for i in batch], from_anchor)
            for (layer, arm), put in values.items():
                logprobs[layer, arm][at] = forward([], put=(layer, put[at]))[0].cpu()
                bar.advance(len(batch))
        for layer in some:
            arms = [
                _arm_frame(
                    trials, layer, anchor=anchor, arm=arm, logprob=logprob, untouched=untouched
                )
                for (of, arm), logprob in logprobs.items()
                if of == layer
            ]
            frames.append(pd.concat(arms, ignore_index=True))
            if finished:
                finished(layer, frames[-1])
    return pd.concat(frames, ignore_index=True)


def _from_anchor(
    probe: ModelProbe,
    trials: Sequence[Trial],
    batches: Sequence[Sequence[int]],
    layers: Sequence[str],
    *,
    say: Say,
) -> bool:
    """Return whether forwards begin at the anchor: the trials are long, and the model is itself there.

    The batch of the longest trials is tried, and the one with the most padding: its first and last
    trial must score by both ways what rounding lets them, untouched and each with the other's state at
    a layer in the middle.
    """
    if np.mean([t.anchor for t in trials]) < LONG:
        return False
    reason = "its forward does not take keys and values of earlier tokens"
    if takes_prefix(probe.loaded.model.base_model):
        ordered = [sorted((trials[i] for i in batch), key=lambda t: t.anchor) for batch in batches]
        longest = max(ordered, key=lambda batch: batch[-1].anchor)
        padded = max(
            ordered, key=lambda batch: (batch[-1].anchor - batch[0].anchor, batch is longest)
        )
        several = [longest] if padded is longest else [longest, padded]
        tried = [batch[:: max(len(batch) - 1, 1)] for batch in several]
        layer = layers[len(layers) // 2]
        reason = next(filter(None, (_disagreement(probe, pair, layer) for pair in tried)), "")
    if reason:
        say(f"note: {probe.loaded.name}: {reason}, so every replacement is a whole forward")
    return not reason


def _disagreement(probe: ModelProbe, pair: Sequence[Trial], layer: str) -> str:
    """Return how a forward from the anchor differs from a whole one; empty where it does not."""
    prefix = _prefix(probe, pair)
    if prefix is None:
        return "it keeps something else of earlier tokens than keys and values"
    tokens = torch.tensor([len(t.answer) for t in pair], device=probe.loaded.device)
    dtype = probe.loaded.dtype
    score, read = _score(probe, pair, [layer])
    put = (layer, read[layer].flip(0))
    changed, _ = _score(probe, pair, [], put=put)
    # One prefix in turn, the writing forward first: a forward must leave it as it is.
    changed_here, _ = _score(probe, pair, [], put=put, prefix=prefix)
    score_here, read_here = _score(probe, pair, [layer], prefix=prefix)
    apart = max(
        nats(here / tokens, whole / tokens)
        for here, whole in ((score_here, score), (changed_here, changed))
    )
    if not apart <= NATS.get(dtype, 1e-3):
        return f"a forward from the anchor scores otherwise than a whole one ({apart:.2g} nats a token)"
    far = distance(read_here[layer], read[layer])
    if not far <= STATES.get(dtype, 1e-3):
        return f"a forward from the anchor gives other states than a whole one (by {far:.2g})"
    return ""


def _prefix(probe: ModelProbe, batch: Sequence[Trial]) -> Prefix | None:
    """Run the tokens before the trials' anchors; None where there are none, or the model keeps others."""
    before = [t.ids[: t.anchor] for t in batch]
    if not any(before):
        return None
    return read_prefix(probe.loaded.model.base_model, before, probe.loaded.device)


def _forwards(probe: ModelProbe, batch: Sequence[Trial], from_anchor: bool) -> Any:
    """Return what runs one batch, a layer of it replaced: `_score` without its first arguments."""
    prefix = _prefix(probe, batch) if from_anchor else None
    return partial(_score, probe, batch, prefix=prefix)


def _score(
    probe: ModelProbe,
    batch: Sequence[Trial],
    layers: Sequence[str],
    *,
    put: tuple[str, Float[Tensor, "trials hidden"]] | None = None,
    prefix: Prefix | None = None,
) -> tuple[Float[Tensor, " trials"], dict[str, Tensor]]:
    """Return each trial's answer log-probability, and the anchor states of `layers`.

    `put` is a layer and what replaces its states at the anchor. With the prefix, the forward begins
    at the anchor.
    """
    device = probe.loaded.device
    first = [t.anchor if prefix else 0 for t in batch]
    ids = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(t.ids[at:]) for t, at in zip(batch, first, strict=True)], batch_first=True
    ).to(device)
    anchors = [(i, t.anchor - first[i]) for i, t in enumerate(batch)]
    predicting = [(i, p - 1 - first[i]) for i, t in enumerate(batch) for p in t.answer]
    rows = _rows([*anchors, *predicting], device)
    write = Write(put[0], _rows(anchors, device), put[1].to(device)) if put else None
    inputs = prefix.behind(ids) if prefix else {"input_ids": ids, "use_cache": False}
    read = probe.extractor.read(inputs, rows, [*layers, FINAL], write).states
    targets = torch.tensor([t.ids[p] for t in batch for p in t.answer], device=device)
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
