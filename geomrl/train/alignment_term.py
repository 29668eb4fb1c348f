"""The alignment loss inside an optimiser step: reads states, adds its share, measures itself.

The loss compares rollouts that lie in different micro-batches and on different ranks. Its gradient
at each state is therefore computed first, on a table of all the step's anchor states, and each
micro-batch back-propagates <that gradient, its own states>: exact under any split as long as the
table contains the states of the present weights (GradCache: Gao et al. 2021, arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from geomrl.errors import GeomrlError
from geomrl.probe.extractor import Extractor, Reading
from geomrl.train.alignment import eligible_groups, widen
from geomrl.train.deepspeed_engine import Engine
from geomrl.train.gradient_cache import CachedGradients, cached_gradients, surrogate
from geomrl.train.losses import loss_row
from geomrl.train.minibatch import AlignmentLabels, MiniBatch, Piece
from geomrl.train.passes import read_states, stack_states
from geomrl.train.planning import MicroBatches, cut_groups
from geomrl.train.sections import AlignmentConfig, MicroBatchConfig

Table = dict[str, Float[Tensor, "rows hidden"]]
"""Anchor states by layer; one row a rollout that has an anchor, in the rollouts' order."""


class AlignmentTerm:
    """The alignment part of one optimiser step.

    Where a micro-batch contains a whole group, and the group's loss needs no other ones, its own states
    are the table, and nothing is read twice. The rows that take part of other groups, cut by the plan,
    come from the table given, or from a forward without gradient that stops at the anchors.

    Args:
        engine: the engine around the policy.
        extractor: of the policy, called through the engine.
        batch: the optimiser step's rollouts, with anchors and labels.
        settings: the configuration's section.
        weight: of the loss. At 0 states are read and gauged, and the step is bit for bit one
            without alignment.
        plan: the ranks' micro-batches.
        micro_batch: the configuration's section, for a pass of its own.
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
        micro_batch: MicroBatchConfig,
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
        # Below it, what is aligned higher up flows through the states as the policy's gradient does.
        self._top = max(settings.layers, key=extractor.layer_names.index)
        self._sums = {"policy": 0.0, "align": 0.0, "align_all": 0.0, "loss": 0.0}
        self._pending: tuple[Reading, dict[str, Tensor]] | None = None
        self._given = table
        self._cached: CachedGradients | None = None
        rows = self._rows_from_table(plan, batch) if weight and self._eligible else []
        self._place = {row: place for place, row in enumerate(rows)}
        if rows:
            own = [batch.anchored[row] for row in rows]
            if table is None:
                chosen = _refresh(
                    engine,
                    extractor,
                    batch=batch,
                    rollouts=own,
                    layers=settings.layers,
                    micro_batch=micro_batch,
                )
            else:
                chosen = {layer: states[rows] for layer, states in table.items()}
            self._cached = self._cache(chosen, rows)

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
        """Add up the squared gradients of both losses at the highest layer's anchor states."""
        if self._pending is None:
            return
        reading, gradients = self._pending
        self._pending = None
        align = {
            layer: self.weight * gradients[layer] if gradients else torch.zeros_like(total)
            for layer, total in reading.gradients.items()
        }
        policy = reading.gradients[self._top] / self.engine.world.size - align[self._top]
        self._sums["policy"] += _squared(policy)
        self._sums["align"] += _squared(align[self._top])
        self._sums["align_all"] += sum(map(_squared, align.values()))

    def finish(self) -> tuple[dict[str, float], Table]:
        """Return what to log, and the step's own anchor states, gathered from all ranks.

        `grad_norm/align` is of weight x dL/dh at the anchor states of the highest of the layers, and
        `grad_norm/policy` of the rest of the loss at the same states; `grad_norm/align_unit` is |dL/dh|
        of the loss itself, at all layers. `align/drift` is the cosine between the gradient from the
        table that was given and that from the step's own states, at the rows that the table served.
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
            unit = sums["align_all"] ** 0.5 / self.weight
            return metrics | {"loss/align": sums["loss"], "grad_norm/align_unit": unit}, table
        true = self._cache(table, range(len(self._row)))
        metrics |= {
            "loss/align": true.loss,
            "grad_norm/align_unit": float(_flat(true.gradients).norm()),
        }
        if self._given is not None and self._cached is not None:
            rows = list(self._place)
            here = {layer: gradient[rows] for layer, gradient in true.gradients.items()}
            there = self._cached.gradients
            metrics["align/drift"] = float(
                torch.cosine_similarity(_flat(here), _flat(there), dim=0)
            )
        return metrics, table

    def _gradients(self, piece: Piece, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return dL/dh at a micro-batch's states: of cut groups from the table, of others from these."""
        rows = [self._row[rollout] for rollout in piece.anchor_rollout]
        found = {layer: torch.zeros_like(widen(state.detach())) for layer, state in states.items()}
        if not self._eligible:
            return found
        cut = [i for i, row in enumerate(rows) if row in self._place]
        if self._cached is not None and cut:
            places = [self._place[rows[i]] for i in cut]
            self._add(found, cut, self._cached, places)
        whole = [i for i, row in enumerate(rows) if row not in self._place]
        if whole:
            own = self._cache(
                {layer: state.detach()[whole] for layer, state in states.items()},
                [rows[i] for i in whole],
            )
            self._sums["loss"] += self._add(found, whole, own, range(len(whole))) * own.loss
        return found

    def _add(
        self,
        found: dict[str, Tensor],
        rows: Sequence[int],
        cached: CachedGradients,
        places: Sequence[int],
    ) -> float:
        """Put gradients of some groups in their rows; return these groups' share of the loss."""
        share = cached.n_groups / self._eligible  # its mean is over its own groups
        for layer, gradient in cached.gradients.items():
            found[layer][list(rows)] = share * gradient[list(places)].to(found[layer])
        return share

    def _cache(self, table: Mapping[str, Tensor], rows: Sequence[int]) -> CachedGradients:
        device = next(iter(table.values())).device
        chosen = torch.tensor(list(rows), dtype=torch.long)
        return cached_gradients(
            dict(table),
            self.labels.group[chosen].to(device),
            correct=self.labels.correct[chosen].to(device),
            kind=self.settings.kind,
            temperature=self.settings.temperature,
        )

    def _rows_from_table(self, plan: Sequence[MicroBatches], batch: MiniBatch) -> list[int]:
        """Return the rows whose gradient their own micro-batch cannot give."""
        wanted, every = self.settings.table, list(range(len(self._row)))
        if wanted not in ("auto", "groups"):
            return every
        local = is_group_local(self.settings)
        everyone = {i: sample.group for i, sample in enumerate(batch.samples)}
        if wanted == "groups" and not (local and not cut_groups(plan, everyone)):
            raise GeomrlError(
                "alignment.table 'groups': a group's rollouts do not fit into one micro-batch; raise "
                "micro_batch.tokens, set micro_batch.keep_groups, or take alignment.table auto"
            )
        if not local:
            return every
        group, correct = self.labels.group, self.labels.correct
        # The states of wrong rollouts do not enter most kinds: where they lie is no matter.
        takes_part = correct | loss_row(self.settings.kind).needs_wrong
        homes = {i: int(group[row]) for i, row in self._row.items() if takes_part[row]}
        cut = {
            g
            for g in cut_groups(plan, homes)
            if eligible_groups(group[group == g], correct[group == g], self.settings.kind)
        }
        return [row for row in every if takes_part[row] and int(group[row]) in cut]


def is_group_local(settings: AlignmentConfig) -> bool:
    """Say whether each group's loss needs the states of that group alone."""
    return not loss_row(settings.kind).across_groups and settings.rollouts != "shuffled_groups"


def _refresh(
    engine: Engine,
    extractor: Extractor,
    batch: MiniBatch,
    rollouts: Sequence[int],
    layers: Sequence[str],
    micro_batch: MicroBatchConfig,
) -> Table:
    """Read some rollouts' anchor states under the present weights, in a pass of their own."""
    anchors = batch.anchors or []
    return read_states(
        engine,
        extractor,
        sequences=[batch.samples[i].ids for i in rollouts],
        positions=[[anchor] for i in rollouts if (anchor := anchors[i]) is not None],
        layers=layers,
        budget=micro_batch.tokens,
        packing=micro_batch.packing,
    )


def _squared(gradient: Tensor) -> float:
    return float(gradient.double().square().sum())


def _flat(gradients: Mapping[str, Tensor]) -> Float[Tensor, " numbers"]:
    return torch.cat([gradient.double().cpu().flatten() for gradient in gradients.values()])
