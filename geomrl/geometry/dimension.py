"""Intrinsic dimension by two nearest neighbours (TwoNN)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from geomrl.errors import GeomrlError

DISCARDED = 0.1
"""Share of the largest ratios left out: they are the ones that uneven density spoils."""
FEWEST = 10


def two_nn(states: Float[np.ndarray, "n d"], discarded: float = DISCARDED) -> float:
    """Return the intrinsic dimension of the manifold that states lie on.

    Facco et al. 2017 (Scientific Reports 7, 12140): the ratio mu of the distances to the second and
    the first neighbour follows F(mu) = 1 - mu^-d, so d is the slope of -log(1 - F) over log mu,
    through the origin. It reads high dimensions too low, and more so the fewer the states: a
    Gaussian of 50 dimensions reads about 30 at n = 1000. Compare only states of equal n.

    Args:
        states: one state a problem, or neighbours are rollouts of the same problem. Equal states
            are counted once.
        discarded: share of the largest ratios that is left out.

    Raises:
        GeomrlError: fewer than ten different states.
    """
    from scipy.spatial import cKDTree
    from scipy.spatial.distance import cdist

    x = np.unique(np.asarray(states, dtype=float), axis=0)
    n = len(x)
    if n < FEWEST:
        raise GeomrlError(
            f"TwoNN of {n} different states: it needs {FEWEST}; take more problems than that"
        )
    if x.shape[1] <= 8:
        nearest = cKDTree(x).query(x, k=3)[0][:, 1:]
    else:  # a tree is no faster in many dimensions
        nearest = np.sort(np.partition(cdist(x, x), 2, axis=1)[:, :3], axis=1)[:, 1:]
    ratios = np.sort(np.log(nearest[:, 1] / nearest[:, 0]))
    kept = int(n * (1.0 - discarded))
    rise = -np.log1p(-np.arange(1, kept + 1) / n)
    along = ratios[:kept]
    return float(along @ rise / (along @ along))
