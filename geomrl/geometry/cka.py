"""Debiased centred kernel alignment: do two encoders arrange the same rollouts alike?

The usual (biased) CKA is close to 1 for anything once the states are wide: .98 for independent
Gaussians with n = 32, d = 2048. The debiased one is 0 on average for independent states whatever n
and d, and exactly 1 where one encoder's states are a rotation, a shift or a multiple of the
other's. It may be a little negative by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from jaxtyping import Float, Int

from geomrl.errors import GeomrlError
from geomrl.geometry.groups import CANCELS, group_sums

FEWEST = 4
"""HSIC_1 divides by n (n - 3)."""
_COLUMNS = 256  # of the groups' cross products in memory at once


def debiased_cka(x: Float[np.ndarray, "n d1"], y: Float[np.ndarray, "n d2"]) -> float:
    """Return the debiased linear CKA of two sets of states of the same rollouts.

    CKA = HSIC_1(K, L) / sqrt(HSIC_1(K, K) HSIC_1(L, L)) with linear kernels K, L and the unbiased
    estimator HSIC_1 of Song et al. 2012 (JMLR 13, equation 5); so debiased by Murphy et al. 2024
    (arXiv 2405.01012). In float64. NaN where the states of either side do not differ.

    Args:
        x: states of one encoder, row i of the same rollout as row i of y.
        y: states of the other; it may have another width.

    Raises:
        GeomrlError: fewer than four rows, or the rows do not pair.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(50, 8))
    >>> rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    >>> round(debiased_cka(x, 3.0 * x @ rotation + 1.0), 9)
    1.0
    """
    x, y = _checked(x, y)
    return _ratio(_hsic(x, y), _hsic(x, x), _hsic(y, y))


def cka_without(
    x: Float[np.ndarray, "n d1"],
    y: Float[np.ndarray, "n d2"],
    group: Int[np.ndarray, " n"],
    n_groups: int,
) -> tuple[float, Float[np.ndarray, " groups"]]:
    """Return the debiased CKA, and that without each group of rows, for a jackknife.

    Args:
        x, y: as in `debiased_cka`.
        group: each row's group, 0 .. n_groups - 1; one without rows gives the CKA of all.
        n_groups: the number of replicates.
    """
    x, y = _checked(x, y)
    if len(x) > max(x.shape[1], y.shape[1]):
        return _narrow_cka(x, y, group, n_groups)
    # Wide states: two Gram matrices serve all replicates.
    k, l = (z @ z.T for z in (x - x.mean(axis=0), y - y.mean(axis=0)))  # noqa: E741
    np.fill_diagonal(k, 0.0)
    np.fill_diagonal(l, 0.0)
    kept = [np.flatnonzero(group != g) for g in range(n_groups)]
    return _gram_cka(k, l), np.array(
        [_gram_cka(k[np.ix_(rows, rows)], l[np.ix_(rows, rows)]) for rows in kept]
    )


def _narrow_cka(
    x: Float[np.ndarray, "n d1"],
    y: Float[np.ndarray, "n d2"],
    group: Int[np.ndarray, " n"],
    n_groups: int,
) -> tuple[float, Float[np.ndarray, " groups"]]:
    """Return CKAs of states that are more than they are wide.

    Cross products add over groups, so the whole's and every replicate's are made of one product a
    group; what is left is the shift of the centre when a group leaves.
    """
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(n_groups + 1))
    one, other = (_Side.of(z[order], starts) for z in (x, y))
    cross, own, others = (
        _hsic_without(a, b, _group_gram(a.states, b.states, starts), starts)
        for a, b in ((one, other), (one, one), (other, other))
    )
    whole, *rest = (_ratio(*parts) for parts in zip(cross, own, others, strict=True))
    for g in range(n_groups):
        if min(own[g + 1] / own[0], others[g + 1] / others[0]) < CANCELS:
            rest[g] = debiased_cka(x[group != g], y[group != g])
    return whole, np.array(rest)


@dataclass(frozen=True)
class _Side:
    """One encoder's centred states, sorted by group, and what leaving out a group does to them.

    `means[g]` is the mean of the rows outside group g, and `pulls[:, g]` the products with it.
    """

    states: Float[np.ndarray, "n d"]
    squares: Float[np.ndarray, " n"]
    means: Float[np.ndarray, "groups d"]
    pulls: Float[np.ndarray, "n groups"]

    @classmethod
    def of(cls, states: Float[np.ndarray, "n d"], starts: Int[np.ndarray, " g1"]) -> Self:
        states -= states.mean(axis=0)  # a copy of its own, sorted by group
        rest = len(states) - np.diff(starts)
        means = -group_sums(states, starts) / rest[:, None]  # all states sum to 0
        return cls(states, np.einsum("nd,nd->n", states, states), means, states @ means.T)

    def lengths(self, g: int) -> Float[np.ndarray, " n"]:
        """Return the squared distances to the mean without group g."""
        return self.squares - 2.0 * self.pulls[:, g] + self.means[g] @ self.means[g]


def _group_gram(
    x: Float[np.ndarray, "n d1"], y: Float[np.ndarray, "n d2"], starts: Int[np.ndarray, " g1"]
) -> Float[np.ndarray, "groups groups"]:
    """Return <x_g' y_g, x_h' y_h> of the groups' cross products, [d1, d2] each.

    By blocks of columns, so that the cross products are never in memory whole; of a symmetric one
    the blocks above the diagonal are taken from below it.
    """
    groups = [slice(a, b) for a, b in pairwise(starts.tolist())]
    gram = np.zeros((len(groups), len(groups)))

    def add(rows: slice, columns: slice, times: float) -> None:
        parts = np.stack([x[g, rows].T @ y[g, columns] for g in groups])
        flat = parts.reshape(len(groups), -1)
        gram[...] += times * (flat @ flat.T)

    for start in range(0, y.shape[1], _COLUMNS):
        columns = slice(start, min(start + _COLUMNS, y.shape[1]))
        if x is not y:
            add(slice(None), columns, 1.0)
            continue
        add(columns, columns, 1.0)
        if columns.stop < y.shape[1]:
            add(slice(columns.stop, None), columns, 2.0)
    return gram


def _hsic_without(
    one: _Side, other: _Side, gram: Float[np.ndarray, "g g"], starts: Int[np.ndarray, " g1"]
) -> Float[np.ndarray, " g1"]:
    """Return HSIC_1 of all rows, then without each group."""
    n = len(one.states)
    found = [_hsic_1(n, gram.sum(), one.squares, other.squares)]
    for g, (start, stop) in enumerate(pairwise(starts.tolist())):
        kept = np.r_[0:start, stop:n]
        m, (mu, nu) = len(kept), (one.means[g], other.means[g])
        cross = gram.sum() - 2.0 * gram[g].sum() + gram[g, g]
        # |C - m mu nu'|^2, for C the cross product of the rows kept around the centre of all.
        cross -= 2.0 * m * float(one.pulls[kept, g] @ other.pulls[kept, g])
        cross += m**2 * float(mu @ mu) * float(nu @ nu)
        found.append(_hsic_1(m, cross, one.lengths(g)[kept], other.lengths(g)[kept]))
    return np.array(found)


def _checked(
    x: Float[np.ndarray, "n d1"], y: Float[np.ndarray, "n d2"]
) -> tuple[Float[np.ndarray, "n d1"], Float[np.ndarray, "n d2"]]:
    if len(x) != len(y):
        raise GeomrlError(
            f"CKA of {len(x)} and {len(y)} states: row i of both must be the same rollout; read "
            "both encoders on the same rollouts"
        )
    if len(x) < FEWEST:
        raise GeomrlError(f"CKA of {len(x)} states: it needs {FEWEST}; sample more rollouts")
    return np.asarray(x, dtype=float), np.asarray(y, dtype=float)


def _hsic(x: Float[np.ndarray, "n d1"], y: Float[np.ndarray, "n d2"]) -> float:
    """Return HSIC_1 of linear kernels.

    It is blind to a shift of the states, so they are centred, and K~ 1 = -diag K: no n x n array is
    needed where the states are narrower than they are many.
    """
    n = len(x)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    k, l = np.einsum("nd,nd->n", x, x), np.einsum("nd,nd->n", y, y)  # noqa: E741
    if n > max(x.shape[1], y.shape[1]):
        cross = float(((x.T @ y) ** 2).sum())
    else:
        cross = float(np.vdot(x @ x.T, y @ y.T))
    return _hsic_1(n, cross, k, l)


def _hsic_1(
    n: int,
    cross: float,
    k: Float[np.ndarray, " n"],
    l: Float[np.ndarray, " n"],  # noqa: E741
) -> float:
    """Return HSIC_1 from |x'y|^2 and the squared lengths of the centred states."""
    both = float(k @ l)
    trace = cross - both
    corner = float(k.sum() * l.sum()) / ((n - 1) * (n - 2))
    return (trace + corner - 2.0 * both / (n - 2)) / (n * (n - 3))


def _gram_cka(k: Float[np.ndarray, "n n"], l: Float[np.ndarray, "n n"]) -> float:  # noqa: E741
    """Return the debiased CKA from Gram matrices with zero diagonals."""
    n = len(k)
    rows = [k.sum(axis=1), l.sum(axis=1)]

    def hsic(a: int, b: int) -> float:
        trace = float(np.vdot((k, l)[a], (k, l)[b]))
        corner = float(rows[a].sum() * rows[b].sum()) / ((n - 1) * (n - 2))
        return trace + corner - 2.0 * float(rows[a] @ rows[b]) / (n - 2)

    return _ratio(hsic(0, 1), hsic(0, 0), hsic(1, 1))


def _ratio(cross: float, one: float, other: float) -> float:
    if one <= 0 or other <= 0:
        return float("nan")
    return float(cross / np.sqrt(one * other))
