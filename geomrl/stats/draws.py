"""What every random draw of an analysis depends on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Draws:
    """The seed of all draws, the bootstrap draws of an interval, the permutations of a test."""

    seed: int = 0
    n_boot: int = 2000
    n_perm: int = 1000
