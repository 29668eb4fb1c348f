"""Rows of the comparison table: one number each, with its interval and what it is of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from geomrl.stats.effect import Effect
from geomrl.stats.intervals import Interval

COLUMNS = (
    "checkpoint", "measure", "policy", "encoder", "layer", "anchor", "cell", "space",
    "value", "low", "high", "p", "n_problems", "seed",
)  # fmt: skip
ENCODERS = ("base", "rl")
CHANGE = "rl-base"
"""A row's policy or encoder where the number is a difference, or compares the two."""
BOTH = "both"
"""A row's policy where the number is a mean over both policies' rollouts."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """A layer and an anchor."""

    layer: str
    anchor: str

    def row(
        self,
        measure: str,
        policy: str,
        encoder: str,
        found: Effect | Interval | float,
        *,
        cell: str = "",
        space: str = "",
        shift: float = 0.0,
        n_problems: int | None = None,
        tested: bool = True,
    ) -> Row:
        """Return a row.

        `shift` is added to the value and its interval, not to the test. `tested` False leaves p
        out: where 0 is no value that anyone would expect.
        """
        nan = float("nan")
        if isinstance(found, float):
            value, low, high, p, n = found, nan, nan, nan, n_problems or 0
        elif isinstance(found, Interval):
            value, low, high, p, n = found.value, found.low, found.high, nan, found.n_clusters
        else:
            value, low, high, p, n = found.value, found.low, found.high, found.p, found.n_problems
        return {
            "measure": measure, "policy": policy, "encoder": encoder,
            "layer": self.layer, "anchor": self.anchor, "cell": cell, "space": space,
            "value": value + shift, "low": low + shift, "high": high + shift,
            "p": p if tested else nan,
            "n_problems": n if n_problems is None else n_problems,
        }  # fmt: skip
