"""One optimiser step over a mini-batch: DAPO + weight x alignment, exact under any split.

The gradient is that of the whole mini-batch, whatever the micro-batches and the ranks. Each part
keeps its own denominator: response tokens (or rollouts) for DAPO, eligible groups for alignment.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from geomrl.errors import GeomrlError
from geomrl.probe.extractor import Extractor
from geomrl.progress import Progress
from geomrl.train.alignment_term import AlignmentTerm, Table
from geomrl.train.config import TrainConfig
from geomrl.train.dapo import importance_weights, policy_loss, token_means, token_weights
from geomrl.train.deepspeed_engine import Engine
from geomrl.train.job import rollout_engine
from geomrl.train.minibatch import MiniBatch, Piece, collate
from geomrl.train.passes import run_policy
from geomrl.train.planning import most_tokens, padded_share, plan_micro_batches
from geomrl.train.policy import head_calls


@dataclass(frozen=True)
class UpdateResult:
    """What an optimiser step did: metrics to log, and the anchor states that its forwards gave.

    `table` is of the weights before the step; None where no states were read.
    """

    metrics: dict[str, float]
    table: Table | None


@dataclass
class _Tally:
    """What this rank's micro-batches add up to."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    largest: dict[str, float] = field(default_factory=dict)

    def see(self, name: str, value: Tensor) -> None:
        self.largest[name] = max(self.largest.get(name, 0.0), float(value))


def optimiser_step(
    engine: Engine,
    extractor: Extractor | None,
    batch: MiniBatch,
    config: TrainConfig,
    *,
    learning_rate: float,
    weight: float = 0.0,
    table: Table | None = None,
    progress: Progress | None = None,
) -> UpdateResult:
    """Run the mini-batch's micro-batches and update the weights once.

    Args:
        engine: the engine around the policy.
        extractor: of the policy; None where no states are to be read.
        batch: the same mini-batch on every rank; with anchors and labels where states are read.
        config: the run's configuration.
        learning_rate: of this update.
        weight: of the alignment loss now.
        table: anchor states of this mini-batch from an earlier pass, if any.
        progress: called with (micro-batches done, of all).

    Raises:
        GeomrlError: the loss or the gradient is not finite.
    """
    plan = plan_micro_batches(
        batch.lengths,
        [sample.group for sample in batch.samples],
        budget=config.micro_batch.tokens,
        keep_groups=config.micro_batch.keep_groups,
        world=engine.world.size,
        packing=config.micro_batch.packing,
    )
    term = None
    if extractor is not None and config.alignment is not None:
        term = AlignmentTerm(
            engine, extractor, batch, config.alignment,
            weight=weight, plan=plan, micro_batch=config.micro_batch, table=table,
        )  # fmt: skip
    shares = _token_weights(batch, config)
    tally = _Tally()
    mine = plan[engine.world.rank]
    most = most_tokens(plan, [len(sample.response_ids) for sample in batch.samples])
    for number, rows in enumerate(mine):
        chunks = head_calls(most[number], engine.policy.head_chunk)
        piece = collate(batch, rows, engine.world.device, chunks)
        if term is None:
            logprobs, entropy = run_policy(engine, piece.inputs)
            engine.backward(
                _policy_share(
                    piece, logprobs, entropy=entropy, config=config, shares=shares, tally=tally
                )
            )
        else:
            logprobs, entropy, align = term.forward(piece)
            loss = _policy_share(
                piece, logprobs, entropy=entropy, config=config, shares=shares, tally=tally
            )
            engine.backward(loss + align if weight else loss)
            term.after_backward()
        if progress:
            progress(number + 1, len(mine))
    metrics = _combined(engine, tally)
    found, states = term.finish() if term is not None else ({}, None)
    norm = engine.step(learning_rate)
    padding = padded_share(plan, batch.lengths)
    metrics |= {**found, "grad_norm": norm, "lr": learning_rate, "time/padding": padding}
    return UpdateResult(metrics, states)


def _token_weights(batch: MiniBatch, config: TrainConfig) -> Float[Tensor, " rollouts"]:
    """Return each rollout's weight per response token; 0 for those that are only aligned."""
    trained = torch.tensor([sample.trained for sample in batch.samples], dtype=torch.float64)
    lengths = torch.tensor([len(sample.response_ids) for sample in batch.samples])
    weights = token_weights(
        lengths,
        config.dapo.normalisation,
        total_tokens=int((lengths * trained).sum()),
        total_rollouts=int(trained.sum()),
        max_tokens=config.rollout.max_tokens,
    )
    return weights * trained


def _policy_share(
    piece: Piece,
    logprobs: Float[Tensor, " tokens"],
    entropy: Float[Tensor, " tokens"],
    config: TrainConfig,
    shares: Float[Tensor, " rollouts"],
    tally: _Tally,
) -> Float[Tensor, ""]:
    """Return a micro-batch's share of DAPO's loss, and add its metrics to the tally."""
    weights = shares.to(piece.rollout.device)[piece.rollout]  # [tokens]
    if not bool((weights > 0).all()):  # rollouts that are only aligned
        piece, logprobs, entropy, weights = _trained_tokens(piece, logprobs, entropy, weights)
    now = logprobs.detach()
    old = torch.where(piece.old.isnan(), now.to(piece.old.dtype), piece.old)
    importance = None
    cap = config.rollout.importance_cap
    if cap is not None and not rollout_engine(config).exact_logprobs:
        importance = importance_weights(old, piece.engine_logprobs, cap)
    result = policy_loss(
        logprobs,
        old,
        piece.advantages,
        weights,
        clip_low=config.dapo.clip_low,
        clip_high=config.dapo.clip_high,
        dual_clip=config.dapo.dual_clip,
        importance=importance,
        kl=config.dapo.kl,
        ref_logprobs=piece.reference,
    )
    # With the engine's own log-probabilities as the old ones, only the present ones can differ.
    trainer = now.to(old.dtype) if config.rollout.old_logprobs == "engine" else old
    gap = (trainer - piece.engine_logprobs).abs()[piece.fresh]
    for name, value in result.metrics.items():
        tally.sums[name] += float(value)
    tally.sums["entropy"] += float(entropy.double().sum())
    tally.sums["mismatch"] += float(gap.sum())
    tally.sums["fresh"] += len(gap)
    tally.see("ratio/max", result.ratio_max)
    tally.see("mismatch/max", gap.max() if len(gap) else gap.new_zeros(()))
    return result.loss


def _trained_tokens(
    piece: Piece, logprobs: Tensor, entropy: Tensor, weights: Tensor
) -> tuple[Piece, Tensor, Tensor, Tensor]:
    """Leave out tokens that the policy's loss does not weigh, so that no mean counts them."""
    kept = weights > 0
    reference = piece.reference[kept] if piece.reference is not None else None
    piece = replace(
        piece, advantages=piece.advantages[kept], engine_logprobs=piece.engine_logprobs[kept],
        old=piece.old[kept], fresh=piece.fresh[kept], reference=reference,
    )  # fmt: skip
    return piece, logprobs[kept], entropy[kept], weights[kept]


def _combined(engine: Engine, tally: _Tally) -> dict[str, float]:
    """Bring the ranks' tallies together.

    Raises:
        GeomrlError: the loss is not finite.
    """
    sums = engine.world.sums(tally.sums)
    mismatch, fresh = sums.pop("mismatch"), sums.pop("fresh")
    metrics = token_means(sums)
    metrics["mismatch/mean"] = mismatch / fresh if fresh else 0.0
    for name in tally.largest:
        metrics[name] = max(engine.world.gather(tally.largest[name]))
    if not math.isfinite(metrics["loss/policy"]) or not math.isfinite(metrics["entropy"]):
        raise GeomrlError(
            f"the policy's loss is {metrics['loss/policy']}: its weights or its number format are at "
            "fault, so training stops before they are updated. Go on from the last checkpoint with a "
            "smaller optimiser.lr, or with model.dtype=float32"
        )
    return metrics


def mean_metrics(updates: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return a training step's metrics: means over its updates, and the largest of the maxima."""
    merged: dict[str, float] = {}
    for name in dict.fromkeys(key for update in updates for key in update):
        values = [update[name] for update in updates if name in update]
        merged[name] = max(values) if name.endswith("/max") else sum(values) / len(values)
    merged["tokens"] = sum(update["tokens"] for update in updates)
    return merged
