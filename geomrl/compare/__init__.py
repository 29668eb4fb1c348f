"""Base against RL: change of the policy, change of the encoder, and a verdict on both."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geomrl.compare.config import CompareConfig
    from geomrl.compare.run import compare_models

__all__ = ["CompareConfig", "compare_models"]


def __getattr__(name: str) -> Any:
    """Load the step when it is first used: it imports torch."""
    if name not in __all__:
        raise AttributeError(f"module 'geomrl.compare' has no attribute '{name}'")
    return getattr(import_module("geomrl.compare.run"), name)
