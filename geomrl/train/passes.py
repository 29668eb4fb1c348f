"""Passes without gradient over the policy in training: log-probabilities and states, on all ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map

from geomrl.probe.extractor import Extractor, Rows
from geomrl.progress import Progress
from geomrl.train.batch import Sample
from geomrl.train.deepspeed_engine import Runner
from geomrl.train.minibatch import pad, response_tokens
from geomrl.train.planning import Packing, most_tokens, plan_micro_batches
from geomrl.train.policy import head_calls

T = TypeVar("T")


@torch.no_grad()
def score(
    engine: Runner,
    samples: Sequence[Sample],
    *,
    budget: int,
    extractor: Extractor | None = None,
    anchors: Sequence[int | None] = (),
    layers: Sequence[str] = (),
    packing: Packing = "by_length",
    progress: Progress | None = None,
) -> tuple[list[Float[Tensor, " response"]], dict[str, Float[Tensor, "anchored hidden"]]]:
    """Return every response's log-probabilities under the present weights, on all ranks.

    With an extractor, also the states at `anchors` (positions in prompt and response together,
    None where there is none), from the same forwards: by layer, in the order of the rollouts.
    """
    lengths = [sample.n_tokens for sample in samples]
    plan, most = _plan(
        engine, lengths, [len(s.response_ids) for s in samples], budget=budget, packing=packing
    )
    device = engine.world.device
    logprobs: dict[int, Tensor] = {}
    states: dict[int, dict[str, Tensor]] = {}
    for number, rows in enumerate(plan):
        chosen = [samples[i] for i in rows]
        inputs: dict[str, Tensor | int] = {
            "input_ids": pad([s.ids for s in chosen], device),
            **response_tokens(chosen, device),
            "chunks": head_calls(most[number], engine.policy.head_chunk),
        }
        if extractor is None:
            found = run_policy(engine, inputs)[0]
        else:
            at = [(r, i, anchors[i]) for r, i in enumerate(rows) if anchors[i] is not None]
            where = Rows(_long([r for r, _, _ in at], device), _long([p for *_, p in at], device))
            reading = extractor.read(inputs, where, layers)
            found = reading.output[0]
            for number_in, (_, i, _) in enumerate(at):
                states[i] = {k: v[number_in].cpu() for k, v in reading.states.items()}
        parts = found.cpu().split([len(s.response_ids) for s in chosen]) if chosen else []
        logprobs |= dict(zip(rows, parts, strict=True))
        if progress:
            progress(number + 1, len(plan))
    whole = _joined(engine, logprobs)
    return [whole[i] for i in range(len(samples))], stack_states(engine, states, layers)


@torch.no_grad()
def read_states(
    engine: Runner,
    extractor: Extractor,
    sequences: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    layers: Sequence[str],
    *,
    budget: int,
    packing: Packing = "by_length",
    progress: Progress | None = None,
) -> dict[str, Float[Tensor, "positions hidden"]]:
    """Return states at chosen positions under the present weights, on all ranks.

    Each sequence is cut after its last position, since a causal model needs nothing behind it, and
    the head does not run at all.

    Args:
        engine: the engine around the policy.
        extractor: of the policy, called through the engine.
        sequences: token ids.
        positions: of each sequence, which of its states to read; none is allowed.
        layers: layer names.
        budget: padded tokens of a forward.
        packing: how sequences are packed (`planning.plan_micro_batches`).
        progress: called with (forwards done, of all).

    Returns:
        By layer, one row a position, sequence by sequence.
    """
    device = engine.world.device
    cut = [
        list(ids[: max(at) + 1]) if at else [] for ids, at in zip(sequences, positions, strict=True)
    ]
    used = [i for i, at in enumerate(positions) if at]
    plan, _ = _plan(
        engine, [len(cut[i]) for i in used], [0] * len(used), budget=budget, packing=packing
    )
    empty = _long([], device)
    nothing = {"sequence": empty, "position": empty, "targets": empty}
    states: dict[int, dict[str, Tensor]] = {}
    for number, batch in enumerate(plan):
        rows = [used[i] for i in batch]
        where = [(r, p) for r, i in enumerate(rows) for p in positions[i]]
        inputs = {"input_ids": pad([cut[i] for i in rows], device), **nothing}
        at = Rows(_long([r for r, _ in where], device), _long([p for _, p in where], device))
        found = extractor.read(inputs, at, layers).states
        counts = [len(positions[i]) for i in rows]
        for name, rows_of in found.items():
            for i, part in zip(rows, rows_of.cpu().split(counts), strict=True):
                states.setdefault(i, {})[name] = part
        if progress:
            progress(number + 1, len(plan))
    return stack_states(engine, states, layers)


def run_policy(engine: Runner, inputs: Mapping[str, Tensor | int]) -> tuple[Tensor, Tensor]:
    """Run the policy through its engine: (log-probabilities, entropies)."""
    call = engine.call or engine.policy
    return call(**inputs)


def stack_states(
    engine: Runner, states: Mapping[int, Mapping[str, Tensor]], layers: Sequence[str]
) -> dict[str, Float[Tensor, "rows hidden"]]:
    """Bring all ranks' states together, by layer, in the order of the keys."""
    whole = _joined(engine, states)
    order = sorted(whole)
    width = engine.policy.model.get_output_embeddings().in_features
    return {
        name: torch.cat([whole[i][name].reshape(-1, width) for i in order])
        if order
        else torch.zeros(0, width)
        for name in layers
    }


def _joined(engine: Runner, mine: Mapping[int, T]) -> dict[int, T]:
    """Return all ranks' tensors; each is copied first, since a view is sent with its whole storage."""
    own = {key: tree_map(torch.clone, value) for key, value in mine.items()}
    found: dict[int, T] = {}
    for part in engine.world.gather(own):
        found |= part
    return found


def _plan(
    engine: Runner, lengths: Sequence[int], tokens: Sequence[int], *, budget: int, packing: Packing
) -> tuple[list[list[int]], list[int]]:
    """Return this rank's micro-batches, and for each the most tokens that any rank scores in it.

    Ranks that have fewer run idle ones beside the others.
    """
    plan = plan_micro_batches(
        lengths,
        range(len(lengths)),
        budget=budget,
        keep_groups=False,
        world=engine.world.size,
        packing=packing,
    )
    return plan[engine.world.rank], most_tokens(plan, tokens)


def _long(values: Sequence[int | None], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.long, device=device)
