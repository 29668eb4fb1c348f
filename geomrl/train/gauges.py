"""The geometry of a training step's anchor states: what alignment does besides lowering its loss.

The alignment loss falls also where all problems collapse onto each other, so its figures are
logged next to the floor (different problems), the centred cosine and the rank of the states.
Cells are those of the probing tables (`geomrl.geometry.cells`): problems have one vote.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomrl.errors import GeomrlError
from geomrl.geometry.spectrum import effective_rank, participation_ratio

_NO_DIRECTION = 1e-6  # as in geomrl.geometry.spaces
_ROUNDING = 1e-6  # as in geomrl.geometry.spectrum
_CENTRED_FLOOR_GROUPS = 32  # its cost grows with their square


@dataclass(frozen=True, kw_only=True)
class AlignmentMetrics:
    """Gauges of one table of states; NaN where no group, or pair of groups, has the cell.

    Attributes:
        CC: mean cosine of two correct rollouts of one problem.
        II: of two that are not correct.
        CI: of one each.
        CC_minus_II: over the problems that have both cells.
        floor: of rollouts of two different problems, any verdict.
        CC_centred: CC after subtracting the mean of the other problems' means.
        floor_centred: the floor after subtracting the mean of the means of all problems but the
            pair's two; over at most 32 problems, evenly chosen by number.
        effective_rank, participation_ratio: of the centred, un-normalised states of at most
            `max_rank_rows` rows. They grow with the number of rows: compare steps of equal size.
        norm: mean length of the states.
        n_rollouts: rows.
        n_groups: problems.
        n_eligible: problems with two or more correct rollouts.
    """

    CC: float
    II: float
    CI: float
    CC_minus_II: float
    floor: float
    CC_centred: float
    floor_centred: float
    effective_rank: float
    participation_ratio: float
    norm: float
    n_rollouts: int
    n_groups: int
    n_eligible: int

    def as_dict(self) -> dict[str, float]:
        """Return the figures under the names that the training log uses."""
        return {
            "CC": self.CC,
            "II": self.II,
            "CI": self.CI,
            "CC-II": self.CC_minus_II,
            "floor": self.floor,
            "CC_centred": self.CC_centred,
            "floor_centred": self.floor_centred,
            "effective_rank": self.effective_rank,
            "participation_ratio": self.participation_ratio,
            "norm": self.norm,
            "rollouts": self.n_rollouts,
            "groups": self.n_groups,
            "eligible": self.n_eligible,
        }


@torch.no_grad()
def alignment_metrics(
    states: Float[Tensor, "rollouts hidden"],
    group: Int[Tensor, " rollouts"],
    correct: Bool[Tensor, " rollouts"],
    *,
    max_rank_rows: int = 256,
) -> AlignmentMetrics:
    """Return the gauges of one layer's anchor states. Time and memory are linear in the rollouts.

    All is computed in float64, without gradient. Here every rollout that is not correct counts as
    wrong; give only rows whose verdict is correct or wrong to match the probing tables.

    Args:
        states: [rollouts, hidden].
        group: [rollouts] any integers; equal ones are rollouts of one problem.
        correct: [rollouts].
        max_rank_rows: most rows, evenly spaced, whose rank is measured.

    Raises:
        GeomrlError: a state is not finite, or the numbers of rows disagree.
    """
    if not len(states) == len(group) == len(correct):
        raise GeomrlError(
            f"{len(states)} states, {len(group)} groups and {len(correct)} verdicts: give one of "
            f"each a rollout"
        )
    x = states.double()
    bad = (~torch.isfinite(x).all(dim=1)).nonzero()
    if len(bad):
        raise GeomrlError(
            f"{len(bad)} of {len(x)} anchor states are not finite (the first: row {int(bad[0])}): "
            f"training has diverged; lower the learning rate, or use bfloat16 or float32"
        )
    found, index = torch.unique(group, return_inverse=True)  # [G], [rows]
    n, right = len(found), correct.bool()
    lengths = torch.linalg.vector_norm(x, dim=1)
    unit = _unit(x, torch.zeros_like(lengths))
    good, wrong = _Side.of(unit, index, right, n), _Side.of(unit, index, ~right, n)
    cc, ii = good.mean_pair(), wrong.mean_pair()  # [G], NaN where there is no pair
    ci = (good.sums * wrong.sums).sum(1) / (good.counts * wrong.counts)
    sizes = good.counts + wrong.counts
    means = _sum(x, index, n) / sizes[:, None]
    # Cosines from a centre are blind to a shift of all states; this one keeps numbers small.
    middle = means.mean(dim=0)
    x, means = x - middle, means - middle
    rank, ratio = _ranks(x, lengths, max_rank_rows)
    return AlignmentMetrics(
        CC=_mean(cc),
        II=_mean(ii),
        CI=_mean(ci),
        CC_minus_II=_mean(cc - ii),
        floor=_floor((good.sums + wrong.sums) / sizes[:, None]),
        CC_centred=_centred_cc(x, lengths, means=means, index=index, right=right),
        floor_centred=_centred_floor(x, lengths, means, index),
        effective_rank=rank,
        participation_ratio=ratio,
        norm=_mean(lengths),
        n_rollouts=len(x),
        n_groups=n,
        n_eligible=int((good.counts >= 2).sum()),
    )


@dataclass(frozen=True)
class _Side:
    """The correct, or the wrong, rollouts of each group: sums of unit vectors."""

    sums: Float[Tensor, "g d"]
    squares: Float[Tensor, " g"]  # sum of |u|^2: the number of those that have a direction
    counts: Float[Tensor, " g"]

    @classmethod
    def of(cls, unit: Tensor, index: Tensor, chosen: Tensor, n: int) -> _Side:
        u, own = unit[chosen], index[chosen]
        square = u.square().sum(1, keepdim=True)
        counts = torch.bincount(own, minlength=n).double()
        return cls(_sum(u, own, n), _sum(square, own, n)[:, 0], counts)

    def mean_pair(self) -> Float[Tensor, " g"]:
        """Return the mean cosine over each group's pairs, NaN (0/0) where there is none."""
        pairs = self.counts * (self.counts - 1)
        total = self.sums.square().sum(1) - self.squares
        return torch.where(pairs > 0, total / pairs, torch.nan)


def _floor(means: Float[Tensor, "g d"]) -> float:
    """Return the mean over pairs of groups, from the groups' means of unit vectors."""
    n = len(means)
    if n < 2:
        return float("nan")
    return float((means.sum(0).square().sum() - means.square().sum()) / (n * (n - 1)))


def _centred_cc(x: Tensor, lengths: Tensor, means: Tensor, index: Tensor, right: Tensor) -> float:
    """Return CC from the mean of the other groups' means; the means sum to zero."""
    n = len(means)
    if n < 2:
        return float("nan")
    own = index[right]
    away = _unit(x[right] + means[own] / (n - 1), lengths[right])
    everyone = torch.ones_like(own, dtype=torch.bool)
    return _mean(_Side.of(away, own, everyone, n).mean_pair())


def _centred_floor(x: Tensor, lengths: Tensor, means: Tensor, index: Tensor) -> float:
    """Return the floor from the mean of the means of all groups but the pair's two.

    For groups p and q the centre is c = -(m_p + m_q) / (G - 2). With w the reciprocal of
    |x_i - c|, the sum over i in p and j in q of w_i w_j (x_i - c) . (x_j - c) is multiplied out, so
    that states meet once a group and no array of rollouts x rollouts is made.
    """
    n = len(means)
    if n < 3:
        return float("nan")
    kept = _evenly(n, _CENTRED_FLOOR_GROUPS, x.device)  # [K]
    number = torch.full((n,), -1, device=x.device)
    number[kept] = torch.arange(len(kept), device=x.device)
    rows = (number[index] >= 0).nonzero()[:, 0]
    rows = rows[torch.argsort(index[rows], stable=True)]
    x, lengths, own, means = x[rows], lengths[rows], number[index[rows]], means[kept]
    dots = x @ means.T  # [rows, K]
    itself = dots.gather(1, own[:, None])
    gram = means @ means.T
    square = gram.diagonal()
    centre = (square[:, None] + 2 * gram + square[None, :]) / (n - 2) ** 2  # |c|^2 [K, K]
    pull = -(dots + itself) / (n - 2)  # x_i . c [rows, K]
    away = (x.square().sum(1)[:, None] - 2 * pull + centre[own]).clamp_min(0).sqrt()
    seen = away > _NO_DIRECTION * lengths[:, None]
    weight = torch.where(seen, 1 / torch.where(seen, away, 1.0), 0.0)
    sizes = torch.bincount(own, minlength=len(kept))
    parts = zip(weight.split(sizes.tolist()), x.split(sizes.tolist()), strict=True)
    meet = torch.stack([w.T @ h for w, h in parts])  # [K, K, d]: sum over i in p of w x_i, for q
    total, lean = _sum(weight, own, len(kept)), _sum(weight * pull, own, len(kept))  # [K, K]
    sums = torch.einsum("pqd,qpd->pq", meet, meet)
    sums += total * total.T * centre - lean * total.T - total * lean.T
    cosines = sums / (sizes[:, None] * sizes[None, :])
    off = ~torch.eye(len(kept), dtype=torch.bool, device=x.device)
    return _mean(cosines[off])


def _ranks(x: Tensor, lengths: Tensor, most: int) -> tuple[float, float]:
    """Return effective rank and participation ratio of at most `most` rows, evenly spaced.

    Args:
        x: [rows, d] states, shifted alike.
        lengths: [rows] of the states before the shift.
        most: see above.
    """
    if len(x) < 2:
        return float("nan"), float("nan")
    x = x[_evenly(len(x), most, x.device)]
    centred = x - x.mean(dim=0)
    if float(centred.abs().max()) <= _ROUNDING * float(lengths.max()):
        return float("nan"), float("nan")  # all states are equal
    gram = centred @ centred.T if len(x) < x.shape[1] else centred.T @ centred
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().cpu().numpy()
    return effective_rank(values), participation_ratio(values)


def _evenly(n: int, most: int, device: torch.device) -> Int[Tensor, " k"]:
    """Return at most `most` of 0..n-1, evenly spaced."""
    k = min(n, most)
    return torch.arange(k, device=device) * n // max(k, 1)


def _sum(v: Float[Tensor, "k d"], group: Tensor, n: int) -> Float[Tensor, "g d"]:
    return v.new_zeros(n, v.shape[1]).index_add(0, group, v)


def _unit(v: Float[Tensor, "k d"], lengths: Float[Tensor, " k"]) -> Float[Tensor, "k d"]:
    """Return unit vectors, zero where v is rounding beside `lengths`."""
    norm = torch.linalg.vector_norm(v, dim=1)
    seen = (norm > _NO_DIRECTION * lengths) & (norm > 0)
    return v * torch.where(seen, 1 / torch.where(seen, norm, 1.0), 0.0)[:, None]


def _mean(values: Tensor) -> float:
    """Return the mean of those that are numbers, NaN if there are none."""
    return float(values.nanmean())
