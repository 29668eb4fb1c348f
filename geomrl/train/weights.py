"""The policy's weights under the names of its Hugging Face model, for engines and for export."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from geomrl.train.deepspeed_engine import whole_weights
from geomrl.train.policy import Policy


@torch.no_grad()
def named_weights(policy: Policy) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, weight) as the plain Hugging Face model has them; all ranks must take part.

    Partitioned weights are gathered one at a time. LoRA's are merged into those that they adapt,
    out of place: adding and subtracting them again would wear the base weights down. A yielded
    tensor is valid until the next one is asked for. Tied weights are yielded once.
    """
    adapted = {
        name: module for name, module in policy.model.named_modules() if _has_adapter(module)
    }
    for name, weight in policy.model.named_parameters():
        if ".lora_" in name:
            continue
        home, _, leaf = name.rpartition(".base_layer.")
        adapter = adapted.get(home) if leaf == "weight" else None
        needed = list(adapter.parameters()) if adapter is not None else [weight]
        with whole_weights(needed):
            plain = f"{home}.{leaf}" if home else name
            if adapter is None:
                yield plain, weight.detach()
            else:
                merged = weight + adapter.get_delta_weight("default").to(weight.dtype)
                yield plain, merged


def _has_adapter(module: Any) -> bool:
    return hasattr(module, "base_layer") and hasattr(module, "get_delta_weight")
