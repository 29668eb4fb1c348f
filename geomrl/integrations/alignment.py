"""Hidden-Align in any loop: states out of whatever forward runs, their gradients into its loss.

    hook = AlignmentHook(model, settings.layers)                       # once
    step = AlignmentStep(group, correct, settings, weight=0.01)        # for each optimiser step
    with torch.no_grad(), hook.reading(rows, shape, cut=True) as table:
        model(**batch)                                                 # all of its rollouts
    step.give(table)
    for micro_batch in micro_batches:
        with hook.reading(rows, shape) as states:
            loss = policy_loss(model, micro_batch)
        step.add_to(loss, states, numbers).backward()
    metrics = step.finish()

Layers are those of `geomrl.probe.extractor`, the loss, its gradient on a table, the negative
controls and the gauges those of `geomrl.train`; so figures mean what they mean there. The hooks are
plain ones of torch: nnsight, which geomrl's own loop reads with, must run the forward itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from geomrl.errors import GeomrlError
from geomrl.models.decoder import FINAL, find_decoder, layer_name
from geomrl.models.token_bytes import TokenBytes
from geomrl.probe.anchors import find_anchors
from geomrl.probe.extractor import Rows, first_output
from geomrl.train.alignment import widen
from geomrl.train.gauges import alignment_metrics
from geomrl.train.gradient_cache import CachedGradients, cached_gradients, surrogate
from geomrl.train.minibatch import AlignmentLabels
from geomrl.train.negative_controls import random_position, relabel
from geomrl.train.sections import AlignmentConfig
from geomrl.train.values import RANDOM_ANCHOR
from geomrl.train.world import World
from geomrl.verify.marker import Marker

States = dict[str, Float[Tensor, "rows hidden"]]
"""By layer name; all layers have the same rows."""

_DRIFT = 0.05  # relative; two equal forwards differ by rounding alone, also in bfloat16
_SCALE = 1e-3


class AlignmentHook:
    """Reads states at rows of chosen layers in the forwards that run inside `reading`.

    Outside it the model runs as without hooks. Gradients flow through what is read.

    Args:
        model: what contains the decoder stack; wrappers around it may run it.
        layers: layer names, as of `geomrl.probe.extractor`.

    Raises:
        GeomrlError: no decoder stack is found, or a layer is unknown.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str | int] = (FINAL,)) -> None:
        decoder = find_decoder(model)
        wanted = {layer_name(layer, decoder.n_layers) for layer in layers}
        self.layers = tuple(name for name in decoder.layer_names if name in wanted)
        self._reading: _Reading | None = None
        stack, whole = model.get_submodule(decoder.layers), model.get_submodule(decoder.stack)
        self._handles = [self._attach(name, stack, whole) for name in self.layers]

    @contextmanager
    def reading(self, rows: Rows, shape: tuple[int, ...], *, cut: bool = False) -> Iterator[States]:
        """Read in the one forward that runs inside; the states are there when the block ends.

        Args:
            rows: the positions to read.
            shape: (sequences, tokens) of the forward's input, which is checked.
            cut: end the block behind the highest of the layers: what follows there, the head too,
                does not run. For a forward without gradient, on ranks that do not wait for it.

        Raises:
            GeomrlError: the layers were not run, or twice, or on input of another shape.
        """
        reading = _Reading(rows, (shape[0], shape[1]), self.layers[-1] if cut else None)
        self._reading = reading
        try:
            yield reading.states
        except _Cut:
            pass
        finally:
            self._reading = None
        absent = [name for name in self.layers if name not in reading.states]
        if absent:
            raise GeomrlError(
                f"layers {', '.join(absent)} were not run: the trainer's forward does not pass through"
                " the modules that geomrl hooks; give the hook the module that the forward runs"
            )

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def _attach(
        self, name: str, stack: nn.Module, whole: nn.Module
    ) -> torch.utils.hooks.RemovableHandle:
        if name == "0":

            def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
                self._keep(name, args[0] if args else kwargs["hidden_states"])

            return stack[0].register_forward_pre_hook(before, with_kwargs=True)  # type: ignore[index]

        def after(module: nn.Module, args: tuple, output: object) -> None:
            self._keep(name, first_output(output))

        read = whole if name == FINAL else stack[int(name) - 1]  # type: ignore[index]
        return read.register_forward_hook(after)

    def _keep(self, name: str, state: Tensor) -> None:
        if self._reading is not None:
            self._reading.take(name, state)


class _Cut(BaseException):
    """Ends a forward; no handler of exceptions between the hook and `reading` shall catch it."""


@dataclass
class _Reading:
    rows: Rows
    shape: tuple[int, int]
    cut_after: str | None
    states: States = field(default_factory=dict)

    def take(self, name: str, state: Tensor) -> None:
        if name in self.states:
            raise GeomrlError(
                f"layer {name} ran twice in one forward: the trainer runs the batch in parts; let it"
                " run a micro-batch at once"
            )
        if tuple(state.shape[:2]) != self.shape:
            raise GeomrlError(
                f"layer {name} ran on {list(state.shape[:2])} sequences and tokens, not on"
                f" {list(self.shape)}: the trainer cuts, pads or packs the batch in a way that geomrl"
                " does not know; turn that off"
            )
        self.states[name] = state[self.rows.sequence, self.rows.position]
        if name == self.cut_after:
            raise _Cut


@dataclass(frozen=True)
class ResponseAnchor:
    """Finds where a response is aligned, by the same code as the probe.

    Attributes:
        tokens: the tokenizer's byte view.
        marker: what opens and closes the answer.
        stop_ids: ids that end a turn.
        name: an anchor's name, or "random", the control.
    """

    tokens: TokenBytes
    marker: Marker
    stop_ids: frozenset[int]
    name: str

    def index(self, response_ids: Sequence[int], seed: int) -> int | None:
        """Return the index of a token of the response, -1 for the prompt's last, None for none.

        A random one is drawn, from `seed`, where the response has an answer marker.
        """
        drawn = self.name == RANDOM_ANCHOR
        names = ["before_marker" if drawn else self.name]
        (found,) = find_anchors(
            self.tokens, response_ids, self.marker, names, stop_ids=self.stop_ids
        )
        if drawn and found.token_index is not None:
            return random_position(len(response_ids), seed)
        return found.token_index


class AlignmentStep:
    """The alignment part of one optimiser step: its micro-batches may split groups in any way.

    The rows of one rank are its rollouts that have a verdict and an anchor, numbered 0, 1, ...; the
    loss is that of all ranks' rows together. Its gradient is exact where the table contains the
    states of the present weights (`geomrl.train.gradient_cache`). At weight 0 losses are returned as
    they are, and all is measured. Ranks are expected to average their gradients, as DDP and FSDP do.

    Args:
        group: [rows] of this rank; rollouts of one problem have one number, on all ranks.
        correct: [rows] of this rank.
        settings: kind, temperature, rollouts (the control); the others are for the caller.
        weight: of the loss in this step.
        seed: of the controls' draws: equal on all ranks, another for each step.
        world: the ranks; None: this process alone.
        n_rollouts: this rank's rollouts, those without anchor or verdict too; None: the rows.
        loss_scale: called in the backward: what the trainer multiplies losses with before it, as a
            gradient scaler does.

    Raises:
        GeomrlError: there is no such loss or control.
    """

    def __init__(
        self,
        group: Int[Tensor, " rows"],
        correct: Bool[Tensor, " rows"],
        settings: AlignmentConfig,
        *,
        weight: float,
        seed: int = 0,
        world: World | None = None,
        n_rollouts: int | None = None,
        loss_scale: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.settings, self.weight = settings, weight
        self._world = world or World(0, 1, group.device)
        self._loss_scale = loss_scale
        n = len(group) if n_rollouts is None else n_rollouts
        parts = self._world.gather((group.cpu(), correct.cpu().bool(), n))
        true_group = torch.cat([part[0] for part in parts])
        true_correct = torch.cat([part[1] for part in parts])
        told = relabel(settings.rollouts, true_group, true_correct, seed)
        self.labels = AlignmentLabels(*told, true_group, true_correct)
        start = sum(len(part[0]) for part in parts[: self._world.rank])
        self._own = slice(start, start + len(group))
        self._n_rollouts = sum(part[2] for part in parts)
        self._seen: list[tuple[Tensor, States]] = []
        self._table: States = {}  # this rank's
        self._solved: CachedGradients | None = None  # all ranks'
        self._gauges: dict[str, float] = {}

    @property
    def n_rows(self) -> int:
        """Rows of this rank."""
        return self._own.stop - self._own.start

    def give(self, table: Mapping[str, Float[Tensor, "rows hidden"]]) -> None:
        """Give the states of all of this rank's rows, read under the present weights.

        Needed before the first micro-batch, on all ranks, where there are several and the weight is
        not 0.

        Raises:
            GeomrlError: it has not one state a row, or a state is not finite.
        """
        wrong = [layer for layer, states in table.items() if len(states) != self.n_rows]
        if wrong:
            raise GeomrlError(
                f"the table has {len(table[wrong[0]])} states of layer {wrong[0]} for {self.n_rows} rows:"
                " give one a row"
            )
        self._solve({layer: _kept(states) for layer, states in table.items()})

    def add_to(
        self,
        loss: Float[Tensor, ""],
        states: Mapping[str, Float[Tensor, "some hidden"]],
        rows: Int[Tensor, " some"],
    ) -> Float[Tensor, ""]:
        """Return a micro-batch's loss with the alignment's gradient added; its value stays.

        Args:
            loss: the trainer's own.
            states: what was read in its forward, with their graph.
            rows: which of this rank's rows they are.

        Raises:
            GeomrlError: no table was given and this is not the whole step; the states are not those
                of the table; in the backward, the loss is scaled in an unknown way.
        """
        rows = rows.cpu()
        self._seen.append((rows, {layer: _kept(state) for layer, state in states.items()}))
        if not self.weight:
            return loss
        solved = self._solved
        if solved is None:  # the micro-batch is the step: its own states are the table
            whole = self._whole("give the table before the first of several micro-batches")
            solved = self._solve(whole)
        else:
            self._check_states(rows)
        mine = {
            layer: solved.gradients[layer][self._own][rows].to(state.device)
            for layer, state in states.items()
        }
        pull = self.weight * self._world.size * surrogate(states, mine)
        if pull.requires_grad:
            pull.register_hook(self._check_scale)
        return loss + (pull - pull.detach())

    def finish(self) -> dict[str, float]:
        """Return what to log, under the names of geomrl's own training log, equal on all ranks.

        Raises:
            GeomrlError: not every row was in a micro-batch, once.
        """
        seen = self._whole("run every rollout of the step once")
        solved, labels = self._solved or self._solve(seen), self.labels
        flat = torch.cat([gradient.double().flatten() for gradient in solved.gradients.values()])
        return {
            "loss/align": solved.loss,
            "weight/align": self.weight,
            "grad_norm/align_unit": float(flat.norm()),
            "align/eligible": float(solved.n_groups),
            "align/aligned": float(labels.correct.sum()),
            **self._gauges,
            "align/rollouts": float(len(labels.group)),
            "align/without_anchor": float(self._n_rollouts - len(labels.group)),
        }

    def _solve(self, table: States) -> CachedGradients:
        """Gather all ranks' tables, and measure them."""
        labels, self._table = self.labels, table
        parts = self._world.gather(table)
        whole = {layer: torch.cat([part[layer] for part in parts]) for layer in table}
        self._solved = cached_gradients(
            whole,
            labels.group,
            labels.correct,
            kind=self.settings.kind,
            temperature=self.settings.temperature,
        )
        highest = whole[list(whole)[-1]]
        if len(highest):
            found = alignment_metrics(highest, labels.true_group, labels.true_correct).as_dict()
            self._gauges = {f"align/{k}": float(v) for k, v in found.items() if k != "eligible"}
        return self._solved

    def _whole(self, cure: str) -> States:
        """Return this rank's table from the micro-batches so far, which must be all."""
        rows = torch.cat([rows for rows, _ in self._seen]) if self._seen else None
        if rows is None or not torch.equal(rows.sort().values, torch.arange(self.n_rows)):
            raise GeomrlError(
                f"the micro-batches so far had {0 if rows is None else len(rows)} of the step's"
                f" {self.n_rows} rows: {cure}"
            )
        back = rows.argsort()
        return {
            layer: torch.cat([states[layer] for _, states in self._seen])[back]
            for layer in self._seen[0][1]
        }

    def _check_states(self, rows: Tensor) -> None:
        for layer, states in self._seen[-1][1].items():
            expected = self._table[layer][rows]
            away = float((states - expected).norm() / expected.norm().clamp_min(1e-12))
            if away > _DRIFT:
                raise GeomrlError(
                    f"layer {layer}: the micro-batch's states are not those of the table (|difference| /"
                    f" |state| is {away:.2g}), so the gradient would be another step's: something draws"
                    " at random in the forward (dropout), or the weights or the batch changed between"
                    " the two forwards; turn it off"
                )

    def _check_scale(self, gradient: Tensor) -> None:
        factor = float(gradient) / self._loss_scale()
        if abs(factor - 1) > _SCALE:
            raise GeomrlError(
                f"the alignment loss reaches the backward multiplied by {factor:g}: the trainer scales"
                " losses in a way that this version of geomrl does not know; use a version of it that"
                " geomrl was tried with"
            )


def _kept(states: Tensor) -> Tensor:
    return widen(states.detach()).cpu()
