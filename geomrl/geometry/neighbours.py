"""Mutual nearest neighbours: does a rollout keep its company from one encoder to the other?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from geomrl.errors import GeomrlError


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
    return np.array([len(np.intersect1d(a, b)) / k for a, b in zip(one, other, strict=True)])


def chance(problem: Int[np.ndarray, " n"], k: int) -> float:
    """Return the mean share that unrelated encoders agree on."""
    others = len(problem) - np.bincount(problem)[problem]
    return float((k / others).mean())


def _nearest(
    x: Float[np.ndarray, "n d"], problem: Int[np.ndarray, " n"], k: int
) -> Int[np.ndarray, "n k"]:
    """Return the k rows of other problems with the largest centred cosine (ties: lower row)."""
    away = np.asarray(x, dtype=float) - x.mean(axis=0)
    norms = np.sqrt(np.einsum("nd,nd->n", away, away))
    unit = np.divide(away, norms[:, None], out=np.zeros_like(away), where=norms[:, None] > 0)
    found = np.empty((len(x), k), dtype=int)
    for start in range(0, len(x), 512):
        rows = slice(start, start + 512)
        cosines = unit[rows] @ unit.T
        cosines[problem[rows, None] == problem[None, :]] = -np.inf
        # Rounded: an exact rotation must give the same neighbours, ties included.
        found[rows] = np.argsort(-cosines.round(9), axis=1, kind="stable")[:, :k]
    return found
