"""Rewards of single responses, and their advantages within a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from geomrl.train.sections import DapoConfig

STD_FLOOR = 1e-6
"""Added to a group's standard deviation, as DAPO's reference does."""


def reward(verdict: str, length: int, dapo: DapoConfig, max_tokens: int) -> float:
    """Return the shaped reward of one response: right or wrong, less what it is too long by.

    A truncated response is rewarded like any other; only the overlong penalty depends on its length.

    Args:
        verdict: the verifier's; everything but "correct" earns `dapo.reward_wrong`.
        length: tokens of the response, the end-of-sequence token included.
        dapo: rewards and the penalty's buffer.
        max_tokens: the most a response may have.
    """
    base = dapo.reward_correct if verdict == "correct" else dapo.reward_wrong
    if dapo.overlong_buffer is None:
        return base
    return base + overlong_penalty(length, max_tokens, dapo.overlong_buffer)


def overlong_penalty(length: int, max_tokens: int, buffer: int) -> float:
    """Return DAPO's soft overlong punishment, between -1 and 0 (arXiv 2503.14476, equation 13).

    0 up to `max_tokens - buffer` tokens, from there straight down to -1 at `max_tokens`.

    >>> [overlong_penalty(n, 20480, 4096) for n in (16384, 18432, 20480, 99999)]
    [0.0, -0.5, -1.0, -1.0]

    Args:
        length: tokens of the response.
        max_tokens: the most a response may have.
        buffer: the last so many tokens are punished, 1 to `max_tokens`.
    """
    excess = max(0, length - (max_tokens - buffer))
    return -min(1.0, excess / buffer) if excess else 0.0


def group_advantages(
    rewards: Float[Tensor, " n"], group: Int[Tensor, " n"], *, std: bool
) -> Float[Tensor, " n"]:
    """Return each rollout's advantage over its own group.

    (R - mean) / (s + 1e-6), with s the sample standard deviation (divisor n - 1), as in GRPO
    (arXiv 2402.03300, section 4.1.2) and DAPO (equation 9); without `std` only R - mean, as in
    Dr.GRPO (arXiv 2503.20783, section 3.2). A group of equal rewards, or of one rollout, gets
    exactly 0. Computed in float64, returned in the rewards' type.

    >>> group_advantages(torch.tensor([1.0, -1.0, -1.0, 1.0]), torch.tensor([7, 7, 3, 3]), std=False)
    tensor([ 1., -1., -1.,  1.])

    Args:
        rewards: shaped rewards.
        group: which group each belongs to; any numbers, in any order.
        std: divide by the group's standard deviation.
    """
    _, of, sizes = torch.unique(group, return_inverse=True, return_counts=True)
    values = rewards.double()
    zeros = values.new_zeros(len(sizes))
    mean = zeros.index_add(0, of, values) / sizes  # [groups]
    centred = values - mean[of]
    if std:
        squares = zeros.index_add(0, of, centred**2)
        deviation = (squares / (sizes - 1).clamp(min=1)).sqrt()  # [groups]
        centred = centred / (deviation[of] + STD_FLOOR)
    low, high = (
        zeros.scatter_reduce(0, of, values, reduce, include_self=False)
        for reduce in ("amin", "amax")
    )
    # The mean of equal numbers may differ from them in the last bit, and 1e-6 would magnify that.
    return centred.masked_fill((low == high)[of], 0.0).to(rewards.dtype)
