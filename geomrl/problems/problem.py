"""A problem: what is asked, and the answer that counts as right."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One problem: what is asked, the gold answer, and where it comes from.

    `problem_id` is unique within its benchmark; `meta` contains the other columns of the source.
    """

    problem_id: str
    benchmark: str
    statement: str
    gold: str
    _: KW_ONLY
    meta: dict[str, Any] = field(default_factory=dict)
