"""Runs with planted geometry, and what every picture of them must satisfy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.text import Text

from geomrl.geometry.similarity import similarity_table
from geomrl.viz import contrasts, profiles, theme
from geomrl.viz.picture import Picture
from geomrl.viz.probed import make_pictures

LAYERS = ("0", "1", "2", "final")
ANCHORS = ("fraction:0.5", "before_marker-1", "before_marker", "marker_end")
SOURCE = theme.Provenance("a-policy", "an-encoder-0123abcd", 0, "made-up")


@dataclass(kw_only=True)
class PlantedRun:
    """A run whose states are a shared mean, a problem's mean, an answer's mean and noise."""

    path: Path
    rollouts: pd.DataFrame
    layers: tuple[str, ...] = LAYERS
    anchors: tuple[str, ...] = ANCHORS
    table: pd.DataFrame | None = None
    planted: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)

    @property
    def similarity(self) -> pd.DataFrame:
        if self.table is None:
            parts = [self._table(name) for name in self.rollouts["benchmark"].unique()]
            self.table = pd.concat(parts, ignore_index=True)
        return self.table

    def _table(self, benchmark: str) -> pd.DataFrame:
        def read(layer: str, anchor: str) -> tuple[pd.DataFrame, np.ndarray]:
            rows, states = self.states(layer, anchor)
            here = (rows["benchmark"] == benchmark).to_numpy()
            return rows[here].reset_index(drop=True), states[here]

        context = {"policy": "p", "encoder": "e-1", "step": None, "benchmark": benchmark}
        found = similarity_table(
            read, self.layers, self.anchors, context=context, n_boot=50, n_perm=30
        )
        return found.table

    def states(self, layer: str, anchor: str) -> tuple[pd.DataFrame, np.ndarray]:
        rows = self.rollouts[self.rollouts["verdict"].isin(["correct", "wrong"])]
        rows = rows.reset_index(drop=True)
        if (layer, anchor) not in self.planted:
            rng = np.random.default_rng([self.layers.index(layer), self.anchors.index(anchor)])
            problems = {p: rng.normal(size=12) for p in rows["problem_id"].unique()}
            answers = {
                key: rng.normal(size=12)
                for key in rows.groupby(["problem_id", "answer_class"]).groups
            }
            depth = 1 + self.layers.index(layer)
            self.planted[layer, anchor] = np.stack(
                [
                    2.0 + problems[p] + 0.4 * depth * answers[p, a] + rng.normal(size=12)
                    for p, a in zip(rows["problem_id"], rows["answer_class"], strict=True)
                ]
            ).astype(np.float32)
        return rows, self.planted[layer, anchor]


def make_rollouts(
    n_problems: int = 24, n: int = 8, *, wrong: bool = True, benchmarks: tuple[str, ...] = ("sums",)
) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    rows = []
    for problem in range(n_problems):
        rate = rng.uniform(0, 1) if wrong else 1.0
        for sample in range(n):
            verdict = "correct" if rng.uniform() < rate else "wrong"
            verdict = "no_answer" if wrong and rng.uniform() < 0.03 else verdict
            rows.append(
                {
                    "rollout_id": f"{problem}/{sample}",
                    "benchmark": benchmarks[problem % len(benchmarks)],
                    "problem_id": f"sum-{problem:03d}",
                    "verdict": verdict,
                    "answer_class": 0 if verdict == "correct" else 1 + int(rng.integers(2)),
                    "gold": str(problem % 5),
                }
            )
    return pd.DataFrame(rows).astype({"answer_class": "Int64"})


def make_table(layers: list[str], anchors: list[str], *, intervals: bool = True) -> pd.DataFrame:
    """A table with every cell and test, for shapes that would take long to compute."""
    rng = np.random.default_rng(3)
    cells = [("cosine", c) for c in (*profiles.PROFILE_CELLS, *contrasts.CONTRASTS)]
    tests = [
        ("permutation_correctness", "CC-II"),
        ("permutation_answer_class", "CC-II_same_answer"),
    ]
    rows = []
    for layer in layers:
        for anchor in anchors:
            for space in ("raw", "centred"):
                for measure, cell in [*cells, *tests]:
                    value = float(rng.normal())
                    width = 0.5 if intervals else np.nan
                    rows.append(
                        {
                            "policy": "p", "encoder": "e", "step": 0, "benchmark": "sums",
                            "layer": layer, "anchor": anchor, "measure": measure, "cell": cell,
                            "space": space, "weighting": "problem", "value": value,
                            "low": value - width, "high": value + width,
                            "p": rng.uniform(0.001, 1), "n_problems": 40, "n_pairs": 4000,
                            "n_boot": 2000, "seed": 0,
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows)


def pictures_of(run: PlantedRun) -> dict[str, Picture]:
    """Return the pictures of a run of one benchmark, in memory."""
    made = [outcome for _, outcome in make_pictures(run, umap=False)]  # type: ignore[arg-type]
    return {picture.name: picture for picture in made if isinstance(picture, Picture)}


def assert_legible(picture: Picture) -> None:
    """No type below 7 pt, nothing outside the page, no two texts over each other."""
    with theme.style():
        picture.figure.draw_without_rendering()
    page = picture.figure.bbox
    boxes = {}
    hidden = hidden_ticks(picture)
    for text in picture.figure.findobj(Text):
        if not (text.get_visible() and text.get_text().strip()) or text in hidden:
            continue
        assert text.get_fontsize() >= 7, (picture.name, text.get_text())
        box = text.get_window_extent()
        for low, high, limit in ((box.x0, box.x1, page.x1), (box.y0, box.y1, page.y1)):
            assert low >= -1, (picture.name, text.get_text())
            assert high <= limit + 1, (picture.name, text.get_text())
        boxes[text] = box
    upright = [(t, b) for t, b in boxes.items() if t.get_rotation() in (0, 90)]
    for i, (one, a) in enumerate(upright):
        for other, b in upright[i + 1 :]:
            width = min(a.x1, b.x1) - max(a.x0, b.x0)
            height = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert width <= 1 or height <= 1, (picture.name, one.get_text(), other.get_text())


def hidden_ticks(picture: Picture) -> set[Text]:
    """Return the labels of ticks outside their axis' limits, which matplotlib does not draw."""
    found: set[Text] = set()
    for axes in picture.figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                    found |= {tick.label1, tick.label2}
    return found
