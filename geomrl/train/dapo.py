"""DAPO's policy loss, and the normalisations of GRPO and Dr.GRPO. Tensors in, tensors out.

Every token's weight already contains the normaliser of the whole optimiser step, so the step's loss
is the plain sum of `policy_loss` over its micro-batches and ranks, however they are cut. A mean of
means never comes up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomrl.errors import GeomrlError

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this, so that exp stays finite (our assumption; far past any clip)."""

SUMMED = ("loss/policy", "loss/kl", "tokens")
"""Metrics whose sum over micro-batches is what is logged; the others are divided by the tokens."""


@dataclass(frozen=True)
class PolicyLoss:
    """The loss of one micro-batch, and what to log of it.

    Args:
        loss: its share of the optimiser step's loss; a zero tied to the graph without tokens.
        metrics: detached sums over the micro-batch's tokens. They add up over micro-batches and
            ranks; `token_means` then makes what is logged of them.
        ratio_max: the largest ratio, detached; 0 without tokens. Combine by maximum.
    """

    loss: Float[Tensor, ""]
    metrics: dict[str, Tensor]
    ratio_max: Float[Tensor, ""]


def token_weights(
    lengths: Int[Tensor, " n"],
    normalisation: Literal["token", "sequence", "constant"],
    *,
    total_tokens: int,
    total_rollouts: int,
    max_tokens: int,
) -> Float[Tensor, " n"]:
    """Return, for each rollout, the weight of each of its response tokens.

    The totals are those of the whole optimiser step, over all ranks.

    - "token", 1 / all tokens. DAPO (arXiv 2503.14476, equation 8) writes the mean over one
      group's tokens; over the whole step is our assumption, and what its reference code does with
      one micro-batch.
    - "sequence", 1 / (rollouts x the rollout's own tokens). GRPO (arXiv 2402.03300, equation 3):
      the mean over rollouts of each one's mean.
    - "constant", 1 / (rollouts x `max_tokens`). Dr.GRPO (arXiv 2503.20783, section 3.2): a sum
      over tokens whose divisor does not depend on any length. The generation
      budget as the constant is the paper's code; TRL's loss type `dr_grpo` has the same.

    >>> token_weights(
    ...     torch.tensor([1, 4]), "sequence", total_tokens=5, total_rollouts=2, max_tokens=8
    ... )
    tensor([0.5000, 0.1250], dtype=torch.float64)

    Args:
        lengths: response tokens of each rollout.
        normalisation: see above.
        total_tokens: response tokens of the optimiser step.
        total_rollouts: rollouts of the optimiser step.
        max_tokens: the most a response may have.
    """
    size = torch.as_tensor(lengths).double()
    divisor = {
        "token": torch.full_like(size, total_tokens),
        "sequence": total_rollouts * size,
        "constant": torch.full_like(size, total_rollouts * max_tokens),
    }[normalisation]
    return 1.0 / divisor.clamp(min=1)  # an empty response has no token to weigh


def importance_weights(
    trainer: Float[Tensor, " tokens"], engine: Float[Tensor, " tokens"], cap: float
) -> Float[Tensor, " tokens"]:
    """Return min(p_trainer / p_engine, cap) of each token, without gradient.

    Truncated importance sampling for rollouts that another engine drew (Ionides 2008; for engines
    that differ from their trainer: Yao et al. 2025, "Your efficient RL framework secretly brings
    you off-policy RL training").

    Args:
        trainer: log-probabilities by the trainer, under the weights that sampled, in nats.
        engine: the same tokens' log-probabilities by the engine.
        cap: the largest weight.
    """
    with torch.no_grad():
        return _bounded_exp(trainer - engine).clamp(max=cap)


def policy_loss(
    logprobs: Float[Tensor, " tokens"],
    old_logprobs: Float[Tensor, " tokens"],
    advantages: Float[Tensor, " tokens"],
    weights: Float[Tensor, " tokens"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    importance: Float[Tensor, " tokens"] | None = None,
    kl: float = 0.0,
    ref_logprobs: Float[Tensor, " tokens"] | None = None,
) -> PolicyLoss:
    """Return the clipped surrogate loss of one micro-batch.

    With r = p_new / p_old, token by token:

    - clip-higher (DAPO, arXiv 2503.14476, equation 10): max(-A r, -A clip(r, 1-low, 1+high));
    - dual clip (Ye et al. 2020, arXiv 1912.09729): where A < 0, at most -c A, so that
      a token which became much likelier cannot dominate;
    - times its importance weight, a constant to the gradient;
    - plus kl x (q - log q - 1), q = p_ref / p_new: Schulman's k3 estimate of KL(new || reference),
      as GRPO has it (arXiv 2402.03300, equation 4). It has its own weight, and no importance weight.

    Half precision is computed in float32; float64 stays float64.

    >>> one = torch.ones(2)
    >>> policy_loss(torch.log(2 * one), 0 * one, torch.tensor([1.0, -1.0]), one / 2,
    ...             clip_low=0.2, clip_high=0.28).loss  # (-1.28 + 2) / 2
    tensor(0.3600)

    Args:
        logprobs: of the response tokens under the policy, in nats, with gradient.
        old_logprobs: the same before the first update on these rollouts.
        advantages: each token's rollout's advantage.
        weights: each token's share in the step's loss, from `token_weights`.
        clip_low: r below 1 - this is clipped where A < 0.
        clip_high: r above 1 + this is clipped where A > 0.
        dual_clip: c, above 1; None leaves it out.
        importance: from `importance_weights`; None is 1.
        kl: weight of the divergence from the reference model.
        ref_logprobs: of the tokens under the reference model; needed where `kl` is not 0.

    Raises:
        GeomrlError: shapes differ (they would broadcast to a wrong loss), or `kl` has no reference.
    """
    others = {
        "old_logprobs": old_logprobs,
        "advantages": advantages,
        "weights": weights,
        "importance": importance,
        "ref_logprobs": ref_logprobs,
    }
    for name, value in others.items():
        if value is not None and value.shape != logprobs.shape:
            raise GeomrlError(
                f"{name} has shape {tuple(value.shape)}, logprobs {tuple(logprobs.shape)}: give one"
                " number for each token"
            )
    if kl and ref_logprobs is None:
        raise GeomrlError(f"kl {kl:g} needs ref_logprobs: give them, or set kl to 0")

    new = logprobs.to(torch.promote_types(logprobs.dtype, torch.float32))
    advantage, weight = advantages.to(new.dtype), weights.to(new.dtype)
    log_ratio = new - old_logprobs.to(new.dtype)
    ratio = _bounded_exp(log_ratio)
    surrogate = torch.maximum(
        -advantage * ratio, -advantage * ratio.clamp(1 - clip_low, 1 + clip_high)
    )
    if dual_clip is not None:
        capped = torch.minimum(surrogate, -advantage * dual_clip)
        surrogate = torch.where(advantage < 0, capped, surrogate)
    if importance is not None:
        surrogate = surrogate * importance.detach().to(new.dtype)
    policy = (weight * surrogate).sum()
    divergence = torch.zeros_like(policy)
    if kl and ref_logprobs is not None:
        divergence = (weight * _k3(ref_logprobs.to(new.dtype) - new)).sum()

    with torch.no_grad():
        # Counted where a clip takes the gradient away, not merely where r is out of range.
        dual = torch.zeros_like(ratio, dtype=torch.bool)
        if dual_clip is not None:
            dual = (advantage < 0) & (ratio > dual_clip)
        metrics = {
            "loss/policy": policy,
            "loss/kl": divergence,
            "tokens": torch.ones_like(ratio).sum(),
            "clip/low": ((advantage < 0) & (ratio < 1 - clip_low)).to(new.dtype).sum(),
            "clip/high": ((advantage > 0) & (ratio > 1 + clip_high)).to(new.dtype).sum(),
            "clip/dual": dual.to(new.dtype).sum(),
            "ratio/mean": ratio.sum(),
            "ratio/log_abs": log_ratio.abs().sum(),
            "kl/approx": _k3(log_ratio).sum(),  # of KL(old || new): the tokens are the old one's
        }
        if importance is not None:
            metrics["importance/mean"] = importance.to(new.dtype).sum()
        metrics = {name: value.detach().double() for name, value in metrics.items()}
        ratio_max = torch.cat([ratio.new_zeros(1), ratio.detach()]).max()
    return PolicyLoss(policy + kl * divergence, metrics, ratio_max)


def token_means(sums: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Turn metrics, summed over all micro-batches and ranks, into what is logged.

    `loss/kl` is logged before its weight, as a mean divergence.
    """
    tokens = max(float(sums["tokens"]), 1.0)
    return {
        name: float(value) if name in SUMMED else float(value) / tokens
        for name, value in sums.items()
    }


def _bounded_exp(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def _k3(log_ratio: Tensor) -> Tensor:
    """Return q - log q - 1 >= 0 for q = exp(log_ratio); its mean over draws of p is KL(p || p q).

    Source: Schulman 2020, "Approximating KL divergence".
    """
    return _bounded_exp(log_ratio) - 1 - log_ratio
