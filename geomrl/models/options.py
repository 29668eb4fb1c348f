"""How a model is loaded: devices, precision, and whose code may run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from geomrl.models.loading import (
    LoadedModel,
    UnloadedModel,
    describe_model,
    load_model,
    quiet_transformers,
    spare_threads,
)
from geomrl.models.outline import Outline, outline


@dataclass(frozen=True)
class ModelOptions:
    """How to load a model. `devices`: "auto", "cpu", "cuda:1", or several with commas."""

    devices: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False
    allow_pickle: bool = False

    @property
    def device_list(self) -> list[str]:
        """The devices by name."""
        return [name.strip() for name in self.devices.split(",") if name.strip()] or ["auto"]

    def load(self, name: str) -> LoadedModel:
        """Load a model on the first device."""
        quiet_transformers()
        loaded = load_model(name, device=self.device_list[0], **self.loading())
        spare_threads(loaded.model, loaded.device)
        return loaded

    def describe(self, name: str) -> UnloadedModel:
        """Return what a model's files say of it, its weights' hash included; nothing is loaded."""
        quiet_transformers()
        return describe_model(name, device=self.device_list[0], **self.loading())

    def outline(self, name: str) -> Outline:
        """Return what a model's files say of it, without its weights; see `model_outline.outline`."""
        quiet_transformers()
        trust, pickled = self.trust_remote_code, self.allow_pickle
        return outline(name, trust_remote_code=trust, allow_pickle=pickled)

    def loading(self) -> dict[str, Any]:
        """Return what `load_model` takes besides name and device."""
        return {key: value for key, value in asdict(self).items() if key != "devices"}


def loaded_model(model: str | LoadedModel, options: ModelOptions | None) -> LoadedModel:
    """Return a model that is loaded already as it is, and load one that is named."""
    return model if isinstance(model, LoadedModel) else (options or ModelOptions()).load(model)
