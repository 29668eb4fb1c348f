"""Where a causal language model keeps its decoder stack, found by structure and not by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomrl.errors import GeomrlError

FINAL = "final"


@dataclass(frozen=True)
class Decoder:
    """Dotted paths, from the module that is called, to the decoder layers and the final norm."""

    layers: str
    norm: str
    n_layers: int

    @property
    def stack(self) -> str:
        """The path of the module that contains the layers; its output is the "final" state."""
        return self.layers.rpartition(".")[0]

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Return all layer names in the order of the forward: "0", "1" .. "L", "final"."""
        return (*(str(i) for i in range(self.n_layers + 1)), FINAL)


def find_decoder(module: nn.Module) -> Decoder:
    """Find the stack of decoder layers and the norm behind it inside `module`.

    The stack is the longest list of modules that has a norm beside it. Its layers may be of several
    classes (Jamba's attention and Mamba layers); that they run once each and in order is for
    `self_check` to see.

    Raises:
        GeomrlError: there is none, or more than one of that length.
    """
    found: list[Decoder] = []
    for path, child in module.named_modules():
        if not isinstance(child, nn.ModuleList):
            continue
        parent_path, _, name = path.rpartition(".")
        siblings = [key for key, _ in module.get_submodule(parent_path).named_children()]
        after = siblings[siblings.index(name) + 1 :]
        norms = [key for key in after if "norm" in key or key.startswith("ln_")]
        norms += [key for key in siblings if "final" in key and "norm" in key]  # OPT's comes first
        if norms:
            prefix = f"{parent_path}." if parent_path else ""
            found.append(Decoder(path, prefix + norms[0], len(child)))
    longest = max((decoder.n_layers for decoder in found), default=0)
    best = [decoder for decoder in found if decoder.n_layers == longest]
    if len(best) != 1:
        raise GeomrlError(
            f"{type(module).__name__}: {'no' if not best else 'more than one'} stack of decoder layers "
            "followed by a norm was found; geomrl reads decoder-only language models "
            "(Qwen, Llama, Mistral, Gemma, GPT-2 and their like)"
        )
    return best[0]


def layer_name(layer: str | int, n_layers: int) -> str:
    """Return a layer's name as text; integers are taken, negative ones count from "L".

    Raises:
        GeomrlError: the model has no such layer.
    """
    name = str(layer)
    if name == FINAL or (name.isdigit() and int(name) <= n_layers):
        return name
    if name.startswith("-") and name[1:].isdigit() and 1 <= int(name[1:]) <= n_layers + 1:
        return str(n_layers + 1 - int(name[1:]))
    raise GeomrlError(f"layer '{layer}' is unknown; this model has 0 to {n_layers}, and final")


def next_token_logits(
    model: Any, states: Float[Tensor, "rows hidden"]
) -> Float[Tensor, "rows vocabulary"]:
    """Apply the LM head to "final" states, with the scaling that some architectures add after it.

    Granite divides logits; Cohere and Falcon-H1 multiply them; Gemma 2, RecurrentGemma and xLSTM cap
    them by a tanh. What another architecture may do is for `self_check` to notice.
    """
    config = model.config.get_text_config()
    logits = model.get_output_embeddings()(states)
    if logits.dtype != torch.float64:
        logits = logits.float()
    if scale := getattr(config, "logits_scaling", None):
        logits = logits / scale
    # MPT's configuration has a logit_scale that its model does not apply: Cohere's model keeps its own.
    for scale in (getattr(model, "logit_scale", None), getattr(config, "lm_head_multiplier", None)):
        if scale is not None:
            logits = logits * scale
    for name in ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"):
        if cap := getattr(config, name, None):
            logits = cap * torch.tanh(logits / cap)
    return logits


def score_next(
    model: Any,
    states: Float[Tensor, "rows hidden"],
    targets: Tensor,
    chunk: int = 512,
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Return each target's log-probability and the next-token distribution's entropy, in nats.

    The head runs on these rows alone, `chunk` at a time: at Qwen's vocabulary one row of logits
    takes 600 kB.

    Args:
        states: "final" states, [rows, hidden].
        targets: the next token's id, [rows].
    """
    logprobs, entropies = [], []
    for part, target in zip(states.split(chunk), targets.split(chunk), strict=True):
        logits = next_token_logits(model, part)  # [chunk, vocabulary]
        total = logits.logsumexp(-1)
        logprobs.append(logits.gather(-1, target[:, None])[:, 0] - total)
        # H = log Z - sum p logit: one more array of this size instead of three.
        probabilities = (logits - total[:, None]).exp_()
        entropies.append(total - torch.einsum("rv,rv->r", probabilities, logits))
    empty = states.new_zeros(0, dtype=torch.float32)
    return torch.cat([empty, *logprobs]), torch.cat([empty, *entropies])
