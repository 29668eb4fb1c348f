"""How well the devices are used: model FLOPs, and their share of the peak rate (MFU).

FLOPs are those that the mathematics of a phase asks for, a multiplication and an addition counted
as two: matrix products alone, as in PaLM (Chowdhery et al. 2022, arXiv 2204.02311, appendix B) and
Megatron-LM (Narayanan et al. 2021, arXiv 2104.04473, section 5.1). What is computed beyond that
(padding, recomputed activations, a prompt that sampling reads again for each of its rollouts, the
alignment table's pass) is not counted, so that none of it makes a run look better. Unlike there, attention
counts each token with those before it alone (half of the square), and the head the scored tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geomrl.train.batch import Sample

PEAKS: tuple[tuple[str, float], ...] = (
    ("B200", 2250.0),  # NVIDIA HGX B200 datasheet: 36 PFLOP/s sparse for eight
    ("H200 NVL", 835.5),  # NVIDIA H200 datasheet: 1,671 sparse
    ("GH200", 989.5),  # NVIDIA GH200 datasheet: 1,979 sparse
    ("H200", 989.5),  # NVIDIA H200 datasheet: 1,979 sparse (SXM)
    ("H100 NVL", 835.5),  # NVIDIA H100 datasheet: 1,671 sparse
    ("H100 PCIe", 756.5),  # NVIDIA H100 datasheet of 2022: 1,513 sparse
    ("H100", 989.5),  # NVIDIA H100 datasheet: 1,979 sparse (SXM)
    ("A100", 312.0),  # NVIDIA A100 datasheet, SXM and PCIe
    ("L40S", 362.0),  # NVIDIA L40S datasheet
    ("L4", 121.0),  # NVIDIA L4 datasheet: 242 sparse
    ("A10G", 70.0),  # NVIDIA A10G datasheet
    ("A10", 125.0),  # NVIDIA A10 datasheet
    ("RTX A6000", 154.8),  # NVIDIA RTX A6000 datasheet: 309.7 sparse
    ("RTX 4090", 165.2),  # NVIDIA Ada architecture paper, float32 sums
    ("RTX 3090", 71.0),  # NVIDIA GA102 architecture paper, float32 sums
    ("V100", 125.0),  # NVIDIA V100 datasheet (SXM2), float16: it has no bfloat16
    ("MI300X", 1307.4),  # AMD Instinct MI300X datasheet
)
"""Words of a device's name -> dense bfloat16 TFLOP/s with tensor cores. The first that fits counts."""


def peak_of(device: str) -> float | None:
    """Return a device's peak in TFLOP/s by its name, None where the table lacks it.

    >>> peak_of("NVIDIA H100 80GB HBM3"), peak_of("NVIDIA A100-SXM4-80GB"), peak_of("cpu")
    (989.5, 312.0, None)
    """
    said = set(device.replace("-", " ").split())
    return next((peak for words, peak in PEAKS if said >= set(words.split())), None)


@dataclass(frozen=True, kw_only=True)
class ModelFlops:
    """What the matrix products of a decoder are made of.

    Attributes:
        linear: weights that a token is multiplied with, the head's apart; of experts those that a
            token is sent to.
        trained: of them (and of adapters) those whose gradient is taken.
        adapters: LoRA's weights, beside `linear`.
        head: hidden x vocabulary.
        query: heads times their width.
        windows: of each layer with attention, how many tokens it looks back on; None: all.
        head_trained: whether the head's gradient is taken.
    """

    linear: float
    trained: float
    adapters: float
    head: float
    query: int
    windows: tuple[int | None, ...]
    head_trained: bool = True

    def forward(self, prompt: int, responses: Sequence[int]) -> float:
        """Return the FLOPs of reading a prompt once and each of its responses, all of these scored.

        Args:
            prompt: its tokens.
            responses: the tokens of each.
        """
        tokens = prompt + sum(responses)
        attended = self._attended(prompt) + sum(
            self._attended(prompt + n) - self._attended(prompt) for n in responses
        )
        products = (self.linear + self.adapters) * tokens + self.head * sum(responses)
        return 2.0 * products + 4.0 * self.query * attended

    def update(self, prompt: int, response: int) -> float:
        """Return the FLOPs of one rollout's forward and backward.

        A product of two activations has two gradients, and so has one with a weight that is trained;
        with a frozen weight it has one.
        """
        tokens, attended = prompt + response, self._attended(prompt + response)
        weights = 2 * (self.linear + self.adapters) + self.trained
        head = (3 if self.head_trained else 2) * self.head
        return 2.0 * (weights * tokens + head * response) + 12.0 * self.query * attended

    def _attended(self, tokens: int) -> int:
        """Return the pairs of a token with itself and those before it, over all layers."""
        return sum(_pairs(tokens, window) for window in self.windows)


def _pairs(tokens: int, window: int | None) -> int:
    """Return the pairs of a token with one at most `window` - 1 before it.

    >>> _pairs(4, None), _pairs(4, 2), _pairs(1, 2)
    (10, 7, 1)
    """
    beyond = 0 if window is None else max(tokens - window, 0)
    return (tokens * (tokens + 1) - beyond * (beyond + 1)) // 2


def model_flops(
    model_config: Any, *, adapters: int | None = None, trust_remote_code: bool = False
) -> ModelFlops:
    """Count a causal language model's matrix products, from one that is built without storage.

    All weights of two or more axes take part but the embeddings. Of experts stacked in one weight,
    or in modules of their own, the share that a token is sent to counts. Convolutions and the states
    of linear attention are not counted.

    Args:
        model_config: its transformers configuration.
        adapters: weights of LoRA's adapters, which alone are then trained; None: all are.
        trust_remote_code: build code that the checkpoint brings along.
    """
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config, trust_remote_code=trust_remote_code)
    text = model_config.get_text_config()
    head = model.get_output_embeddings()
    active = _active_share(text)
    linear = sum(
        weight.numel() * (active if ".experts" in f".{name}" else 1.0)
        for name, module in model.named_modules()
        if module is not head and not isinstance(module, nn.Embedding)
        for weight in module.parameters(recurse=False)
        if weight.ndim >= 2
    )
    heads = getattr(text, "num_attention_heads", None)
    if not isinstance(heads, int):  # none at all, or one number a layer: attention is not counted
        heads = 0
    width = getattr(text, "head_dim", None) or text.hidden_size // max(heads, 1)
    return ModelFlops(
        linear=linear,
        trained=linear if adapters is None else adapters,
        adapters=adapters or 0,
        head=head.weight.numel(),
        query=heads * width,
        windows=_windows(text),
        head_trained=adapters is None,
    )


def _active_share(text: Any) -> float:
    """Return the share of the experts that a token is sent to; 1 without experts."""
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    experts = next((n for name in names if (n := getattr(text, name, None))), None)
    chosen = getattr(text, "num_experts_per_tok", None)
    return chosen / experts if experts and chosen else 1.0


def _windows(text: Any) -> tuple[int | None, ...]:
    """Return how far each layer with attention looks back."""
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        return (window,) * text.num_hidden_layers
    looks = {"full_attention": None, "sliding_attention": window}
    return tuple(looks[kind] for kind in kinds if kind in looks)


@dataclass(frozen=True)
class Work:
    """FLOPs of the model in a phase, and the response tokens that they are for."""

    flops: float = 0.0
    tokens: int = 0

    def __add__(self, other: Work) -> Work:
        """Return both together."""
        return Work(self.flops + other.flops, self.tokens + other.tokens)


def rates(
    work: Mapping[str, Work], seconds: Mapping[str, float], *, devices: int, peak: float | None
) -> dict[str, float]:
    """Return TFLOP/s and MFU of a device, by phase and for the whole step, and tokens per second.

    >>> found = rates({"update": Work(6e12, 50)}, {"step": 4.0, "update": 2.0}, devices=3, peak=4.0)
    >>> found["time/tflops"], found["time/mfu"], found["time/mfu/update"]
    (0.5, 0.125, 0.25)

    Args:
        work: by phase; one without any is left out.
        seconds: by phase, and of the whole "step".
        devices: ranks.
        peak: TFLOP/s of a device; None: unknown, and MFU is NaN (null in the log).
    """
    found: dict[str, float] = {}
    whole = sum((each.flops for each in work.values()), 0.0)
    by_phase = {f"/{phase}": (each.flops, seconds[phase]) for phase, each in work.items()}
    for key, (flops, took) in {"": (whole, seconds["step"]), **by_phase}.items():
        if flops:
            reached = flops / (took * devices) / 1e12
            found[f"time/tflops{key}"] = reached
            found[f"time/mfu{key}"] = reached / peak if peak else float("nan")
    if (sampled := work.get("generate")) and sampled.tokens:
        found["time/generated_tokens_per_second"] = sampled.tokens / seconds["generate"]
    return found


def sampling_work(flops: ModelFlops, groups: Iterable[Sequence[Sample]]) -> Work:
    """Return what sampling groups of one prompt each takes; the prompt is read once."""
    total = Work()
    for group in groups:
        lengths = [len(sample.response_ids) for sample in group]
        total += Work(flops.forward(len(group[0].prompt_ids), lengths), sum(lengths))
    return total


def scoring_work(flops: ModelFlops, samples: Iterable[Sample]) -> Work:
    """Return what the log-probabilities of rollouts take."""
    return _total((flops.forward(p, [r]), r) for p, r in map(_lengths, samples))


def update_work(flops: ModelFlops, samples: Iterable[Sample]) -> Work:
    """Return what the gradient of a loss on rollouts takes."""
    return _total((flops.update(p, r), r) for p, r in map(_lengths, samples))


def _lengths(sample: Sample) -> tuple[int, int]:
    return len(sample.prompt_ids), len(sample.response_ids)


def _total(parts: Iterable[tuple[float, int]]) -> Work:
    flops, tokens = zip(*parts, strict=True)
    return Work(sum(flops), sum(tokens))


def peak_here(given: float | None) -> float | None:
    """Return the peak of this process's device in TFLOP/s: as given, or the table's for its name."""
    import torch

    if given is not None or not torch.cuda.is_available():
        return given
    return peak_of(torch.cuda.get_device_name())
