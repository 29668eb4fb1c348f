"""Negative controls of the alignment loss: the same loss on labels that should not help.

Aligning *correct* rollouts is a claim only if aligning others does less. Each arm changes labels
and nothing else, so that the loss, the number of aligned rollouts and the weights stay as they are
(but for "wrong", which aligns as many as there are wrong).
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from geomrl.errors import GeomrlError
from geomrl.seeds import derive_rng
from geomrl.train.values import Arm

ARMS: tuple[str, ...] = get_args(Arm)


def relabel(
    arm: str,
    group: Int[Tensor, " rollouts"],
    correct: Bool[Tensor, " rollouts"],
    seed: int,
) -> tuple[Int[Tensor, " rollouts"], Bool[Tensor, " rollouts"]]:
    """Return the group and correctness that an arm shows to the loss.

    - correct: as they are.
    - wrong: every rollout that is not correct is called correct, and the reverse.
    - shuffled_correct: within each group, who is called correct is drawn anew; each group keeps
      its number. The draw depends on the seed, the group's number and its own rows' order.
    - shuffled_groups: the correct rollouts are dealt over the groups, each of which gets as many
      as it had; wrong ones stay. Some come back to their own group by chance: a share of about
      one in the number of groups. The draw depends on the whole table, so all ranks must have the
      same rows in the same order.

    Args:
        arm: one of ARMS.
        group: [rollouts] problem of each row.
        correct: [rollouts].
        seed: derived by the caller from the run's seed and the training step, not the rank.

    Raises:
        GeomrlError: there is no such arm.
    """
    if arm == "correct":
        return group, correct.bool()
    if arm == "wrong":
        return group, ~correct.bool()
    if arm == "shuffled_correct":
        return group, _shuffle_correct(group, correct.bool(), seed)
    if arm == "shuffled_groups":
        return _shuffle_groups(group, correct.bool(), seed), correct.bool()
    raise GeomrlError(f"rollouts {arm!r}: there is no such arm; choose among {', '.join(ARMS)}")


def random_position(response_length: int, seed: int) -> int:
    """Return an index into the response's tokens, each equally likely: the control of the anchor.

    Args:
        response_length: tokens of the response, 1 or more.
        seed: derived by the caller from the run's seed and the rollout.

    Raises:
        GeomrlError: the response is empty.
    """
    if response_length < 1:
        raise GeomrlError("a response without tokens has no position to draw: leave it out")
    return int(derive_rng(seed, "random position").integers(response_length))


def _shuffle_correct(group: Tensor, correct: Tensor, seed: int) -> Tensor:
    problem = group.cpu().numpy()
    label = correct.cpu().numpy().copy()
    for name in np.unique(problem).tolist():  # one seed a group: no group shifts another's draw
        rows = np.flatnonzero(problem == name)
        label[rows] = derive_rng(seed, "shuffled correct", name).permutation(label[rows])
    return torch.from_numpy(label).to(correct.device)


def _shuffle_groups(group: Tensor, correct: Tensor, seed: int) -> Tensor:
    rows = correct.nonzero().squeeze(-1)
    order = derive_rng(seed, "shuffled groups").permutation(len(rows))
    dealt = group.clone()
    dealt[rows] = group[rows[torch.from_numpy(order).to(rows.device)]]
    return dealt
