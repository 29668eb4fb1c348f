"""Whether both encoders find the same problems alike (representational similarity analysis)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from geomrl.compare.measures.measure import Compared, Measure
from geomrl.compare.rows import CHANGE, Row
from geomrl.geometry import rsa
from geomrl.geometry.groups import Groups


def rsa_rows(at: Compared) -> Iterator[Row]:
    """Yield the correlation of the problems' dissimilarities; its p permutes problems."""
    for policy, paired in at.sets.items():
        related = rsa.rsa(
            *(_problem_means(states, paired.groups) for states in paired.both),
            n_perm=at.settings.n_perm, seed=at.settings.seed,
        )  # fmt: skip
        row = at.place.row("rsa", policy, CHANGE, related.value, n_problems=related.n_problems)
        yield {**row, "p": related.p}


def _problem_means(
    states: Float[np.ndarray, "n d"], groups: Groups
) -> Float[np.ndarray, "problems d"]:
    return groups.sums(states) / groups.sizes[:, None]


MEASURE = Measure(rows=rsa_rows, fewest=rsa.FEWEST, by_policy=True, labels={"rsa": "RSA"})
