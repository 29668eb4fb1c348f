"""A `ModelProbe` of a model that is in memory."""

import torch
from tiny import character_tokenizer

from geomrl.models.loading import LoadedModel
from geomrl.probe.extraction import ModelProbe


def tiny_probe(model, name="tiny"):
    """What reads a model, with a tokenizer of characters."""
    loaded = LoadedModel(
        name=name, model=model, tokenizer=character_tokenizer(), device=torch.device("cpu"),
        dtype=model.dtype, weights="", vocabulary="",
    )  # fmt: skip
    return ModelProbe(loaded)
