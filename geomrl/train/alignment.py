"""Hidden-Align: the loss that draws the anchor states of a problem's correct rollouts together.

The paper (arXiv 2606.03234) states that it aligns last-layer states of correct rollouts at the
position before the answer marker. It gives no formula in public: `cosine` is our reading, the
other kinds are what a loss-type ablation compares it with. Our assumptions, for all kinds:

- a problem has one vote, whatever its number of correct rollouts;
- no stop-gradient, but in `l1_detached`: the gradient is that of the figure which is logged, as
  finite differences would find it, also through centroids and centres;
- a state without a direction (the zero vector) has cosine 0 with everything, and no gradient.

Two losses one might miss are not new. Mean squared distance of *unit* vectors is twice `cosine`;
and 1 - cos(u_i, mean of all u, itself included), averaged, is 1 - |S|/n, whose gradient is a
positive number times that of `cosine`, group by group.

Kinds differ in scale, so compare them at matched gradient norm, or sweep the weight for each.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomrl.errors import GeomrlError
from geomrl.files import is_user_code
from geomrl.train import loss_functions
from geomrl.train.loss_functions import Labels, sorted_rows
from geomrl.train.losses import LOSSES, Loss, loss_row
from geomrl.train.own_loss import own_loss

KINDS: tuple[str, ...] = tuple(LOSSES)
GROUP_LOCAL = frozenset(loss.name for loss in LOSSES.values() if not loss.across_groups)
"""Kinds whose loss of one group depends on no other group's rows."""


def hidden_align(
    states: Float[Tensor, "rollouts hidden"],
    group: Int[Tensor, " rollouts"],
    correct: Bool[Tensor, " rollouts"],
    kind: str = "cosine",
    *,
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """Return the alignment loss: the mean over eligible groups of each group's loss.

    With h the states of a group's n >= 2 correct rollouts, u = h / |h| and S = sum of u:

    - cosine: 1 - mean over pairs of u_i . u_j = 1 - (|S|^2 - n) / (n (n - 1)).
    - repel: mean over pairs of u_i . u_j, whose gradient is minus that of `cosine`: the arm that a
      claim of "closer is better" must beat. It is least where directions are furthest apart.
    - leave_one_out: 1 - mean over i of cos(u_i, S - u_i). At n = 2 this is `cosine`.
    - mse: mean over pairs of |h_i - h_j|^2 / hidden, on the states as they are. Its unit is the
      square of a state's coordinates: states twice as long give four times the loss, so a weight
      does not carry over between layers or models.
    - l1_detached: mean over ordered pairs of |h_i - sg(h_j)|_1 / hidden, sg without gradient: the
      distance of CODI (Shen et al. 2025, arXiv 2502.21074), which draws a student's state before
      the answer to its teacher's. Our assumption: among rollouts none is the teacher, so each
      correct one is every other's. CODI's code can take the smooth L1 distance, or divide by the
      teacher's deviation; here is the plain one. The axes matter: it is not blind to rotations.
    - contrastive_wrong: supervised contrastive loss (Khosla et al. 2020, L_out): positives are the
      group's other correct rollouts, negatives its incorrect ones. A group without an incorrect
      one has nothing to contrast with, and is not eligible.
    - contrastive_problems: the same, but negatives are the correct rollouts of all other groups.
    - supcon: the same, but negatives are all other rollouts of the table, of every problem, correct
      or not. Khosla et al. have labels for all, and so anchors everywhere; our assumption is that
      only correct rollouts of one problem are a class, and incorrect ones are of none.
    - soft_nn: soft nearest neighbour loss (Frosst et al. 2019, arXiv 1902.01889, eq. 1) with the
      same classes: minus the log of positives' share in sum exp(u_i . u_j / temperature). They
      take squared Euclidean distances and fit the temperature; our assumption is cosines, the
      same up to the temperature for unit vectors, and a fixed one.
    - relational: mean over pairs i, j and over other groups q of (u_i . c_q - u_j . c_q)^2, with
      c_q the direction of q's S. Our adaptation of relational distillation (Park et al. 2019),
      which matches a student's relations to a teacher's: here there is no teacher, and a group's
      correct rollouts shall agree on how they relate to other problems. What they have at right
      angles to all of those is left alone.
    - centred: `cosine` of h minus the mean over the other groups of their mean state (all their
      rollouts, one vote a group): 1 - the centred CC of the probing tables. Shifting all states
      alike changes nothing, and the gradient, which flows into the centre and so a little into
      all rows, sums to zero: moving all problems the same way earns nothing.

    The kinds in GROUP_LOCAL are the same however the groups are split over calls (weighted by
    `eligible_groups`); the others need the whole optimiser step in one table, where a group is
    eligible only if there is another to compare with (with a correct rollout for `relational` and
    `contrastive_problems`). Time and memory are linear in the rollouts, except rollouts x groups for
    `relational`, rollouts x the largest group for `contrastive_wrong` and `l1_detached` (there times
    hidden), and (rollouts)^2, or of the correct ones alone, for the kinds with all as negatives.

    Args:
        states: [rollouts, hidden]; half precision is computed in float32.
        group: [rollouts] any integers; equal ones are rollouts of one problem.
        correct: [rollouts].
        kind: one of KINDS, or "FILE.py:FUNCTION" (`geomrl.train.own_loss`): then the loss is what
            the function returns for the table, and all of its groups are eligible.
        temperature: of the contrastive kinds; cosines are divided by it.

    Returns:
        A scalar; zero, tied to the graph, where no group is eligible.

    Raises:
        GeomrlError: the kind is unknown, shapes disagree, or the temperature is not positive; or as
            for `own_loss`.

    The first problem has two correct rollouts at cosine 24/25 and an incorrect one; the second has
    a single correct one, and so no pair:

    >>> states = torch.tensor([[3.0, 4.0], [4.0, 3.0], [-2.0, 0.0], [0.0, 5.0]])
    >>> group = torch.tensor([7, 7, 7, 9])
    >>> correct = torch.tensor([True, True, False, True])
    >>> round(hidden_align(states, group, correct).item(), 6)
    0.04
    >>> round(hidden_align(states, group, correct, "mse").item(), 6)
    1.0
    """
    if temperature <= 0:
        raise GeomrlError(
            f"temperature {temperature:g}: cosines are divided by it; give more than 0, such as 0.1"
        )
    labels = _label(group, correct, loss_row(kind))
    if states.ndim != 2 or len(states) != len(group):
        raise GeomrlError(
            f"states of shape {list(states.shape)} with {len(group)} labels: give one row a rollout"
        )
    x = widen(states)
    if not labels.eligible.any():
        return x[:0].sum()  # zero even where a state is not finite
    if is_user_code(kind):
        return own_loss(kind, x, labels.group, labels.correct)
    values = getattr(loss_functions, kind)(x, labels, temperature)  # [k]
    return (values / labels.size.to(values.dtype)).sum() / labels.eligible.sum()


def eligible_groups(
    group: Int[Tensor, " rollouts"], correct: Bool[Tensor, " rollouts"], kind: str
) -> int:
    """Return the number of groups that take part in a loss, from the labels alone.

    Raises:
        GeomrlError: the kind is unknown, or shapes disagree.
    """
    return int(_label(group, correct, loss_row(kind)).eligible.sum())


def widen(states: Tensor) -> Tensor:
    """Return half-precision states in float32, others as they are."""
    return states if states.dtype == torch.float64 else states.float()


def _label(group: Tensor, correct: Tensor, loss: Loss) -> Labels:
    if group.ndim != 1 or group.shape != correct.shape:
        raise GeomrlError(
            f"group of shape {list(group.shape)} and correct of shape {list(correct.shape)}: give "
            f"one of each a rollout"
        )
    right = correct.bool()
    found, index = torch.unique(group, return_inverse=True)  # [G], [rows]
    everyone = torch.bincount(index, minlength=len(found))
    n_correct = torch.bincount(index[right], minlength=len(found))
    eligible = _eligible(loss, everyone, n_correct)
    members = sorted_rows(index, right & eligible[index])
    own = index[members]
    return Labels(
        group=index,
        correct=right,
        n_correct=n_correct,
        eligible=eligible,
        members=members,
        own=own,
        size=n_correct[own].float(),
    )


def _eligible(
    loss: Loss, everyone: Int[Tensor, " g"], n_correct: Int[Tensor, " g"]
) -> Bool[Tensor, " g"]:
    """Return which groups have a loss, from their numbers of rollouts and of correct ones."""
    if loss.others == "unknown":
        return everyone > 0
    eligible = n_correct >= 2
    if loss.needs_wrong:
        eligible = eligible & (everyone > n_correct)
    if loss.needs_another_group:
        compared = everyone if loss.others == "all" else n_correct
        eligible = eligible & ((compared > 0).sum() >= 2)
    return eligible
