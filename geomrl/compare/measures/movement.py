"""How far the states of the same rollouts moved: in length and in direction."""

from __future__ import annotations

from collections.abc import Iterator

from geomrl.compare.measures.measure import Compared, Measure
from geomrl.compare.rows import CHANGE, Row
from geomrl.geometry.drift import drift


def movement_rows(at: Compared) -> Iterator[Row]:
    """Yield the log ratio of norms and the cosine between a rollout's two states."""
    for policy, paired in at.sets.items():
        moved = drift(paired.base, paired.rl)
        norm = at.mean(moved.log_norm_ratio, paired.groups, "norm")
        yield at.place.row("log_norm_ratio", policy, CHANGE, norm)
        direction = at.mean(moved.direction, paired.groups, "direction", (-1.0, 1.0))
        yield at.place.row("direction", policy, CHANGE, direction, tested=False)


MEASURE = Measure(
    rows=movement_rows, by_policy=True, labels={"log_norm_ratio": "", "direction": ""}
)
