"""Read and write hidden states at token positions: the only module that imports nnsight.

Layer names and row positions in, tensors out. The same class serves probing (no gradient) and
training (gradient, and an engine that wraps the module). Plain-hook twins in the tests agree with
it on every case.

Importing nnsight changes the process: `.save` on every object, a patched `Tensor.backward`, debug
mode where `-v` is among the arguments. It is therefore imported when the first extractor is made.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from geomrl.models.decoder import FINAL, find_decoder, layer_name


@dataclass(frozen=True)
class Rows:
    """Token positions in a batch: row r is the token `position[r]` of sequence `sequence[r]`."""

    sequence: Int[Tensor, " rows"]
    position: Int[Tensor, " rows"]


@dataclass(frozen=True)
class Write:
    """States to put in place of the model's own, at one layer."""

    layer: str
    rows: Rows
    values: Float[Tensor, "rows hidden"]


@dataclass(frozen=True)
class Reading:
    """What one forward gave: states [rows, hidden] by layer name, and the module's own output.

    `gradients`, where they were asked for, contains after a backward the whole loss's gradient at the
    same rows, by layer name: what flows through the rest of the model as well as what flows
    through `states`.
    """

    states: dict[str, Tensor]
    output: Any
    gradients: dict[str, Tensor] = field(default_factory=dict)


class Extractor:
    """Reads states at rows of chosen layers inside a forward, and can replace states there.

    Args:
        module: the module that contains the decoder stack: a base model, a whole language model, or a
            training wrapper around one.
        call: what runs the forward, where it is not `module` itself: a DeepSpeed engine. Tracing
            the inner module past its engine is silently wrong under ZeRO-3 with gradient
            accumulation, so give the engine here.

    Raises:
        GeomrlError: no decoder stack is found.
    """

    def __init__(self, module: nn.Module, call: Callable[..., Any] | None = None) -> None:
        self.decoder = find_decoder(module)
        self._call = call
        self._traced = _nnsight().NNsight(module)
        self._layers = self._traced.get(self.decoder.layers)
        stack = self.decoder.stack
        self._stack = self._traced.get(stack) if stack else self._traced

    @property
    def layer_names(self) -> tuple[str, ...]:
        """All layer names, in the order of the forward."""
        return self.decoder.layer_names

    def read(
        self,
        inputs: Mapping[str, Any],
        rows: Rows,
        layers: Sequence[str | int],
        write: Write | None = None,
        gradients: bool = False,
    ) -> Reading:
        """Run the module once and return the states at `rows` of each layer.

        The rows are gathered inside the forward, so no other token's state is kept. Gradients flow
        where autograd is on; `write` is for inference.

        Args:
            inputs: keyword arguments of the module's forward.
            rows: the positions to read.
            layers: layer names, in any order.
            write: states to put in place of the model's own before anything behind them runs. A
                read of the same layer sees them.
            gradients: also keep, at the backward, the loss's gradient at these rows.

        Raises:
            GeomrlError: a layer is unknown.
        """
        wanted = {layer_name(layer, self.decoder.n_layers) for layer in layers}
        n_layers, layer_list, stack = self.decoder.n_layers, self._layers, self._stack
        sequence, position = rows.sequence, rows.position
        # Plain names: the trace's body is run elsewhere, where narrowing types is of no use.
        written = layer_name(write.layer, n_layers) if write else None
        target = write.rows if write else rows
        values = write.values if write else None
        options = {"fn": self._call} if self._call is not None else {}
        states: dict[str, Any] = {}
        whole: dict[str, Any] = {}  # references to what autograd keeps anyway
        # Values are asked for in the order of the forward, as nnsight requires.
        with self._traced.trace(**options, **inputs):
            if written == "0":
                layer_list[0].input[target.sequence, target.position] = values
            if "0" in wanted:
                states["0"] = layer_list[0].input[sequence, position].save()
                if gradients:
                    whole["0"] = layer_list[0].input.save()
            for index in range(n_layers):
                name = str(index + 1)
                if written == name:
                    state = first_output(layer_list[index].output)
                    state[target.sequence, target.position] = values
                if name in wanted:
                    state = first_output(layer_list[index].output)
                    states[name] = state[sequence, position].save()
                    if gradients:
                        whole[name] = state.save()
            # The norm itself may run more than once (NanoChat's); what the stack returns is its last.
            if written == FINAL:
                state = first_output(stack.output)
                state[target.sequence, target.position] = values
            if FINAL in wanted:
                state = first_output(stack.output)
                states[FINAL] = state[sequence, position].save()
                if gradients:
                    whole[FINAL] = state.save()
            output = self._traced.output.save()
        kept: dict[str, Tensor] = {}
        for name, tensor in whole.items():
            tensor.register_hook(partial(_keep_rows, kept, name, rows))
        ordered = {name: states[name] for name in self.layer_names if name in states}
        return Reading(ordered, output, kept)


def first_output(output: Any) -> Any:
    """Return a module's state: its output, or the first part where it returns several."""
    return output if isinstance(output, Tensor) else output[0]


def _keep_rows(into: dict[str, Tensor], name: str, rows: Rows, gradient: Tensor) -> None:
    into[name] = gradient[rows.sequence, rows.position].detach()


def _nnsight() -> Any:
    """Import nnsight with its process-wide effects held down."""
    arguments = sys.argv
    # nnsight turns its debug mode on where it sees -v, which may be pytest's or ours.
    sys.argv = [a for a in arguments if a != "-v"]
    try:
        import nnsight
    finally:
        sys.argv = arguments
    nnsight.CONFIG.APP.PYMOUNT = False
    return nnsight
