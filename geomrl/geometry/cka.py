"""Debiased centred kernel alignment: do two encoders arrange the same rollouts alike?

The usual (biased) CKA is close to 1 for anything once the states are wide: .98 for independent
Gaussians with n = 32, d = 2048. The debiased one is 0 on average for independent states whatever n
and d, and exactly 1 where one encoder's states are a rotation, a shift or a multiple of the
other's. It may be a little negative by chance.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from geomrl.errors import GeomrlError

FEWEST = 4
"""HSIC_1 divides by n (n - 3)."""


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
    left_out: list[Bool[np.ndarray, " n"]],
) -> tuple[float, Float[np.ndarray, " groups"]]:
    """Return the debiased CKA, and that without each group of rows, for a jackknife.

    Args:
        x, y: as in `debiased_cka`.
        left_out: for each replicate, the rows that it lacks.
    """
    x, y = _checked(x, y)
    if len(x) > max(x.shape[1], y.shape[1]):
        whole = debiased_cka(x, y)
        return whole, np.array([debiased_cka(x[~out], y[~out]) for out in left_out])
    # Wide states: two Gram matrices serve all replicates.
    k, l = (z @ z.T for z in (x - x.mean(axis=0), y - y.mean(axis=0)))  # noqa: E741
    np.fill_diagonal(k, 0.0)
    np.fill_diagonal(l, 0.0)
    return _gram_cka(k, l), np.array(
        [_gram_cka(k[np.ix_(~out, ~out)], l[np.ix_(~out, ~out)]) for out in left_out]
    )


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
