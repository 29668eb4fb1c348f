"""How much memory a training run will take on each GPU, by formula and before anything is loaded.

Weights, gradients and Adam's states are exact (ZeRO, arXiv 1910.02054, table 1 with Adam's K = 12).
Activations are a count of the tensors that a pre-norm decoder layer with gated MLP and fused
attention keeps: good to perhaps a quarter. Fragmentation and the libraries' own share (1 to 2 GB on
a GPU) come on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from geomrl.train.config import TrainConfig

_BYTES = {"float32": 4, "bfloat16": 2}
GIGA = 1e9


@dataclass(frozen=True)
class ModelShape:
    """What the formulas need of a model. `query` and `key` are heads times their width."""

    weights: int
    layers: int
    hidden: int
    query: int
    key: int
    intermediate: int
    vocabulary: int
    linear: tuple[tuple[int, int], ...]
    """(inputs, outputs) of every linear layer but the head: what LoRA can adapt."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU. `rollout_cache` is the transformers engine's; vLLM takes a share it is given."""

    weights: float
    gradients: float
    adam: float
    reference: float
    activations: float
    head: float
    rollout_cache: float

    @property
    def resident(self) -> float:
        """What stays between phases."""
        return self.weights + self.adam + self.reference

    @property
    def training(self) -> float:
        """At the peak of an update."""
        return self.resident + self.gradients + self.activations + self.head

    @property
    def generating(self) -> float:
        """At the peak of a rollout."""
        return self.resident + self.rollout_cache


def model_shape(model_config: Any, *, trust_remote_code: bool = False) -> ModelShape:
    """Return the shape of the causal language model that a transformers configuration describes.

    The model is built without storage, so that the count is exact for every architecture.
    """
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config, trust_remote_code=trust_remote_code)
    text = model_config.get_text_config()
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    return ModelShape(
        weights=sum(weight.numel() for weight in model.parameters()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        query=heads * width,
        key=(getattr(text, "num_key_value_heads", None) or heads) * width,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocabulary=text.vocab_size,
        linear=tuple((layer.in_features, layer.out_features) for layer in linear),
    )


def trainable_weights(shape: ModelShape, config: TrainConfig) -> int:
    """Return how many weights are trained. LoRA adapters are counted on all linear layers."""
    lora = config.model.lora
    return shape.weights if lora is None else lora.rank * sum(a + b for a, b in shape.linear)


def estimate(shape: ModelShape, config: TrainConfig, world_size: int) -> Memory:
    """Return the memory of one rank.

    With b bytes a number (2 for bfloat16, 4 for float32), P weights of which T are trained, N ranks:
    weights bP (ZeRO-3: bP/N); gradients bT (ZeRO-2 and 3: bT/N); Adam 12T/N for its two moments and
    the float32 master copy (ZeRO-0: 8T, no copy is needed), 0 where it is offloaded.
    """
    b, zero = _BYTES[config.model.dtype], config.deepspeed.zero
    trained = trainable_weights(shape, config)
    adam = 8.0 * trained if zero == 0 else 12.0 * trained / world_size
    weights = b * shape.weights / (world_size if zero == 3 else 1)
    # LoRA's first model is its own base.
    reference = weights if config.dapo.kl and config.model.lora is None else 0.0
    # Of each layer: both norms' inputs and outputs and the residuals (8 x hidden), queries, keys,
    # values before and after norm and rotation, attention's output, and the MLP's four products.
    layer = 8 * shape.hidden + 4 * (shape.query + 2 * shape.key) + 4 * shape.intermediate
    tokens = max(config.micro_batch.tokens, config.max_sequence)
    if config.model.activation_checkpointing:
        kept = shape.layers * shape.hidden + layer
    else:
        kept = shape.layers * layer
    cached = config.rollout.chunk * config.max_sequence * shape.layers * 2 * shape.key
    return Memory(
        weights=weights,
        gradients=b * trained / (world_size if zero >= 2 else 1),
        adam=0.0 if config.deepspeed.offload_optimiser else adam,
        reference=reference,
        activations=float(b * tokens * kept),
        # Logits as the head gives them, in float32, and one array of that size.
        head=float((b + 8) * min(config.model.head_chunk, tokens) * shape.vocabulary),
        rollout_cache=0.0 if config.rollout.engine == "vllm" else float(b * cached),
    )


def memory_lines(shape: ModelShape, config: TrainConfig, world_size: int) -> list[str]:
    """Return the estimate in words, with the arithmetic."""
    memory = estimate(shape, config, world_size)
    trained = trainable_weights(shape, config)
    share = {"reference model": memory.reference} if memory.reference else {}
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "Adam": memory.adam,
        **share,
        "activations": memory.activations,
        "head": memory.head,
    }
    text = " + ".join(f"{name} {_gb(value)}" for name, value in parts.items())
    offloaded = ", Adam in the host's memory" if config.deepspeed.offload_optimiser else ""
    lines = [
        f"model: {shape.weights:,} weights, {trained:,} trained, {config.model.dtype},"
        f" ZeRO-{config.deepspeed.zero} over {_count(world_size, 'rank')}{offloaded}",
        f"memory of a rank at an update, at most about: {text} = {_gb(memory.training)}",
    ]
    if config.rollout.engine == "vllm":
        share_of = config.rollout.vllm.gpu_memory_utilization
        lines.append(
            f"memory of a rank at generation: weights and Adam {_gb(memory.resident)}, and vLLM's"
            f" {share_of:.0%} of the GPU"
            + (", which it gives back for the update" if config.rollout.vllm.sleep else ", always")
        )
    else:
        lines.append(
            f"memory of a rank at generation, at most about: weights and Adam {_gb(memory.resident)}"
            f" + cache of {config.rollout.chunk} rollouts {_gb(memory.rollout_cache)}"
            f" = {_gb(memory.generating)}"
        )
    return lines


def _gb(value: float) -> str:
    return f"{value / GIGA:.1f} GB" if value >= GIGA / 10 else f"{value / 1e6:.1f} MB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
