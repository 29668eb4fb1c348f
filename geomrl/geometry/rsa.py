"""Representational similarity analysis: do two encoders find the same problems alike?

The unit is the problem, not the rollout: rollouts of one problem are close in any encoder, and a
correlation over pairs of rollouts would mostly say that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from geomrl.errors import GeomrlError
from geomrl.seeds import derive_rng
from geomrl.stats.permutation import permutation_p

FEWEST = 4


@dataclass(frozen=True, kw_only=True)
class RsaResult:
    """Spearman's correlation of the dissimilarities, and its permutation p (one-sided).

    A small p says that the encoders are related, not that they are equal.
    """

    value: float
    p: float
    n_problems: int
    n_perm: int
    seed: int


def dissimilarities(means: Float[np.ndarray, "p d"]) -> Float[np.ndarray, "p p"]:
    """Return 1 - cosine between problems' mean states, after subtracting their common mean."""
    away = np.asarray(means, dtype=float) - means.mean(axis=0)
    norms = np.sqrt(np.einsum("pd,pd->p", away, away))
    unit = np.divide(away, norms[:, None], out=np.zeros_like(away), where=norms[:, None] > 0)
    return 1.0 - unit @ unit.T


def rsa(
    base: Float[np.ndarray, "p d1"],
    rl: Float[np.ndarray, "p d2"],
    *,
    n_perm: int = 999,
    seed: int = 0,
) -> RsaResult:
    """Compare two encoders by the dissimilarities of problems' mean states.

    Kriegeskorte et al. 2008 (Frontiers in Systems Neuroscience 2). The null permutes the problems
    of one side, rows and columns together (Mantel 1967): pairs share problems, so single pairs are
    never permuted.

    Args:
        base: mean state of each problem in the base encoder.
        rl: the same problems in the other encoder.
        n_perm: permutations; 0 gives no p.
        seed: of the permutations.

    Raises:
        GeomrlError: fewer than four problems, or the problems do not pair.
    """
    n = len(base)
    if n != len(rl) or n < FEWEST:
        raise GeomrlError(
            f"RSA of {n} and {len(rl)} problems: it needs the same {FEWEST} or more in both; "
            "take more problems"
        )
    upper = np.triu_indices(n, 1)
    one, other = (_ranked(dissimilarities(x)[upper]) for x in (base, rl))
    value = float(one @ other)
    if not n_perm:
        return RsaResult(value=value, p=float("nan"), n_problems=n, n_perm=0, seed=seed)
    left, right = np.zeros((n, n)), np.zeros((n, n))
    left[upper], right[upper] = one, other
    right += right.T
    rng = derive_rng(seed, "rsa")
    drawn = np.empty(n_perm)
    for k in range(n_perm):
        order = rng.permutation(n)
        drawn[k] = np.vdot(left, right[order][:, order])
    return RsaResult(
        value=value,
        p=permutation_p(value, drawn, two_sided=False),
        n_problems=n,
        n_perm=n_perm,
        seed=seed,
    )


def _ranked(values: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Return centred ranks of unit length, so that a product of two is Spearman's correlation."""
    from scipy.stats import rankdata

    ranks = rankdata(values)
    ranks -= ranks.mean()
    length = np.sqrt(ranks @ ranks)
    return ranks / length if length > 0 else np.full(len(ranks), np.nan)
