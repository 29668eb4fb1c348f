"""From rollouts to tensors: what an optimiser step trains on, and one micro-batch of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomrl.probe.extractor import Rows
from geomrl.train.batch import Sample


@dataclass(frozen=True)
class AlignmentLabels:
    """What the alignment loss knows of an optimiser step's rollouts that have an anchor.

    `group` and `correct` are what the loss is given, which in a negative control is not the truth;
    `true_group` and `true_correct` are what the gauges are given.
    """

    group: Int[Tensor, " rows"]
    correct: Bool[Tensor, " rows"]
    true_group: Int[Tensor, " rows"]
    true_correct: Bool[Tensor, " rows"]


@dataclass(frozen=True, kw_only=True)
class MiniBatch:
    """The rollouts of one optimiser step, the same on every rank.

    `old` contains each rollout's log-probabilities under the policy that it is compared with, None
    where that is the policy as it is now (the ratio is then 1); `reference` those under the frozen
    first policy, where there is a KL term. `anchors` are positions in prompt and response
    together, None where a rollout has none; rows of tables and labels are the rollouts that have
    one, in order.
    """

    samples: list[Sample]
    old: list[Float[Tensor, " response"] | None]
    reference: list[Float[Tensor, " response"]] | None = None
    anchors: list[int | None] | None = None
    labels: AlignmentLabels | None = None
    step: int | None = None  # the training step; None: that of the newest rollout

    @property
    def anchored(self) -> list[int]:
        """The rollouts that have an anchor."""
        return [i for i, anchor in enumerate(self.anchors or []) if anchor is not None]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each rollout, prompt included."""
        return [sample.n_tokens for sample in self.samples]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One micro-batch: the policy's inputs, and for each response token what the loss needs.

    `rollout` and `anchor_rollout` are indices into the mini-batch's samples.
    """

    inputs: dict[str, Tensor | int]  # of the policy's forward
    rollout: Int[Tensor, " tokens"]
    advantages: Float[Tensor, " tokens"]
    engine_logprobs: Float[Tensor, " tokens"]
    old: Float[Tensor, " tokens"]  # NaN where the present log-probability is taken
    reference: Float[Tensor, " tokens"] | None
    fresh: Bool[Tensor, " tokens"]  # sampled by this step's policy, not carried over
    anchors: Rows
    anchor_rollout: list[int]


def pad(sequences: Sequence[Sequence[int]], device: torch.device) -> Int[Tensor, "rows time"]:
    """Stack token ids, padded on the right; no sequence at all gives one row of one token."""
    rows = [torch.tensor(list(ids), dtype=torch.long) for ids in sequences if len(ids)]
    if not rows:
        return torch.zeros(1, 1, dtype=torch.long, device=device)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)


def response_tokens(
    samples: Sequence[Sample], device: torch.device
) -> dict[str, Int[Tensor, " tokens"]]:
    """Return where each response token is predicted: `sequence`, `position`, and its id.

    The state at index j predicts token j + 1, so the first response token is predicted at the
    prompt's last position.
    """
    sequence: list[int] = []
    position: list[int] = []
    targets: list[int] = []
    for row, sample in enumerate(samples):
        n = len(sample.response_ids)
        sequence += [row] * n
        position += range(len(sample.prompt_ids) - 1, len(sample.prompt_ids) - 1 + n)
        targets += sample.response_ids
    named = {"sequence": sequence, "position": position, "targets": targets}
    return {k: torch.tensor(v, dtype=torch.long, device=device) for k, v in named.items()}


def collate(
    batch: MiniBatch, rows: Sequence[int], device: torch.device, chunks: int | None = None
) -> Piece:
    """Return a micro-batch of the rollouts `rows` of a mini-batch; none of them makes an idle one.

    `chunks` is how often the head is to be called, the same on all ranks.
    """
    samples = [batch.samples[i] for i in rows]
    lengths = torch.tensor([len(s.response_ids) for s in samples], dtype=torch.long)
    advantages = torch.tensor([s.advantage for s in samples], dtype=torch.float64)
    engine = [lp for s in samples for lp in s.logprobs]
    old = [
        torch.full((int(n),), torch.nan) if batch.old[i] is None else batch.old[i]
        for i, n in zip(rows, lengths, strict=True)
    ]
    newest = batch.step or max(sample.policy_step for sample in batch.samples)
    fresh = torch.tensor([s.policy_step == newest for s in samples], dtype=torch.bool)
    anchors = batch.anchors or [None] * len(batch.samples)
    anchored = [(row, i) for row, i in enumerate(rows) if anchors[i] is not None]
    return Piece(
        inputs={
            "input_ids": pad([s.ids for s in samples], device),
            **response_tokens(samples, device),
            **({"chunks": chunks} if chunks else {}),
        },
        rollout=torch.tensor(list(rows), dtype=torch.long).repeat_interleave(lengths).to(device),
        advantages=advantages.repeat_interleave(lengths).to(device),
        engine_logprobs=torch.tensor(engine, dtype=torch.float64, device=device),
        old=_joined(old).to(device),
        reference=_joined([batch.reference[i] for i in rows]).to(device)
        if batch.reference is not None
        else None,
        fresh=fresh.repeat_interleave(lengths).to(device),
        anchors=Rows(
            torch.tensor([row for row, _ in anchored], dtype=torch.long, device=device),
            torch.tensor([anchors[i] for _, i in anchored], dtype=torch.long, device=device),
        ),
        anchor_rollout=[i for _, i in anchored],
    )


def _joined(parts: Sequence[Tensor | None]) -> Float[Tensor, " tokens"]:
    kept = [part.double() for part in parts if part is not None]
    return torch.cat(kept) if kept else torch.zeros(0, dtype=torch.float64)
