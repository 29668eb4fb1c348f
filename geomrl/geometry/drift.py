"""How far states moved: length and direction apart.

A cosine sees direction alone and a distance mixes both; RL may change either without the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Drift:
    """By rollout: log of the ratio of lengths, and the cosine between the two encoders' states."""

    log_norm_ratio: Float[np.ndarray, " n"]
    direction: Float[np.ndarray, " n"]


def drift(base: Float[np.ndarray, "n d"], rl: Float[np.ndarray, "n d"]) -> Drift:
    """Return how each rollout's state differs between encoders, NaN where a state is zero.

    >>> moved = drift(np.array([[3.0, 4.0]]), np.array([[-8.0, 6.0]]))
    >>> round(float(np.exp(moved.log_norm_ratio[0])), 3), float(moved.direction[0])
    (2.0, 0.0)
    """
    x, y = np.asarray(base, dtype=float), np.asarray(rl, dtype=float)
    one, other = (np.sqrt(np.einsum("nd,nd->n", z, z)) for z in (x, y))
    seen = (one > 0) & (other > 0)
    blank = np.full(len(x), np.nan)
    ratio = np.divide(other, one, out=blank.copy(), where=seen)
    cosine = np.divide(np.einsum("nd,nd->n", x, y), one * other, out=blank.copy(), where=seen)
    return Drift(np.log(ratio), np.clip(cosine, -1.0, 1.0))
