"""LoRA adapters in a loaded model: which modules take them, and the model as it is without them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

LINEAR = "all-linear"


def linear_modules(model: Any) -> list[str]:
    """Return the names of a model's linear modules but its head's, in their order.

    Experts that an architecture stacks into one weight are no linear modules, and are left out.
    """
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Run the model without its adapters, as it was before training, for as long as the block runs.

    peft's own switch would also take the adapters' gradients away.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
