"""How much memory and disk a training run will take, by formula and before anything is loaded.

Weights, gradients and Adam's states are exact (ZeRO, arXiv 1910.02054, table 1 with Adam's K = 12).
Activations are a count of the tensors that a pre-norm decoder layer with gated MLP and fused
attention keeps: good to perhaps a quarter. Fragmentation and the libraries' own share (1 to 2 GB on
a GPU) come on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from geomrl.train.config import TrainConfig
from geomrl.train.job import rollout_engine, training_job

_BYTES = {"float32": 4, "bfloat16": 2}
GIGA = 1e9


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What the formulas need of a model. `query` and `key` are heads times their width."""

    weights: int
    layers: int
    hidden: int
    query: int
    key: int
    intermediate: int
    vocabulary: int
    linear: tuple[tuple[str, int, int], ...]
    """(name, inputs, outputs) of every linear layer but the head: what LoRA can adapt."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one GPU.

    `reference` is the first policy's whole copy for the KL term, `engine` the copy of the model that
    the engine keeps and `rollout_cache` its cache. An engine that is given a share of the GPU instead
    has `share` of it (0 to 1) while it generates, and `share_kept` at an update.
    """

    weights: float
    gradients: float
    adam: float
    reference: float
    activations: float
    head: float
    rollout_cache: float
    engine: float
    share: float = 0.0
    share_kept: float = 0.0

    @property
    def resident(self) -> float:
        """What the policy keeps between phases."""
        return self.weights + self.adam + self.reference

    @property
    def training(self) -> float:
        """The policy's part at the peak of an update."""
        return self.resident + self.gradients + self.activations + self.head

    @property
    def updating(self) -> float:
        """At the peak of an update, with the engine's copy, which stays."""
        return self.training + self.engine

    @property
    def generating(self) -> float:
        """At the peak of a rollout."""
        return self.resident + self.engine + self.rollout_cache

    @property
    def peak(self) -> float:
        """The larger of the two."""
        return max(self.updating, self.generating)


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
    linear = [
        (name, module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]
    return ModelShape(
        weights=sum(weight.numel() for weight in model.parameters()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        query=heads * width,
        key=(getattr(text, "num_key_value_heads", None) or heads) * width,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocabulary=text.vocab_size,
        linear=tuple(linear),
    )


def trainable_weights(shape: ModelShape, config: TrainConfig) -> int:
    """Return how many weights are trained. LoRA adapters are counted on linear layers."""
    lora = config.model.lora
    if lora is None:
        return shape.weights
    wanted = None if lora.targets == "all-linear" else set(lora.targets)
    return lora.rank * sum(
        inputs + outputs
        for name, inputs, outputs in shape.linear
        if wanted is None or any(name == w or name.endswith(f".{w}") for w in wanted)
    )


def estimate(shape: ModelShape, config: TrainConfig, world_size: int) -> Memory:
    """Return the memory of one rank.

    With b bytes a number (2 for bfloat16, 4 for float32), P weights of which T are trained, N ranks:
    weights bP (ZeRO-3: bP/N); gradients 4T, since they are summed in float32 (ZeRO-2 and 3: 4T/N); Adam
    12T/N for its two moments and the float32 master copy (ZeRO-0: 8T, no copy is needed), 0 where it
    is offloaded. The reference of a KL term and an engine's copy of the model are bP each, whole on
    every rank under any ZeRO stage; with LoRA the reference is the policy's own base.
    """
    b, zero = _BYTES[config.model.dtype], config.deepspeed.zero
    trained = trainable_weights(shape, config)
    adam = 8.0 * trained if zero == 0 else 12.0 * trained / world_size
    weights = b * shape.weights / (world_size if zero == 3 else 1)
    whole = b * shape.weights
    engine = rollout_engine(config).memory(
        training_job(config), weights=whole, token=b * shape.layers * 2 * shape.key
    )
    # Of each layer: both norms' inputs and outputs and the residuals (8 x hidden), queries, keys,
    # values before and after norm and rotation, attention's output, and the MLP's four products.
    layer = 8 * shape.hidden + 4 * (shape.query + 2 * shape.key) + 4 * shape.intermediate
    tokens = max(config.micro_batch.tokens, config.max_sequence)
    if config.model.activation_checkpointing:
        kept = shape.layers * shape.hidden + layer
    else:
        kept = shape.layers * layer
    return Memory(
        weights=weights,
        gradients=4 * trained / (world_size if zero >= 2 else 1),
        adam=0.0 if config.deepspeed.offload_optimiser else adam,
        reference=float(whole) if config.dapo.kl and config.model.lora is None else 0.0,
        activations=float(b * tokens * kept),
        # Logits as the head gives them, in float32, and one array of that size.
        head=float((b + 8) * min(config.model.head_chunk, tokens) * shape.vocabulary),
        rollout_cache=engine.cache,
        engine=engine.weights,
        share=engine.share,
        share_kept=engine.share_kept,
    )


def checkpoint_bytes(
    weights: float, trained: float, *, number: int, zero: int, model: bool
) -> float:
    """Return about how many bytes a checkpoint takes, all ranks' files together.

    Adam's two moments in float32 and, under ZeRO, the float32 master copy; the weights in their own
    format (ZeRO-3: the frozen ones, since the master copy contains the others); once more the weights for
    the plain Hugging Face folder.

    Args:
        weights: how many there are, adapters included.
        trained: how many of them are trained.
        number: bytes of a number in the weights' format.
        zero: ZeRO stage.
        model: whether the plain folder is written too.
    """
    kept = weights - trained if zero == 3 else weights
    plain = weights if model else 0.0
    return (8 if zero == 0 else 12) * trained + number * (kept + plain)


@dataclass(frozen=True)
class Disk:
    """Bytes on disk: of one checkpoint, and of a run at its largest, its rollouts apart."""

    checkpoint: float
    peak: float


def disk(shape: ModelShape, config: TrainConfig) -> Disk:
    """Return what a run's folder takes: while one is written, `keep` + 2 checkpoints, then the model."""
    b, trained = _BYTES[config.model.dtype], trainable_weights(shape, config)
    adapters = trained if config.model.lora is not None else 0
    chosen = config.checkpoint
    one = checkpoint_bytes(
        shape.weights + adapters, trained, number=b, zero=config.deepspeed.zero, model=chosen.model
    )
    written = -(-config.steps // chosen.every)
    return Disk(one, one * min(chosen.keep + 2, written) + b * shape.weights)


def memory_lines(shape: ModelShape, config: TrainConfig, world_size: int) -> list[str]:
    """Return the estimate in words, with the arithmetic."""
    memory = estimate(shape, config, world_size)
    trained = trainable_weights(shape, config)
    copies = {"reference model": memory.reference, "the engine's model": memory.engine}
    kept = {name: size for name, size in copies.items() if size}
    policy = {"weights": memory.weights, "Adam": memory.adam}
    passing = {
        "gradients": memory.gradients,
        "activations": memory.activations,
        "head": memory.head,
    }
    offloaded = ", Adam in the host's memory" if config.deepspeed.offload_optimiser else ""
    lines = [
        f"model: {shape.weights:,} weights, {trained:,} trained, {config.model.dtype},"
        f" ZeRO-{config.deepspeed.zero} over {_count(world_size, 'rank')}{offloaded}",
        "memory of a rank at an update, at most about: "
        + _sum({**policy, **kept, **passing}, memory.updating),
    ]
    if memory.share:
        lines.append(
            f"memory of a rank at generation: {_sum({**policy, **kept}, memory.generating)}, and"
            f" {rollout_engine(config).title}'s {memory.share:.0%} of the GPU"
            + (", always" if memory.share_kept else ", which it gives back for the update")
        )
    else:
        cache = {f"cache of {config.rollout.chunk} rollouts": memory.rollout_cache}
        lines.append(
            "memory of a rank at generation, at most about: "
            + _sum({**policy, **kept, **cache}, memory.generating)
        )
    sizes = disk(shape, config)
    lines.append(
        f"disk: a checkpoint takes about {_gb(sizes.checkpoint)}; at its largest the run holds"
        f" {_gb(sizes.peak)} (checkpoint.keep {config.checkpoint.keep}, one more that is the newest, one"
        " that is being written, and the trained model)"
    )
    return lines


def _sum(parts: dict[str, float], total: float) -> str:
    return " + ".join(f"{name} {_gb(size)}" for name, size in parts.items()) + f" = {_gb(total)}"


def _gb(value: float) -> str:
    return f"{value / GIGA:.1f} GB" if value >= GIGA / 10 else f"{value / 1e6:.1f} MB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
