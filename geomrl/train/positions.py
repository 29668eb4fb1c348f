"""Where the alignment reads: anchors as positions in prompt and response together, and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from geomrl.models.token_bytes import TokenBytes
from geomrl.probe.anchors import find_anchors
from geomrl.seeds import derive_seed
from geomrl.train.batch import Sample
from geomrl.train.minibatch import AlignmentLabels
from geomrl.train.negative_controls import random_position, relabel
from geomrl.train.sections import AlignmentConfig
from geomrl.train.values import RANDOM_ANCHOR
from geomrl.verify.marker import Marker

GRADED = ("correct", "wrong")


@dataclass(frozen=True)
class AnchorFinder:
    """Finds anchors by the same code as the probe."""

    tokens: TokenBytes
    marker: Marker
    stop_ids: frozenset[int]

    def find(self, sample: Sample, names: Sequence[str]) -> list[int | None]:
        """Return each anchor's position in prompt and response together; None where absent."""
        found = find_anchors(
            self.tokens, sample.response_ids, self.marker, names,
            stop_ids=self.stop_ids, answer=sample.answer,
        )  # fmt: skip
        n_prompt = len(sample.prompt_ids)
        return [
            None if anchor.token_index is None or n_prompt + anchor.token_index < 0
            else n_prompt + anchor.token_index
            for anchor in found
        ]  # fmt: skip

    def alignment_position(self, sample: Sample, name: str) -> int | None:
        """Return where a rollout is aligned; None where it has no such anchor or no clear verdict.

        A random position is drawn for rollouts that have an answer, as the real anchors are.
        """
        if sample.verdict not in GRADED:
            return None
        if name != RANDOM_ANCHOR:
            return self.find(sample, [name])[0]
        drawn = random_position(len(sample.response_ids), derive_seed(sample.seed, "position"))
        return len(sample.prompt_ids) + drawn


def alignment_labels(
    samples: Sequence[Sample],
    anchors: Sequence[int | None],
    settings: AlignmentConfig,
    seed: int,
) -> AlignmentLabels:
    """Return what the loss and the gauges are given of the rollouts that have an anchor."""
    chosen = [s for s, anchor in zip(samples, anchors, strict=True) if anchor is not None]
    group = torch.tensor([sample.group for sample in chosen], dtype=torch.long)
    correct = torch.tensor([sample.correct for sample in chosen], dtype=torch.bool)
    told_group, told_correct = relabel(settings.rollouts, group, correct, seed)
    return AlignmentLabels(told_group, told_correct, group, correct)


def alignment_weight(settings: AlignmentConfig, step: int) -> float:
    """Return the loss's weight in a training step: a linear rise, a plateau, perhaps an end.

    >>> settings = AlignmentConfig(weight=0.4, warmup_steps=4, stop_after=6)
    >>> [alignment_weight(settings, step) for step in (1, 2, 4, 5, 6)]
    [0.1, 0.2, 0.4, 0.4, 0.0]
    """
    if settings.stop_after is not None and step >= settings.stop_after:
        return 0.0
    rise = min(1.0, step / settings.warmup_steps) if settings.warmup_steps else 1.0
    return settings.weight * rise
