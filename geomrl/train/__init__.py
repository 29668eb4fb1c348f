"""Training: DAPO with Hidden-Align.

Names are loaded when they are first used, so that `geomrl.train.config` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geomrl.train.alignment import KINDS, hidden_align
    from geomrl.train.config import TrainConfig, load_config
    from geomrl.train.gauges import AlignmentMetrics, alignment_metrics
    from geomrl.train.trainer import train

_HOMES = {
    "KINDS": "geomrl.train.alignment",
    "hidden_align": "geomrl.train.alignment",
    "AlignmentMetrics": "geomrl.train.gauges",
    "alignment_metrics": "geomrl.train.gauges",
    "TrainConfig": "geomrl.train.config",
    "load_config": "geomrl.train.config",
    "train": "geomrl.train.trainer",
}

__all__ = [
    "KINDS",
    "AlignmentMetrics",
    "TrainConfig",
    "alignment_metrics",
    "hidden_align",
    "load_config",
    "train",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'geomrl.train' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
