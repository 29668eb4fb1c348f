"""Hidden-Align: the loss that draws the anchor states of a problem's correct rollouts together.

The paper (arXiv 2606.03234) states that it aligns last-layer states of correct rollouts at the
position before the answer marker. It gives no formula in public: `cosine` is our reading, the
other kinds are what a loss-type ablation compares it with. Our assumptions, for all kinds:

- a problem has one vote, whatever its number of correct rollouts;
- no stop-gradient anywhere: the gradient is that of the figure which is logged, as finite
  differences would find it, also through centroids and centres;
- a state without a direction (the zero vector) has cosine 0 with everything, and no gradient.

Two losses one might miss are not new. Mean squared distance of *unit* vectors is twice `cosine`;
and 1 - cos(u_i, mean of all u, itself included), averaged, is 1 - |S|/n, whose gradient is a
positive number times that of `cosine`, group by group.

Kinds differ in scale, so compare them at matched gradient norm, or sweep the weight for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomrl.errors import GeomrlError
from geomrl.train.values import ACROSS_GROUPS, Kind

KINDS: tuple[str, ...] = get_args(Kind)
GROUP_LOCAL = frozenset(KINDS) - ACROSS_GROUPS
"""Kinds whose loss of one group depends on no other group's rows."""
_SHORTEST = 1e-12  # a shorter state has no direction; those of trained models are above 1e-2
_NO_DIRECTION = 1e-6  # a difference this short, relative to what made it, is float32 rounding


@dataclass(frozen=True)
class _Labels:
    """Who is who in a table of states.

    Attributes:
        group: [rows] each row's group, as an index 0..G-1.
        correct: [rows].
        n_correct: [G] correct rollouts of each group.
        eligible: [G] whether the group takes part.
        members: [k] correct rows of the eligible groups, sorted by group.
        own: [k] each member's group.
        size: [k] number of members in each member's group, as a float.
    """

    group: Int[Tensor, " rows"]
    correct: Bool[Tensor, " rows"]
    n_correct: Int[Tensor, " g"]
    eligible: Bool[Tensor, " g"]
    members: Int[Tensor, " k"]
    own: Int[Tensor, " k"]
    size: Float[Tensor, " k"]


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
    - leave_one_out: 1 - mean over i of cos(u_i, S - u_i). At n = 2 this is `cosine`.
    - mse: mean over pairs of |h_i - h_j|^2 / hidden, on the states as they are. Its unit is the
      square of a state's coordinates: states twice as long give four times the loss, so a weight
      does not carry over between layers or models.
    - contrastive_wrong: supervised contrastive loss (Khosla et al. 2020, L_out): positives are the
      group's other correct rollouts, negatives its incorrect ones. A group without an incorrect
      one has nothing to contrast with, and is not eligible.
    - contrastive_problems: the same, but negatives are the correct rollouts of all other groups.
    - relational: mean over pairs i, j and over other groups q of (u_i . c_q - u_j . c_q)^2, with
      c_q the direction of q's S. Our adaptation of relational distillation (Park et al. 2019),
      which matches a student's relations to a teacher's: here there is no teacher, and a group's
      correct rollouts shall agree on how they relate to other problems. What they hold at right
      angles to all of those is left alone.
    - centred: `cosine` of h minus the mean over the other groups of their mean state (all their
      rollouts, one vote a group): 1 - the centred CC of the probing tables. Shifting all states
      alike changes nothing, and the gradient, which flows into the centre and so a little into
      all rows, sums to zero: moving all problems the same way earns nothing.

    The kinds in GROUP_LOCAL are the same however the groups are split over calls (weighted by
    `eligible_groups`); the others need the whole optimiser step in one table, where a group is
    eligible only if there is another to compare with (with a correct rollout, but for `centred`).
    Time and memory are linear in the rollouts, except rollouts x groups for `relational`, rollouts
    x the largest group for `contrastive_wrong` and (correct rollouts)^2 for
    `contrastive_problems`.

    Args:
        states: [rollouts, hidden]; half precision is computed in float32.
        group: [rollouts] any integers; equal ones are rollouts of one problem.
        correct: [rollouts].
        kind: one of KINDS.
        temperature: of the contrastive kinds; cosines are divided by it.

    Returns:
        A scalar; zero, tied to the graph, where no group is eligible.

    Raises:
        GeomrlError: the kind is unknown, shapes disagree, or the temperature is not positive.

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
    labels = _label(group, correct, kind)
    if states.ndim != 2 or len(states) != len(group):
        raise GeomrlError(
            f"states of shape {list(states.shape)} with {len(group)} labels: give one row a rollout"
        )
    x = widen(states)
    if not len(labels.members):
        return x[:0].sum()  # zero even where a state is not finite
    values = _LOSSES[kind](x, labels, temperature)  # [k]
    return (values / labels.size.to(values.dtype)).sum() / labels.eligible.sum()


def eligible_groups(
    group: Int[Tensor, " rollouts"], correct: Bool[Tensor, " rollouts"], kind: str
) -> int:
    """Return the number of groups that take part in a loss, from the labels alone.

    Raises:
        GeomrlError: the kind is unknown, or shapes disagree.
    """
    return int(_label(group, correct, kind).eligible.sum())


def widen(states: Tensor) -> Tensor:
    """Return half-precision states in float32, others as they are."""
    return states if states.dtype == torch.float64 else states.float()


def _label(group: Tensor, correct: Tensor, kind: str) -> _Labels:
    if kind not in KINDS:
        raise GeomrlError(f"alignment loss {kind!r} is unknown: choose among {', '.join(KINDS)}")
    if group.ndim != 1 or group.shape != correct.shape:
        raise GeomrlError(
            f"group of shape {list(group.shape)} and correct of shape {list(correct.shape)}: give "
            f"one of each a rollout"
        )
    right = correct.bool()
    found, index = torch.unique(group, return_inverse=True)  # [G], [rows]
    everyone = torch.bincount(index, minlength=len(found))
    n_correct = torch.bincount(index[right], minlength=len(found))
    eligible = n_correct >= 2
    if kind == "contrastive_wrong":
        eligible = eligible & (everyone > n_correct)
    elif kind in ACROSS_GROUPS:
        compared = everyone if kind == "centred" else n_correct
        eligible = eligible & ((compared > 0).sum() >= 2)
    members = _sorted_rows(index, right & eligible[index])
    own = index[members]
    return _Labels(index, right, n_correct, eligible, members, own, n_correct[own].float())


def _sorted_rows(group: Tensor, chosen: Tensor) -> Tensor:
    """Return the chosen rows, sorted by group, otherwise in their order."""
    rows = chosen.nonzero().squeeze(-1)
    return rows[torch.argsort(group[rows], stable=True)]


def _cosine(x: Tensor, labels: _Labels, temperature: float) -> Tensor:
    unit, lost = _unit(x[labels.members], _SHORTEST)
    return _spread_of_units(unit, lost, labels)


def _leave_one_out(x: Tensor, labels: _Labels, temperature: float) -> Tensor:
    unit, lost = _unit(x[labels.members], _SHORTEST)
    rest = _sum_by_group(unit, labels.own, len(labels.eligible))[labels.own] - unit
    other, nowhere = _unit(rest, _NO_DIRECTION * labels.size)
    # |u - v|^2 / 2 = 1 - u . v without the cancellation; a side without direction is added.
    return ((unit - other).square().sum(-1) + lost + nowhere) / 2


def _mse(x: Tensor, labels: _Labels, temperature: float) -> Tensor:
    return 2 * _spread(x[labels.members], labels) / x.shape[1]


def _contrastive_wrong(x: Tensor, labels: _Labels, temperature: float) -> Tensor:
    rows = _sorted_rows(labels.group, labels.eligible[labels.group])
    _, block = torch.unique_consecutive(labels.group[rows], return_inverse=True)
    sizes = torch.bincount(block)
    place = torch.arange(len(rows), device=rows.device) - (sizes.cumsum(0) - sizes)[block]
    shape = len(sizes), int(sizes.max())
    unit, _ = _unit(x[rows], _SHORTEST)
    padded = unit.new_zeros(*shape, x.shape[1]).index_put((block, place), unit)
    present = torch.zeros(shape, dtype=torch.bool, device=rows.device)
    correct = present.clone()
    present[block, place] = True
    correct[block, place] = labels.correct[rows]
    return _contrast(
        padded, present, correct, correct[:, :, None] & correct[:, None, :], temperature
    )


def _contrastive_problems(x: Tensor, labels: _Labels, temperature: float) -> Tensor:
    rows = _sorted_rows(labels.group, labels.correct)
    unit, _ = _unit(x[rows], _SHORTEST)
    problem = labels.group[rows]
    everyone = torch.ones_like(problem, dtype=torch.bool)
    same = problem[:, None] == problem[None, :]
    anchors = labels.eligible[problem]
    return _contrast(unit[None], everyone[None], anchors[None], same[None], temperature)


def _contrast(
    unit: Float[Tensor, "blocks m hidden"],
    present: Bool[Tensor, "blocks m"],
    anchor: Bool[Tensor, "blocks m"],
    alike: Bool[Tensor, "blocks m m"],
    temperature: float,
) -> Float[Tensor, " k"]:
    """Return each anchor's log-sum-exp over all others of its block minus its mean positive."""
    logits = torch.bmm(unit, unit.transpose(1, 2))[anchor] / temperature  # [k, m]
    itself = torch.eye(unit.shape[1], dtype=torch.bool, device=unit.device)
    others = (present[:, None, :] & ~itself)[anchor]
    positive = (alike & ~itself)[anchor]
    pulled = (logits * positive).sum(-1) / positive.sum(-1)
    return logits.masked_fill(~others, -torch.inf).logsumexp(-1) - pulled


def _relational(x: Tensor, labels: _Labels, temperature: float) -> Tensor:
    n_groups = len(labels.eligible)
    right = labels.correct.nonzero().squeeze(-1)
    unit, _ = _unit(x, _SHORTEST)
    sums = _sum_by_group(unit[right], labels.group[right], n_groups)
    centroids, _ = _unit(sums, _NO_DIRECTION * labels.n_correct.clamp_min(1))
    relation = unit[labels.members] @ centroids.T  # [k, G]
    other = (labels.n_correct > 0) & (
        labels.own[:, None] != torch.arange(n_groups, device=x.device)
    )
    # The group's own column is blanked before the spread is taken, the others share the mean.
    spread = _spread(relation * other, labels)
    return 2 * spread / other.sum(-1)


def _centred(x: Tensor, labels: _Labels, temperature: float) -> Tensor:
    n_groups = len(labels.eligible)
    sizes = torch.bincount(labels.group, minlength=n_groups).to(x.dtype)
    means = _sum_by_group(x, labels.group, n_groups) / sizes[:, None]  # [G, hidden]
    centres = (means.sum(0) - means) / (n_groups - 1)
    own = x[labels.members]
    away, lost = _unit(own - centres[labels.own], _NO_DIRECTION * own.detach().norm(dim=-1))
    return _spread_of_units(away, lost, labels)


_LOSSES: dict[str, Callable[[Tensor, _Labels, float], Tensor]] = {
    "cosine": _cosine,
    "leave_one_out": _leave_one_out,
    "mse": _mse,
    "contrastive_wrong": _contrastive_wrong,
    "contrastive_problems": _contrastive_problems,
    "relational": _relational,
    "centred": _centred,
}


def _spread_of_units(
    unit: Float[Tensor, "k hidden"], lost: Bool[Tensor, " k"], labels: _Labels
) -> Float[Tensor, " k"]:
    """Return numbers whose mean over a group is 1 - its mean pairwise cosine.

    That is sum |u_i - mean u|^2 / (n - 1) for unit vectors: the same as 1 - (|S|^2 - n) / (n (n - 1)),
    but never negative, and exact where states nearly agree.
    """
    return _spread(unit, labels) + lost


def _spread(v: Float[Tensor, "k d"], labels: _Labels) -> Float[Tensor, " k"]:
    """Return n / (n - 1) |v_i - mean v|^2; its mean over a group is half the mean over pairs."""
    size = labels.size.to(v.dtype)
    means = _sum_by_group(v, labels.own, len(labels.eligible))[labels.own] / size[:, None]
    return (v - means).square().sum(-1) * size / (size - 1)


def _sum_by_group(v: Float[Tensor, "k d"], group: Tensor, n_groups: int) -> Float[Tensor, "g d"]:
    # On CUDA the order of summation, and so the last bit, varies from run to run, unless
    # torch.use_deterministic_algorithms is on.
    return v.new_zeros(n_groups, v.shape[1]).index_add(0, group, v)


def _unit(v: Float[Tensor, "k d"], shortest: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return unit vectors, zero and without gradient where v is too short; and which are."""
    norm = torch.linalg.vector_norm(v, dim=-1)
    lost = norm <= shortest
    scale = torch.where(lost, 0.0, 1 / torch.where(lost, 1.0, norm))
    return v * scale[:, None], lost
