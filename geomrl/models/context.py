"""What a step is run with, beside its own settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from geomrl.models.options import ModelOptions
from geomrl.progress import Say


@dataclass(frozen=True)
class Context:
    """How models are loaded, whether progress bars are shown, where remarks go, processes of an analysis.

    Functions for users take these as keywords of their own, and make a context of them.
    """

    options: ModelOptions = field(default_factory=ModelOptions)
    show: bool = True
    say: Say = lambda line: None
    jobs: int | None = None  # None: one a core
