"""The policy in training: token ids in, log-probabilities and entropies of response tokens out.

One module contains the whole forward, LM head included. Under ZeRO-3 a weight is there only while its
module runs inside the engine's forward, so the head is called as a module, here and nowhere else,
a chunk of tokens at a time: tokens x vocabulary is never in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GradientCheckpointingLayer

from geomrl.errors import GeomrlError, MissingExtra
from geomrl.models.decoder import find_decoder, next_token_logits
from geomrl.train.adapters import LINEAR, linear_modules

if TYPE_CHECKING:
    from geomrl.train.config import LoraConfig


class Policy(nn.Module):
    """A causal language model that scores given tokens.

    Args:
        model: a transformers causal language model.
        head_chunk: tokens whose logits are in memory at once.
        temperature: what the rollouts were sampled at; logits are divided by it.
    """

    def __init__(self, model: Any, *, head_chunk: int = 2048, temperature: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.head_chunk = head_chunk
        self.temperature = temperature
        self._stack = find_decoder(model).stack

    def forward(
        self,
        input_ids: Int[Tensor, "rows time"],
        sequence: Int[Tensor, " tokens"],
        position: Int[Tensor, " tokens"],
        targets: Int[Tensor, " tokens"],
        chunks: int | None = None,
        whole: bool = False,
    ) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
        """Score tokens: the state at `position[t]` of row `sequence[t]` predicts `targets[t]`.

        Padding is on the right and needs no mask: a causal model never looks ahead, so no
        state that is read can see it.

        `chunks` is how often the head is called; by default as often as `head_chunk` needs. Under
        ZeRO-3 each call gathers the head's weight from all ranks, so all must call it equally often.

        `whole` takes the model's own logits instead, of every token: what `self_check` compares with.

        Returns:
            logprobs: of the targets, in nats, with gradient.
            entropy: of each next-token distribution, in nats, without.
        """
        if whole:
            logits = self.model(input_ids=input_ids, use_cache=False).logits[sequence, position]
            return self._score_logits(logits.float(), targets)
        # A model that names no base of its own (Llama 4's) has the module around its layers.
        base = self.model.base_model
        base = base if base is not self.model else self.model.get_submodule(self._stack)
        output = base(input_ids=input_ids, use_cache=False)
        states = output.last_hidden_state[sequence, position]  # [tokens, hidden]
        chunks = chunks or head_calls(len(states), self.head_chunk)
        if chunks == 1:
            return self._score(states, targets)
        # The backward makes each chunk's logits again instead of keeping them all.
        parts = [
            checkpoint(self._score, part, target, use_reentrant=False, preserve_rng_state=False)
            for part, target in zip(
                states.tensor_split(chunks), targets.tensor_split(chunks), strict=True
            )
        ]
        logprobs, entropy = zip(*parts, strict=True)
        return torch.cat(logprobs), torch.cat(entropy)

    def _score(self, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return self._score_logits(next_token_logits(self.model, states), targets)

    def _score_logits(
        self, logits: Float[Tensor, "tokens vocabulary"], targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.temperature != 1.0:
            logits = logits / self.temperature
        logprobs, entropy = _ScoreTokens.apply(logits, targets)
        return logprobs, entropy


def head_calls(tokens: int, head_chunk: int) -> int:
    """Return how many calls of the head score so many tokens; one where there are none."""
    return max(1, -(-tokens // head_chunk))


class _ScoreTokens(torch.autograd.Function):
    """Log-probability of each target and entropy of each row of logits.

    Written out because the generic log-softmax keeps two arrays of the logits' size for the
    backward and takes their exponential again; this keeps one and takes it once.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        largest = logits.amax(-1, keepdim=True)  # [tokens, 1]
        powers = (logits - largest).exp_()  # [tokens, vocabulary]; of its size, the only array kept
        sums = powers.sum(-1)
        total = largest[:, 0] + sums.log()
        logprobs = logits.gather(-1, targets[:, None])[:, 0] - total
        entropy = total - torch.einsum("tv,tv->t", powers, logits) / sums
        ctx.save_for_backward(powers, sums, targets)
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:
        powers, sums, targets = ctx.saved_tensors
        # d log p[target] / d logit[v] = 1[v = target] - p[v]
        found = powers * (-grad / sums)[:, None]
        found.scatter_add_(-1, targets[:, None], grad[:, None])
        return found, None


def prepare_model(
    model: Any,
    *,
    activation_checkpointing: bool = False,
    lora: LoraConfig | None = None,
    seed: int = 0,
) -> Any:
    """Make a loaded model trainable: gradients on, noise off, adapters where asked.

    Dropout and router noise are off, since the ratio of new to old probabilities must be 1 where
    nothing changed. The names and places of such noise are many, but all of it heeds the flag that
    `eval` clears, so the whole model stays in evaluation mode; gradients do not need the other.

    `seed` alone decides the adapters' first values, whatever was drawn before.

    Raises:
        MissingExtra: LoRA is asked for and peft is not installed.
        GeomrlError: adapters are asked for on a weight that is tied to another, or activation
            checkpointing of an architecture that has none.
    """
    model.requires_grad_(lora is None)
    if lora is not None:
        model = _with_adapters(model, lora, seed)
        model.enable_input_require_grads()  # layer "0" is frozen, but its gradient is measured
    model.eval()
    if activation_checkpointing:
        _checkpoint_activations(model)
    return model


def _checkpoint_activations(model: Any) -> None:
    """Let each decoder layer keep its input alone and run again in the backward.

    transformers does so in training mode only, which the layers' own dropout heeds too (OPT's,
    Falcon's). So each layer is in training mode while it decides, and not while it runs.
    """
    layers: list[Any] = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers or not model.supports_gradient_checkpointing:
        raise GeomrlError(
            f"{type(model).__name__}: transformers cannot checkpoint this architecture's activations; "
            "set model.activation_checkpointing=false"
        )
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in layers:
        layer.training = True
        layer._gradient_checkpointing_func = partial(
            _run_checkpointed, layer, layer._gradient_checkpointing_func
        )


def _run_checkpointed(
    layer: nn.Module, run: Callable[..., Any], forward: Callable[..., Any], *args: Any
) -> Any:
    return run(partial(_without_training, layer, forward), *args)


def _without_training(layer: nn.Module, forward: Callable[..., Any], *args: Any) -> Any:
    layer.training = False  # of this module alone: those within it never train
    try:
        return forward(*args)
    finally:
        layer.training = True


def _with_adapters(model: Any, lora: LoraConfig, seed: int) -> Any:
    """Put LoRA adapters (Hu et al. 2021, arXiv 2106.09685) into the model's linear layers."""
    try:
        from peft import LoraConfig as PeftConfig
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise MissingExtra("peft", "train", "training with LoRA") from error
    # peft's own "all-linear" would also wrap stacked experts, whose names nothing else knows then.
    targets = linear_modules(model) if lora.targets == LINEAR else lora.targets
    settings = PeftConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=targets
    )
    owners = Counter(
        id(weight) for module in model.modules() for weight in module.parameters(recurse=False)
    )
    with torch.random.fork_rng(devices=[]):  # peft draws on the CPU
        torch.default_generator.manual_seed(seed)
        adapted = inject_adapter_in_model(settings, model)
    for name, module in adapted.named_modules():
        base = getattr(module, "base_layer", None)
        if base is not None and any(owners[id(w)] > 1 for w in base.parameters(recurse=False)):
            raise GeomrlError(
                f"model.lora.targets: the weight of {name} is tied to another module's "
                f"(tie_word_embeddings), so an adapter on it cannot be merged for sampling and export "
                "without changing both; leave it out of the targets"
            )
    return adapted
