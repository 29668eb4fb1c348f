"""The tokens before an anchor, run once: their keys and values serve every forward behind them.

In a causal model nothing that happens at the anchor changes what lies before it, so a forward that
starts at the anchor, with the keys and values of the tokens before, is the whole forward. Prefixes
are padded on the left: each row's distances stay what they are, as sliding windows need, and all
rows go on at one column. What is padded is masked, and positions are given.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

_NEEDED = {"attention_mask", "position_ids", "past_key_values", "use_cache"}


@dataclass(frozen=True)
class Prefix:
    """Keys and values of some sequences' beginnings, padded on the left.

    Attributes:
        cache: of all rows and layers; never written to.
        lengths: each row's tokens.
    """

    cache: DynamicCache
    lengths: Int[Tensor, " rows"]

    def behind(self, ids: Int[Tensor, "rows time"]) -> dict[str, Any]:
        """Return a base model's inputs for a forward of the tokens behind, padded on the right."""
        mask = _left_mask(self.lengths)
        time = torch.arange(ids.shape[1], device=ids.device)
        cache = copy(self.cache)
        cache.layers = [copy(layer) for layer in self.cache.layers]  # grown by concatenation
        return {
            "input_ids": ids,
            "attention_mask": torch.cat([mask, torch.ones_like(ids)], dim=1),
            "position_ids": self.lengths[:, None] + time,
            "past_key_values": cache,
            "use_cache": True,
        }


def takes_prefix(model: Any) -> bool:
    """Return whether a base model's forward has the arguments that going on from a prefix needs."""
    return set(inspect.signature(model.forward).parameters) >= _NEEDED


@torch.inference_mode()
def read_prefix(
    model: Any, sequences: Sequence[Sequence[int]], device: torch.device
) -> Prefix | None:
    """Run the beginnings of some sequences.

    Args:
        model: a base model that `takes_prefix`.
        sequences: token ids; one may be empty, not all.
        device: the model's.

    Returns:
        None where the model keeps something else than keys and values of tokens: what a Mamba or a
        linear attention keeps is written over by the next forward.
    """
    width = max(map(len, sequences))
    ids = torch.stack(
        [pad(torch.tensor(s, dtype=torch.long), (width - len(s), 0)) for s in sequences]
    )
    lengths = torch.tensor([len(s) for s in sequences], device=device)
    mask = _left_mask(lengths)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = model(
        input_ids=ids.to(device), attention_mask=mask, position_ids=positions, use_cache=True
    )
    cache = getattr(output, "past_key_values", None)
    if type(cache) is not DynamicCache or not all(map(_plain, cache.layers)):
        return None
    return Prefix(cache, lengths)


def _plain(layer: Any) -> bool:
    """Return whether a layer's cache is keys and values, which a forward replaces and never writes to."""
    return type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) and layer.is_initialized


def _left_mask(lengths: Int[Tensor, " rows"]) -> Int[Tensor, "rows width"]:
    """Return 1 for the tokens of rows that are padded on the left, 0 for the padding."""
    column = torch.arange(int(lengths.max()), device=lengths.device)
    return (column >= lengths.max() - lengths[:, None]).long()
