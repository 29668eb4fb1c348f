"""The alignment loss inside an optimiser step: reads states, adds its share, measures itself.

The loss compares rollouts that lie in different micro-batches and on different ranks. Its gradient
at each state is therefore computed first, on a table of all the step's anchor states, and each
micro-batch back-propagates <that gradient, its own states>: exact under any split as long as the
table holds the states of the present weights (GradCache: Gao et al. 2021, arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from geomrl.errors import GeomrlError
from geomrl.probe.extractor import Extractor, Reading
from geomrl.train.alignment import GROUP_LOCAL, eligible_groups
from geomrl.train.engine import Engine
from geomrl.train.gradient_cache import CachedGradients, cached_gradients, surrogate
from geomrl.train.minibatch import AlignmentLabels, MiniBatch, Piece
from geomrl.train.passes import read_states, stack_states
from geomrl.train.planning import MicroBatches, whole_groups
from geomrl.train.sections import AlignmentConfig

Table = dict[str, Float[Tensor, "rows hidden"]]
"""Anchor states by layer; one row a rollout that has an anchor, in the rollouts' order."""


class AlignmentTerm:
    """The alignment part of one optimiser step.

    Where a micro-batch holds whole groups, and the loss needs no other ones, its own states are
    the table, and nothing is read twice. Otherwise the table is the one given, or comes from a
    forward without gradient that stops at the anchors.

    Args:
        engine: the engine around the policy.
        extractor: of the policy, called through the engine.
        batch: the optimiser step's rollouts, with anchors and labels.
        settings: the configuration's section.
        weight: of the loss. At 0 states are read and gauged, and the step is bit for bit one
            without alignment.
        plan: the ranks' micro-batches.
        budget: padded tokens of a forward.
        table: anchor states from an earlier pass.

    Raises:
        GeomrlError: `settings.table` is "groups" and a group does not fit into a micro-batch.
    """

    def __init__(
        self,
        engine: Engine,
        extractor: Extractor,
        batch: MiniBatch,
        settings: AlignmentConfig,
        *,
        weight: float,
        plan: Sequence[MicroBatches],
        budget: int,
        table: Table | None = None,
    ) -> None:
        if batch.labels is None or batch.anchors is None:
            raise ValueError("a mini-batch that is aligned must have anchors and labels")
        self.engine, self.extractor, self.settings = engine, extractor, settings
        self.labels: AlignmentLabels = batch.labels
        self.weight = weight
        self._row = {rollout: row for row, rollout in enumerate(batch.anchored)}
        self._eligible = eligible_groups(self.labels.group, self.labels.correct, settings.kind)
        self._states: dict[int, dict[str, Tensor]] = {}
        self._sums = {"policy": 0.0, "align": 0.0, "loss": 0.0}
        self._pending: tuple[Reading, dict[str, Tensor]] | None = None
        self._given = table
        self._cached: CachedGradients | None = None
        if weight and self._eligible and not self._groups_suffice(plan, batch):
            if table is None:
                table = _refresh(engine, extractor, batch, settings.layers, budget)
            self._cached = self._cache(table, range(len(self._row)))

    def forward(self, piece: Piece) -> tuple[Tensor, Tensor, Float[Tensor, ""]]:
        """Run a micro-batch: (log-probabilities, entropies, the weighted share of the loss)."""
        reading = self.extractor.read(
            piece.inputs, piece.anchors, self.settings.layers, gradients=True
        )
        logprobs, entropy = reading.output
        for number, rollout in enumerate(piece.anchor_rollout):
            self._states[rollout] = {k: v[number].detach() for k, v in reading.states.items()}
        gradients = self._gradients(piece, reading.states) if self.weight else {}
        self._pending = reading, gradients
        if not self.weight:
            return logprobs, entropy, logprobs.new_zeros(())
        return logprobs, entropy, self.weight * surrogate(reading.states, gradients)

    def after_backward(self) -> None:
        """Add up the squared gradients of both losses at the anchor states."""
        if self._pending is None:
            return
        reading, gradients = self._pending
        self._pending = None
        for layer, total in reading.gradients.items():
            align = self.weight * gradients[layer] if gradients else torch.zeros_like(total)
            policy = total / self.engine.world.size - align
            self._sums["policy"] += float(policy.double().square().sum())
            self._sums["align"] += float(align.double().square().sum())

    def finish(self) -> tuple[dict[str, float], Table]:
        """Return what to log, and the step's own anchor states, gathered from all ranks.

        `grad_norm/align` is of weight x dL/dh at the anchor states and `grad_norm/policy` of the
        rest of the loss at the same states; `grad_norm/align_unit` is |dL/dh| of the loss itself.
        `align/drift` is the cosine between the gradient from the table that was given and that
        from the step's own states.
        """
        states = {i: {k: v.cpu() for k, v in found.items()} for i, found in self._states.items()}
        table = stack_states(self.engine, states, self.settings.layers)
        sums = self.engine.world.sums(self._sums)
        metrics = {
            "grad_norm/align": sums["align"] ** 0.5,
            "grad_norm/policy": sums["policy"] ** 0.5,
            "align/eligible": float(self._eligible),
            "align/aligned": float(self.labels.correct.sum()),
        }
        if self.weight and self._eligible and self._cached is None:
            # The micro-batches were the table: their shares add up.
            unit = metrics["grad_norm/align"] / self.weight
            return metrics | {"loss/align": sums["loss"], "grad_norm/align_unit": unit}, table
        true = self._cache(table, range(len(self._row)))
        metrics |= {
            "loss/align": true.loss,
            "grad_norm/align_unit": float(_flat(true.gradients).norm()),
        }
        if self._given is not None and self._cached is not None:
            here, there = _flat(true.gradients), _flat(self._cached.gradients)
            metrics["align/drift"] = float(torch.cosine_similarity(here, there, dim=0))
        return metrics, table

    def _gradients(self, piece: Piece, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return dL/dh at a micro-batch's states."""
        rows = [self._row[rollout] for rollout in piece.anchor_rollout]
        if not self._eligible:
            return {layer: torch.zeros_like(state) for layer, state in states.items()}
        if self._cached is not None:
            return {
                layer: self._cached.gradients[layer][rows].to(state.device)
                for layer, state in states.items()
            }
        own = self._cache({k: v.detach() for k, v in states.items()}, rows)
        share = own.n_groups / self._eligible  # its mean is over its own groups
        self._sums["loss"] += share * own.loss
        return {layer: share * gradient for layer, gradient in own.gradients.items()}

    def _cache(self, table: Mapping[str, Tensor], rows: Sequence[int]) -> CachedGradients:
        device = next(iter(table.values())).device
        chosen = torch.tensor(list(rows), dtype=torch.long)
        return cached_gradients(
            dict(table),
            self.labels.group[chosen].to(device),
            self.labels.correct[chosen].to(device),
            self.settings.kind,
            self.settings.temperature,
        )

    def _groups_suffice(self, plan: Sequence[MicroBatches], batch: MiniBatch) -> bool:
        """Say whether each micro-batch's own states are all that its groups' losses need."""
        wanted = self.settings.table
        if wanted not in ("auto", "groups"):
            return False
        local = is_group_local(self.settings)
        whole = whole_groups(plan, [sample.group for sample in batch.samples])
        if wanted == "groups" and not (local and whole):
            raise GeomrlError(
                "alignment.table 'groups': a group's rollouts do not fit into one micro-batch; raise "
                "micro_batch.tokens, set micro_batch.keep_groups, or take alignment.table auto"
            )
        return local and whole


def is_group_local(settings: AlignmentConfig) -> bool:
    """Say whether each group's loss needs the states of that group alone."""
    return settings.kind in GROUP_LOCAL and settings.rollouts != "shuffled_groups"


def _refresh(
    engine: Engine,
    extractor: Extractor,
    batch: MiniBatch,
    layers: Sequence[str],
    budget: int,
) -> Table:
    """Read the anchor states under the present weights, in a pass of their own."""
    chosen = [
        (s, a) for s, a in zip(batch.samples, batch.anchors or [], strict=True) if a is not None
    ]
    return read_states(
        engine,
        extractor,
        [sample.ids for sample, _ in chosen],
        [[anchor] for _, anchor in chosen],
        layers,
        budget=budget,
    )


def _flat(gradients: Mapping[str, Tensor]) -> Float[Tensor, " numbers"]:
    return torch.cat([gradient.double().cpu().flatten() for gradient in gradients.values()])
