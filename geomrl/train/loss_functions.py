"""One function for each kind of alignment loss, of the kind's name; `losses.LOSSES` lists them.

Each is called with all states of a table, who is who, and the temperature, and returns a number for
each member (correct row of an eligible group), whose mean over a group is the group's loss.
Formulas: `geomrl.train.alignment.hidden_align`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

States = Float[Tensor, "rows hidden"]
Values = Float[Tensor, " k"]

_SHORTEST = 1e-12  # a shorter state has no direction; those of trained models are above 1e-2
_NO_DIRECTION = 1e-6  # a difference this short, relative to what made it, is float32 rounding


@dataclass(frozen=True, kw_only=True)
class Labels:
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


def sorted_rows(group: Int[Tensor, " rows"], chosen: Bool[Tensor, " rows"]) -> Int[Tensor, " k"]:
    """Return the chosen rows, sorted by group, otherwise in their order."""
    rows = chosen.nonzero().squeeze(-1)
    return rows[torch.argsort(group[rows], stable=True)]


def cosine(x: States, labels: Labels, temperature: float) -> Values:
    """1 - u_i . u_j, over pairs of a group's correct rollouts."""
    unit, lost = _unit(x[labels.members], _SHORTEST)
    return _spread_of_units(unit, lost, labels)


def repel(x: States, labels: Labels, temperature: float) -> Values:
    """u_i . u_j, over pairs: the default kind with its sign turned."""
    return 1 - cosine(x, labels, temperature)


def leave_one_out(x: States, labels: Labels, temperature: float) -> Values:
    """1 - cos(u_i, sum of the other correct rollouts' directions)."""
    unit, lost = _unit(x[labels.members], _SHORTEST)
    rest = _sum_by_group(unit, labels.own, len(labels.eligible))[labels.own] - unit
    other, nowhere = _unit(rest, _NO_DIRECTION * labels.size)
    # |u - v|^2 / 2 = 1 - u . v without the cancellation; a side without direction is added.
    return ((unit - other).square().sum(-1) + lost + nowhere) / 2


def mse(x: States, labels: Labels, temperature: float) -> Values:
    """|h_i - h_j|^2 / hidden, over pairs."""
    return 2 * _spread(x[labels.members], labels) / x.shape[1]


def l1_detached(x: States, labels: Labels, temperature: float) -> Values:
    """|h_i - h_j|_1 / hidden, over ordered pairs; h_j is a teacher, without gradient."""
    student = x[labels.members]
    teacher = student.detach()
    first = torch.searchsorted(labels.own, labels.own)  # [k] where each member's group begins
    place = torch.arange(len(student), device=x.device) - first
    size = labels.size.long()
    values = student.new_zeros(len(student))
    for step in range(1, int(size.max())):
        other = first + (place + step) % size  # [k] the member `step` further on, round its group
        apart = (student - teacher[other]).abs().mean(-1)
        values = values + torch.where(step < size, apart, 0.0)
    return values / (labels.size.to(x.dtype) - 1)


def contrastive_wrong(x: States, labels: Labels, temperature: float) -> Values:
    """Supervised contrastive; negatives are the group's incorrect rollouts."""
    rows = sorted_rows(labels.group, labels.eligible[labels.group])
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
    itself = torch.eye(shape[1], dtype=torch.bool, device=rows.device)
    logits = torch.bmm(padded, padded.transpose(1, 2))[correct] / temperature  # [k, m]
    others = (present[:, None, :] & ~itself)[correct]
    positive = (correct[:, None, :] & ~itself)[correct]
    return _pooled(logits, others) - _mean(logits, positive)


def contrastive_problems(x: States, labels: Labels, temperature: float) -> Values:
    """Supervised contrastive; negatives are other groups' correct rollouts."""
    logits, others, positive = _classes(x, labels, labels.correct, temperature)
    return _pooled(logits, others) - _mean(logits, positive)


def supcon(x: States, labels: Labels, temperature: float) -> Values:
    """Supervised contrastive; negatives are all other rollouts of the table."""
    everyone = torch.ones_like(labels.correct)
    logits, others, positive = _classes(x, labels, everyone, temperature)
    return _pooled(logits, others) - _mean(logits, positive)


def soft_nn(x: States, labels: Labels, temperature: float) -> Values:
    """Soft nearest neighbour: -log of the share of the pull that comes from positives."""
    everyone = torch.ones_like(labels.correct)
    logits, others, positive = _classes(x, labels, everyone, temperature)
    return _pooled(logits, others) - _pooled(logits, positive)


def _classes(
    x: States, labels: Labels, chosen: Bool[Tensor, " rows"], temperature: float
) -> tuple[Float[Tensor, "k m"], Bool[Tensor, "k m"], Bool[Tensor, "k m"]]:
    """Return each member's cosines with the chosen rows of the table over the temperature.

    And which of these rows are others than itself, and which of them are its positives: correct
    rollouts of its group.
    """
    rows = sorted_rows(labels.group, chosen)
    problem, right = labels.group[rows], labels.correct[rows]
    unit, _ = _unit(x[rows], _SHORTEST)
    member = right & labels.eligible[problem]  # [m], in the order of `labels.members`
    itself = torch.eye(len(rows), dtype=torch.bool, device=x.device)[member]
    alike = right & (problem[member][:, None] == problem)
    return unit[member] @ unit.T / temperature, ~itself, alike & ~itself


def _pooled(logits: Float[Tensor, "k m"], chosen: Bool[Tensor, "k m"]) -> Values:
    """Return the log-sum-exp of each row's chosen logits."""
    return logits.masked_fill(~chosen, -torch.inf).logsumexp(-1)


def _mean(logits: Float[Tensor, "k m"], chosen: Bool[Tensor, "k m"]) -> Values:
    """Return the mean of each row's chosen logits."""
    return (logits * chosen).sum(-1) / chosen.sum(-1)


def relational(x: States, labels: Labels, temperature: float) -> Values:
    """(u_i . c_q - u_j . c_q)^2, over pairs and other groups' centroids c_q."""
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


def centred(x: States, labels: Labels, temperature: float) -> Values:
    """`cosine` of states minus the mean of the other groups' mean states."""
    n_groups = len(labels.eligible)
    sizes = torch.bincount(labels.group, minlength=n_groups).to(x.dtype)
    means = _sum_by_group(x, labels.group, n_groups) / sizes[:, None]  # [G, hidden]
    centres = (means.sum(0) - means) / (n_groups - 1)
    own = x[labels.members]
    away, lost = _unit(own - centres[labels.own], _NO_DIRECTION * own.detach().norm(dim=-1))
    return _spread_of_units(away, lost, labels)


def _spread_of_units(
    unit: Float[Tensor, "k hidden"], lost: Bool[Tensor, " k"], labels: Labels
) -> Float[Tensor, " k"]:
    """Return numbers whose mean over a group is 1 - its mean pairwise cosine.

    That is sum |u_i - mean u|^2 / (n - 1) for unit vectors: the same as 1 - (|S|^2 - n) / (n (n - 1)),
    but never negative, and exact where states nearly agree.
    """
    return _spread(unit, labels) + lost


def _spread(v: Float[Tensor, "k d"], labels: Labels) -> Float[Tensor, " k"]:
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
