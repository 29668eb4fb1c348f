"""Is one encoder a rotation of the other? Fitted on some problems, scored on others.

A rotation fitted and scored on the same states always looks good: with d dimensions it has
d (d - 1) / 2 free numbers. Here half of the problems fit it and the other half score it, both ways
round. Beside it stands the score without any rotation: their difference, the gain, is what a
rotation explains, and nothing else can raise it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

ROWS_PER_DIRECTION = 4
"""Directions kept are at most the fitting rows over this."""


@dataclass(frozen=True)
class ProcrustesScore:
    """Cosines between held-out states, centred, as vectors of all numbers: 1 is equality.

    `unrotated` leaves the RL states as they are, `rotated` turns them by the rotation fitted on the
    other problems. `n_directions` principal directions of each encoder were compared.
    """

    unrotated: float
    rotated: float
    n_directions: int

    @property
    def gain(self) -> float:
        """What the rotation explains."""
        return self.rotated - self.unrotated


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """By problem [P]: what the score's cosines are made of; sums over problems give a score."""

    unrotated: Float[np.ndarray, " p"]
    rotated: Float[np.ndarray, " p"]
    base: Float[np.ndarray, " p"]
    rl: Float[np.ndarray, " p"]
    n_directions: int

    def score(self, kept: Bool[np.ndarray, " p"] | None = None) -> ProcrustesScore:
        """Return the score over all problems, or over those kept."""
        chosen = np.ones(len(self.base), dtype=bool) if kept is None else kept
        scale = np.sqrt(self.base[chosen].sum() * self.rl[chosen].sum())
        if not scale > 0:
            return ProcrustesScore(np.nan, np.nan, self.n_directions)
        unrotated = float(self.unrotated[chosen].sum() / scale)
        return ProcrustesScore(
            unrotated, float(self.rotated[chosen].sum() / scale), self.n_directions
        )


def held_out_procrustes(
    base: Float[np.ndarray, "n d"],
    rl: Float[np.ndarray, "n d"],
    problem: Int[np.ndarray, " n"],
    fold: Int[np.ndarray, " p"],
) -> HeldOut:
    """Score orthogonal Procrustes (Schoenemann 1966) on problems that did not fit it.

    The fitting problems give each encoder's mean and principal directions, as many as `d` or a
    quarter of their rows, and the rotation between the two (scipy.linalg.orthogonal_procrustes). An
    exact rotation has the same directions, rotated, so its score is 1 even where d is larger than
    the number of rows. The score is a cosine: it is blind to shift and scale.

    Args:
        base: states of the base encoder.
        rl: states of the other encoder, of the same rollouts in the same order.
        problem: [n] each row's problem, 0 .. P-1.
        fold: [P] 0 or 1: each half is scored with the rotation that the other half fitted.
    """
    from scipy.linalg import orthogonal_procrustes

    x, y = np.asarray(base, dtype=float), np.asarray(rl, dtype=float)
    sums = np.zeros((4, len(fold)))
    directions = x.shape[1]
    row_fold = fold[problem]
    for scored in (0, 1):
        fits, here = row_fold != scored, row_fold == scored
        if fits.sum() < ROWS_PER_DIRECTION or not here.any():
            continue
        k = min(directions, int(fits.sum()) // ROWS_PER_DIRECTION)
        x_mean, y_mean = x[fits].mean(axis=0), y[fits].mean(axis=0)
        x_fit, y_fit = x[fits] - x_mean, y[fits] - y_mean
        u, v = _directions(x_fit, k), _directions(y_fit, k)  # [d, k]
        directions = min(directions, u.shape[1], v.shape[1])
        if not directions:  # the fitting states are all equal: there is nothing to turn
            none = np.zeros(len(fold))
            return HeldOut(unrotated=none, rotated=none, base=none, rl=none, n_directions=0)
        u, v = u[:, :directions], v[:, :directions]
        turn, _ = orthogonal_procrustes(y_fit @ v, x_fit @ u, check_finite=False)
        a, b = (x[here] - x_mean) @ u, (y[here] - y_mean) @ v  # [held out, k]
        parts = (
            np.einsum("nk,nk->n", a, b @ (v.T @ u)),
            np.einsum("nk,nk->n", a, b @ turn),
            np.einsum("nk,nk->n", a, a),
            np.einsum("nk,nk->n", b, b),
        )
        for total, part in zip(sums, parts, strict=True):
            total += np.bincount(problem[here], part, minlength=len(fold))
    unrotated, rotated, own, other = sums
    return HeldOut(
        unrotated=unrotated, rotated=rotated, base=own, rl=other, n_directions=directions
    )


def _directions(x: Float[np.ndarray, "n d"], k: int) -> Float[np.ndarray, "d k"]:
    """Return the k principal directions with the most variance of centred states."""
    from scipy.linalg import eigh

    n, d = x.shape
    if d <= n:
        _, vectors = eigh(x.T @ x, subset_by_index=[d - k, d - 1], overwrite_a=True)
        return vectors[:, ::-1]
    values, vectors = eigh(x @ x.T, subset_by_index=[n - k, n - 1], overwrite_a=True)
    kept = values > 1e-12 * max(float(values[-1]), 1e-300)
    found = x.T @ vectors[:, kept] / np.sqrt(values[kept])
    return found[:, ::-1]
