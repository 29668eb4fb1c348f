"""Is what is read the model's own? Tried on three short rows before anything is made of it.

geomrl finds layers by structure, reads them inside a forward, pads rows on the right and applies
the head by itself. Each is right for the architectures it was tried on and may be silently wrong
for another, so a model is compared with itself at the start: three forwards of a few tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from geomrl.errors import GeomrlError
from geomrl.models.decoder import FINAL, Decoder, next_token_logits
from geomrl.models.trial import LOGITS, REPEATED, STATES, distance, require, trial_sequences
from geomrl.probe.extractor import Extractor, Rows, first_output


@dataclass(frozen=True)
class Trial:
    """Three ragged rows of valid ids, padded on the right, and where their tokens are."""

    sequences: tuple[Int[Tensor, " length"], ...]
    ids: Int[Tensor, "rows time"]
    rows: Rows

    @property
    def shortest(self) -> int:
        """The row that padding would change most."""
        return min(range(len(self.sequences)), key=lambda i: len(self.sequences[i]))

    def alone(self) -> tuple[Int[Tensor, "1 length"], Rows, Tensor]:
        """Return the shortest row without padding, its rows, and which of the trial's these are."""
        ids = self.sequences[self.shortest][None]
        position = torch.arange(ids.shape[1], device=ids.device)
        mine = self.rows.sequence == self.shortest
        return ids, Rows(torch.zeros_like(position), position), mine


def trial_rows(config: Any, device: torch.device, n_tokens: int | None = None) -> Trial:
    """Return the trial's sequences as padded rows; arguments as in `trial_sequences`."""
    sequences = trial_sequences(config, device, n_tokens)
    where = [(i, p) for i, ids in enumerate(sequences) for p in range(len(ids))]
    sequence, position = (torch.tensor(x, device=device) for x in zip(*where, strict=True))
    ids = torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
    return Trial(sequences, ids, Rows(sequence, position))


@dataclass
class Watched:
    """What plain hooks saw in a forward: the order of the layers' calls, and all layers' states.

    `states` are those at the trial's rows, [rows, hidden], by layer; what a layer gave in another
    shape is in `shapes` instead.
    """

    calls: list[int] = field(default_factory=list)
    states: dict[str, Tensor] = field(default_factory=dict)
    shapes: dict[str, str] = field(default_factory=dict)

    def unreadable(self, n_layers: int) -> dict[str, str]:
        """Return the layers whose states cannot be read, each with the reason."""
        if self.calls != list(range(n_layers)):
            order = ", ".join(map(str, self.calls[: n_layers + 2]))
            reason = f"its {n_layers} layers do not run once each and in order (but: {order} ...)"
            shapes = {layer: why for layer, why in self.shapes.items() if layer == FINAL}
            return {str(i): reason for i in range(n_layers + 1)} | shapes
        return dict(self.shapes)


@contextmanager
def watch(module: nn.Module, decoder: Decoder, trial: Trial) -> Iterator[Watched]:
    """Watch the decoder's layers with plain hooks while the block runs one forward of the trial."""
    seen = Watched()

    def keep(name: str, value: Any) -> None:
        state = value if isinstance(value, Tensor) else first_output(value) if value else None
        if isinstance(state, Tensor) and state.dim() == 3 and state.shape[:2] == trial.ids.shape:
            seen.states[name] = state[trial.rows.sequence, trial.rows.position].detach()
        else:
            given = f"[{', '.join(map(str, state.shape))}]" if isinstance(state, Tensor) else "none"
            seen.shapes[name] = f"it gives {given} instead of a state [rows, time, hidden]"

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep("0", args[0] if args else next(iter(kwargs.values()), None))

    def after(index: int) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            seen.calls.append(index)
            keep(str(index + 1), output)

        return hook

    def at_the_end(_: nn.Module, __: Any, output: Any) -> None:
        keep(FINAL, output)

    layers = list(module.get_submodule(decoder.layers).children())
    handles = [layers[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [layer.register_forward_hook(after(i)) for i, layer in enumerate(layers)]
    handles.append(module.get_submodule(decoder.stack).register_forward_hook(at_the_end))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def check_reading(loaded: Any, extractor: Extractor) -> dict[str, str]:
    """Hold what probing reads of a model against the model itself.

    The extractor's states must be those of plain hooks, and the same without padding; the head on
    "final" states must give the model's own logits.

    Args:
        loaded: a `LoadedModel`.
        extractor: of its base model.

    Returns:
        The layers that cannot be read, each with the reason. "final" always can.

    Raises:
        GeomrlError: says which of these fails, by how much, and what to do.
    """
    model, decoder = loaded.model, extractor.decoder
    name = f"{loaded.name} ({type(model).__name__})"
    trial = trial_rows(model.config, loaded.device, len(loaded.tokenizer))
    with torch.inference_mode():
        with watch(model.base_model, decoder, trial) as seen:
            output = model(input_ids=trial.ids, use_cache=False)
        unreadable = seen.unreadable(decoder.n_layers)
        refuse_unreadable(name, [FINAL], unreadable)
        layers = [layer for layer in decoder.layer_names if layer not in unreadable]
        found = extractor.read(_inputs(trial.ids), trial.rows, layers).states
        width = found[FINAL].shape[-1]
        for layer in [layer for layer in layers if found[layer].shape[-1] != width]:
            wide = found.pop(layer).shape[-1]
            unreadable[layer] = f"its states have {wide} numbers and the final ones {width}"
        ids, rows, mine = trial.alone()
        alone = extractor.read(_inputs(ids), rows, list(found)).states
        ours = next_token_logits(model, found[FINAL])
    theirs = output.logits[trial.rows.sequence, trial.rows.position].float()
    if not all(map(_finite, (theirs, *found.values()))):
        return unreadable  # the reading itself names the rollout and the layer
    require_same_states(name, found, seen=seen, alone=alone, mine=mine, dtype=loaded.dtype)
    if ours.shape != theirs.shape:
        raise GeomrlError(
            f"{name}: its head gives {ours.shape[-1]} logits and the model {theirs.shape[-1]}, so "
            "next-token figures would be wrong; report this model"
        )
    require(
        distance(ours, theirs), LOGITS.get(loaded.dtype, 1e-4),
        f"{name}: its LM head on a 'final' state does not give the model's own logits",
        "next-token figures would be wrong: the model changes states before the head, or logits "
        "behind it, in a way that geomrl does not know; report this model",
    )  # fmt: skip
    return unreadable


def require_same_states(
    name: str,
    found: Mapping[str, Tensor],
    seen: Watched,
    alone: Mapping[str, Tensor],
    mine: Tensor,
    dtype: torch.dtype,
) -> None:
    """Hold states that were read against those of plain hooks, and against those without padding.

    Args:
        name: the model, for the message.
        found: states of the trial, [rows, hidden], by layer.
        seen: what plain hooks saw in another forward of it.
        alone: the same layers' states of its shortest row alone.
        mine: which rows of `found` these are.
        dtype: the model's.

    Raises:
        GeomrlError: they differ by more than rounding.
    """
    require(
        _farthest(found, {layer: seen.states[layer] for layer in found}), REPEATED.get(dtype, 1e-4),
        f"{name}: states that are read differ from those of a plain forward of the same rows",
        "noise (dropout, a router's) is on, or layers are not what they seem: report this model",
    )  # fmt: skip
    require(
        _farthest({layer: states[mine] for layer, states in found.items()}, alone),
        STATES.get(dtype, 1e-3),
        f"{name}: a row's states change when it is padded on the right",
        "states would depend on the batch they were read in: report this model",
    )


def refuse_unreadable(name: str, layers: Sequence[str], unreadable: Mapping[str, str]) -> None:
    """Refuse layers whose states cannot be read.

    Raises:
        GeomrlError: names the first, the reason and what can be read instead.
    """
    bad = [layer for layer in layers if layer in unreadable]
    if bad:
        cure = "take another architecture"
        if FINAL not in unreadable:
            cure = f"leave out {', '.join(unreadable)} ('final' can be read)"
        raise GeomrlError(f"{name}: layer {bad[0]} cannot be read: {unreadable[bad[0]]}; {cure}")


def _farthest(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    return max((distance(ours[layer], theirs[layer]) for layer in theirs), default=0.0)


def _inputs(ids: Tensor) -> dict[str, Any]:
    return {"input_ids": ids, "use_cache": False}


def _finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())
