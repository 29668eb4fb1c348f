"""Ridge classifiers of all folds from one pass over the states.

Cross products of states add over folds, so that those of a fold's training rows are the whole's
less the fold's own. It is what scikit-learn's `RidgeClassifier` behind a `StandardScaler` fits fold
by fold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float, Int

_EPS = np.finfo(float).eps


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """What a ridge needs of rows: their number and sum by class, cross products, least and most."""

    counts: Float[np.ndarray, " classes"]
    by_class: Float[np.ndarray, "classes d"]
    gram: Float[np.ndarray, "d d"]
    low: Float[np.ndarray, " d"]
    high: Float[np.ndarray, " d"]

    @classmethod
    def of(cls, x: Float[np.ndarray, "n d"], one_hot: Float[np.ndarray, "n classes"]) -> Self:
        return cls(
            counts=one_hot.sum(axis=0), by_class=one_hot.T @ x, gram=x.T @ x,
            low=x.min(axis=0), high=x.max(axis=0),
        )  # fmt: skip


@dataclass(frozen=True)
class Ridge:
    """A fitted classifier: scores are states @ weights + offsets."""

    classes: Int[np.ndarray, " present"]
    weights: Float[np.ndarray, "d present"]
    offsets: Float[np.ndarray, " present"]

    def predict(self, states: Float[np.ndarray, "n d"]) -> Int[np.ndarray, " n"]:
        """Return each state's class."""
        return self.classes[np.argmax(states @ self.weights + self.offsets, axis=1)]


def folded_ridges(
    states: Float[np.ndarray, "n d"], classes: Int[np.ndarray, " n"], fold: Int[np.ndarray, " n"]
) -> Iterator[tuple[int, Ridge]]:
    """Yield each fold with the classifier that the other folds' rows fitted.

    The penalty is a hundredth of the number of training rows. A fold whose training rows are of one
    class is left out.

    Args:
        states: [n, d], at least as many as they are wide.
        classes: each row's class, 0 .. C-1.
        fold: each row's fold.
    """
    middle = states.mean(axis=0)
    one_hot = np.eye(int(classes.max()) + 1)[classes]
    folds = np.unique(fold).tolist()
    parts = {f: _Sums.of(states[fold == f] - middle, one_hot[fold == f]) for f in folds}
    counts = sum(part.counts for part in parts.values())
    by_class = sum(part.by_class for part in parts.values())
    gram = np.zeros((states.shape[1], states.shape[1]))
    for part in parts.values():
        gram += part.gram
    edges = {f: (part.low, part.high) for f, part in parts.items()}
    for f in folds:
        own, rest = parts.pop(f), [edges[g] for g in folds if g != f]
        sums = _Sums(
            counts=counts - own.counts, by_class=by_class - own.by_class, gram=gram - own.gram,
            low=np.min([low for low, _ in rest], axis=0, initial=np.inf),
            high=np.max([high for _, high in rest], axis=0, initial=-np.inf),
        )  # fmt: skip
        if (sums.counts > 0).sum() > 1:
            yield f, _fitted(sums, middle)


def _fitted(sums: _Sums, middle: Float[np.ndarray, " d"]) -> Ridge:
    """Return the ridge of standardised states; `middle` was subtracted from them."""
    from scipy.linalg import solve

    n, present = sums.counts.sum(), np.flatnonzero(sums.counts)
    mean = sums.by_class.sum(axis=0) / n
    variance = np.maximum(np.diag(sums.gram) / n - mean**2, 0.0)
    # As scikit-learn; and what differs in the rows held out alone leaves rounding behind.
    flat = variance <= n * _EPS * variance + (n * (mean + middle) * _EPS) ** 2
    flat |= sums.low == sums.high
    scale = np.sqrt(np.where(flat, 1.0, variance))
    gram = sums.gram  # this fold's own: standardised in place
    gram -= np.outer(np.sqrt(n) * mean, np.sqrt(n) * mean)
    gram /= scale
    gram /= scale[:, None]
    gram[flat], gram[:, flat] = 0.0, 0.0
    gram[np.diag_indices_from(gram)] += n / 100
    counts = sums.counts[present]
    targets = 2.0 * (sums.by_class[present] - counts[:, None] * mean) / scale  # 1 of it, -1 else
    targets[:, flat] = 0.0
    weights = solve(gram, targets.T, assume_a="pos", overwrite_a=True) / scale[:, None]
    return Ridge(present, weights, 2.0 * counts / n - 1.0 - (middle + mean) @ weights)
