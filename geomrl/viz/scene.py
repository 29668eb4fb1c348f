"""What a figure of a probed run is drawn from, and what drawing it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float

from geomrl.viz.embedding import Embedding, embed
from geomrl.viz.picture import Picture, Skipped
from geomrl.viz.tables import Axis, anchor_label, layer_words
from geomrl.viz.theme import Provenance


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One benchmark of a probed run, at the layer and the anchor that are shown.

    Attributes:
        rollouts: the benchmark's, one row each: rollout_id, problem_id, verdict, response_ids ...
        table: its similarity table, of all layers and anchors.
        rows: labels of each state: rollout_id, problem_id, verdict, answer_class, gold.
        states: [rows, d] in float32, at `layer` and `anchor`.
        source: policy, encoder, seed and benchmark; `source.footnote(...)` says them.
        layer: of the pictures that show one.
        anchor: of the pictures that show one.
        seed: of everything that is drawn at random.
        umap: whether to fit UMAP.
        draws: seed and n_boot of the run's summary.
    """

    rollouts: pd.DataFrame
    table: pd.DataFrame
    rows: pd.DataFrame
    states: Float[np.ndarray, "rows d"]
    source: Provenance
    layer: str
    anchor: str
    seed: int
    umap: bool
    draws: dict[str, int]

    @property
    def place(self) -> str:
        """The layer and the anchor in words."""
        return f"{layer_words(self.layer)}, {anchor_label(self.anchor)}"

    def held(self, by: Axis) -> tuple[str, str]:
        """Return what a picture along one axis holds fixed: its name, and its words."""
        if by == "layer":
            return self.anchor, anchor_label(self.anchor)
        return self.layer, layer_words(self.layer)

    @cached_property
    def embedding(self) -> Embedding:
        """The maps of the states, made once for all pictures."""
        return embed(self.rows, self.states, seed=self.seed, umap=self.umap)

    @property
    def methods(self) -> str:
        """How the intervals of the similarity table were made."""
        cosines = self.table[self.table["measure"] == "cosine"]
        return bootstrap_words(int(cosines["n_boot"].max()))


Make = Callable[[Scene], Picture | Skipped]
"""A figure: a function from a scene to a picture, whose name is that of its files."""


def bootstrap_words(draws: int) -> str:
    """Return how intervals were made, for a footnote."""
    return f"95 % bootstrap-t intervals by problem ({draws:,} draws)"
