"""Is a model what geomrl takes it for? The rows it is tried on, and how far rounding may go.

A model is compared with itself at the start, in three forwards of a few tokens: by `probe.self_check`
in reading, by `rollout.self_check` in sampling, and by `train.self_check` in training.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomrl.errors import GeomrlError
from geomrl.models.loading import steady_length
from geomrl.seeds import derive_seed

_LENGTHS = (9, 13, 4)
"""Ragged, so that padding shows; the second row is the longest."""

STATES = {torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest relative distance of a state from itself in a batch of another shape.

Matrix products of other shapes are summed in another order. In float32 that was measured as 3e-5 or
less over 150 tiny architectures, and 1e-3 leaves room for depth; a bfloat16 number is only good to
2^-8, which tens of layers add up.
"""

REPEATED = {torch.bfloat16: 0.01, torch.float16: 0.01}
"""The same in a batch of the same shape, where nothing but the order of atomic sums may differ."""

LOGITS = {torch.bfloat16: 0.02, torch.float16: 0.005}
"""The same of logits from one and the same state: one rounding of the head, and of a scaling."""

NATS = {torch.bfloat16: 0.25, torch.float16: 0.05}
"""Largest mean distance of log-probabilities, in nats, between two ways of running a model.

In float32, 1e-3: sums in another order were measured as 1e-5 or less. A bfloat16 logit of a real
model, about 20, is itself only good to .06; two engines differ by some .02 on text that the model
wrote, and by more on tokens as unlikely as the trial's. What is wrong by kind was .9 to 130 nats.
"""

DRAWN = 8
"""Tokens sampled from each row to try an engine."""


def trial_sequences(
    config: Any, device: torch.device, n_tokens: int | None = None
) -> tuple[Int[Tensor, " length"], ...]:
    """Return rows of ids to try a model on; the same for every model of as many tokens.

    Ids that the configuration names (padding, end, image) are left out: they may be treated apart.

    Args:
        config: the model's transformers configuration.
        device: where the rows are wanted.
        n_tokens: the tokenizer's ids, where they are fewer than the model's.
    """
    text = config.get_text_config()
    named = {
        i
        for each in (config, text)
        for key, value in vars(each).items()
        if key.endswith(("token_id", "token_index"))
        for i in (value if isinstance(value, list) else [value])
    }
    size = min(text.vocab_size, n_tokens or text.vocab_size)
    valid = torch.tensor([i for i in range(size) if i not in named] or list(range(size)))
    draw = torch.Generator().manual_seed(derive_seed(0, "self-check"))
    room = steady_length(config) or getattr(text, "max_position_embeddings", None)
    # Room is left for what is sampled behind a row.
    lengths = [min(length, max(room - DRAWN, 1) if room else length) for length in _LENGTHS]
    return tuple(
        valid[torch.randint(0, len(valid), (length,), generator=draw)].to(device)
        for length in lengths
    )


def nats(ours: Tensor, theirs: Tensor) -> float:
    """Return the mean distance of log-probabilities, in nats."""
    return float((ours.double() - theirs.double()).abs().mean())


def distance(ours: Float[Tensor, "rows n"], theirs: Float[Tensor, "rows n"]) -> float:
    """Return how far apart two readings are: each row's |a - b| / |b|, over rows.

    The largest, and in 16 bits the median: there a mixture's router may send single tokens elsewhere
    because of a rounding, and what is wrong by kind is wrong in most rows.
    """
    a, b = ours.float(), theirs.float()
    each = (a - b).norm(dim=-1) / b.norm(dim=-1).clamp(min=1e-12)  # [rows]
    half = ours.dtype.itemsize == 2 or theirs.dtype.itemsize == 2
    return float(each.median() if half else each.max())


def require(found: float, allowed: float, what: str, cure: str) -> None:
    """Refuse a model that disagrees with itself.

    Raises:
        GeomrlError: `found` is above `allowed`, or not a number.
    """
    if not found <= allowed:
        raise GeomrlError(f"{what} (by {found:.2g}, where {allowed:.2g} is rounding); {cure}")
