"""Mutual nearest neighbours: does a rollout keep its company from one encoder to the other?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from geomrl.errors import GeomrlError

_WHOLE = 2**27  # most cosines in memory at once, 512 MB: of more states, panel by panel
_PANEL = 512
_TIES = 64  # cosines a row that may be the k-th: of more, whole rows are computed in float64
_DIGITS = 9  # an exact rotation must give the same neighbours, ties included


def mutual_neighbours(
    base: Float[np.ndarray, "n d1"],
    rl: Float[np.ndarray, "n d2"],
    problem: Int[np.ndarray, " n"],
    k: int = 10,
) -> Float[np.ndarray, " n"]:
    """Return, for each rollout, the share of its k nearest neighbours that both encoders agree on.

    Huh et al. 2024 (arXiv 2405.07987), with two differences: states are centred, and neighbours are
    looked for among *other* problems only, as those of the same problem are near in any encoder. By
    chance the share is about k over the number of rollouts of other problems (`chance`).

    Args:
        base: states of the base encoder.
        rl: states of the other encoder, of the same rollouts.
        problem: each rollout's problem.
        k: neighbours.

    Raises:
        GeomrlError: a rollout has fewer than k + 1 rollouts of other problems.
    """
    others = len(problem) - np.bincount(problem)[problem]
    if k < 1 or not len(problem) or others.min() <= k:
        raise GeomrlError(
            f"{k} nearest neighbours among {others.min() if len(others) else 0} rollouts of other "
            "problems: take more problems or a smaller k"
        )
    one, other = (_nearest(x, problem, k) for x in (base, rl))
    return (one[:, :, None] == other[:, None, :]).any(axis=2).sum(axis=1) / k


def chance(problem: Int[np.ndarray, " n"], k: int) -> float:
    """Return the mean share that unrelated encoders agree on."""
    others = len(problem) - np.bincount(problem)[problem]
    return float((k / others).mean())


def _nearest(
    x: Float[np.ndarray, "n d"], problem: Int[np.ndarray, " n"], k: int
) -> Int[np.ndarray, "n k"]:
    """Return the k rows of other problems with the largest centred cosine (ties: lower row).

    They are looked for in float32. A float32 product of d numbers whose vectors are of length one
    is wrong by at most (d + 2) / 2^24, whatever the order of its sums (Higham 2002, section 3.1),
    so that only cosines within twice that of the k-th are compared in float64.
    """
    away = np.asarray(x, dtype=float) - x.mean(axis=0)
    norms = np.sqrt(np.einsum("nd,nd->n", away, away))
    unit = np.divide(away, norms[:, None], out=np.zeros_like(away), where=norms[:, None] > 0)
    short = unit.astype(np.float32)
    n, slack = len(x), 2.1 * (x.shape[1] + 4) / 2**24 + 10.0**-_DIGITS
    found = np.empty((n, k), dtype=int)
    whole = short @ short.T if n * n <= _WHOLE else None  # half the work of its panels
    for start in range(0, n, _PANEL):
        rows = np.arange(start, min(start + _PANEL, n))
        cosines = short[rows] @ short.T if whole is None else whole[rows]
        cosines[problem[rows, None] == problem[None, :]] = -np.inf
        last = np.partition(cosines, n - k, axis=1)[:, n - k, None]
        may = cosines >= last - slack
        many = may.sum(axis=1)
        found[rows[many == k]] = np.nonzero(may[many == k])[1].reshape(-1, k)
        open_, may = rows[many > k], may[many > k]
        if len(open_):
            found[open_] = _decided(unit, open_, may, k)
    return found


def _decided(
    unit: Float[np.ndarray, "n d"],
    rows: Int[np.ndarray, " m"],
    may: Bool[np.ndarray, "m n"],
    k: int,
) -> Int[np.ndarray, "m k"]:
    """Return each row's k nearest among those it may have, by their cosines in float64."""
    one, other = np.nonzero(may)
    if len(one) <= _TIES * len(rows):
        cosines = np.empty(len(one))
        for start in range(0, len(one), _PANEL):
            part = slice(start, start + _PANEL)
            cosines[part] = np.einsum("nd,nd->n", unit[rows[one[part]]], unit[other[part]])
    else:
        cosines = (unit[rows] @ unit.T)[one, other]
    order = np.lexsort((other, -cosines.round(_DIGITS), one))
    first = np.searchsorted(one, np.arange(len(rows)))
    return other[order][first[:, None] + np.arange(k)]
