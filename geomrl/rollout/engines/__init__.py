"""Engines that generate rollouts, one file each; found by name, or in a file of the user's.

Imports nothing heavy: an engine's file is imported when its class is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from inspect import isclass
from typing import TYPE_CHECKING

from geomrl.errors import GeomrlError
from geomrl.files import load_user_code

if TYPE_CHECKING:
    from geomrl.rollout.engine import TrainingEngine

ENGINES = {
    "transformers": "geomrl.rollout.engines.transformers:TransformersEngine",
    "vllm": "geomrl.rollout.engines.vllm:VLLMEngine",
}
"""Name in a configuration -> "module:class"."""


def engine_class(name: str) -> type[TrainingEngine]:
    """Return the class of an engine.

    Args:
        name: a key of `ENGINES`, or "FILE.py:CLASS" of the user's.

    Raises:
        GeomrlError: the user's file is absent or broken, or has no class of that name that is a
            whole `TrainingEngine`.
    """
    if name in ENGINES:
        module, _, own = ENGINES[name].partition(":")
        found: type[TrainingEngine] = getattr(import_module(module), own)
        return found
    return _whole_engine(load_user_code(name, "a rollout engine"), name)


def choose_engine(wanted: str, devices: Sequence[str]) -> str:
    """Return the engine to sample with outside of training.

    Args:
        wanted: a key of `ENGINES`; "auto" is vLLM where it is installed and the devices are GPUs, and
            transformers otherwise.
        devices: by name, or "auto".

    Raises:
        GeomrlError: there is no engine of that name.
    """
    if wanted not in ("auto", *ENGINES):
        raise GeomrlError(f"engine '{wanted}' is unknown; use auto, {' or '.join(ENGINES)}")
    if wanted != "auto":
        return wanted
    import torch

    gpu = torch.cuda.is_available()
    on_gpus = all(gpu if name == "auto" else name.startswith("cuda") for name in devices)
    found = find_spec("vllm")
    # No origin: a folder that happens to be named vllm.
    return "vllm" if on_gpus and found and found.origin else "transformers"


def engine_version(name: str) -> str | None:
    """Return the version of an engine's library; None where it is not installed."""
    for package in (name, f"{name}-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None


def _whole_engine(found: object, name: str) -> type[TrainingEngine]:
    from geomrl.rollout.engine import TrainingEngine

    if not (isclass(found) and issubclass(found, TrainingEngine)):
        raise GeomrlError(
            f"{name}: is no rollout engine; make it a subclass of geomrl.rollout.engine.TrainingEngine,"
            " or of TransformersEngine"
        )
    if lacking := sorted(found.__abstractmethods__):
        raise GeomrlError(
            f"{name}: lacks {', '.join(lacking)}; define what geomrl.rollout.engine.TrainingEngine"
            " leaves open"
        )
    return found
