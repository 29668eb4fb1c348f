"""Responses that end at the limit of tokens: their answers are lost, and the user should know at once."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from geomrl.progress import Say
from geomrl.rollout.engine import Completion

MANY = 0.1
"""From this share of responses on, a remark is made."""
_ENOUGH = 32  # responses before a share is told while sampling
_CURE = "in a new run directory, a larger --max-tokens gives them room"


class CutOffs:
    """Counts responses as they are sampled, and remarks once that many were cut off."""

    def __init__(self, max_tokens: int, say: Say) -> None:
        self._max_tokens, self._say = max_tokens, say
        self._n = self._cut = 0
        self._said = False

    def count(self, completions: Sequence[Completion]) -> None:
        """Count some more."""
        self._n += len(completions)
        self._cut += sum(c.finish_reason == "length" for c in completions)
        if not self._said and self._n >= _ENOUGH and self._cut >= MANY * self._n:
            self._said = True
            self._say(
                f"{self._cut} of the first {self._n} responses were cut off at {self._max_tokens} tokens "
                f"(--max-tokens); without an answer they count as not correct; {_CURE}"
            )


def cut_off_note(rollouts: pd.DataFrame) -> str | None:
    """Return how many responses were cut off before an answer, None where they are few or unknown.

    Args:
        rollouts: graded, with `finish_reason` (null where another tool did not say) and `max_tokens`.
    """
    cut = rollouts[(rollouts["finish_reason"] == "length") & (rollouts["verdict"] == "no_answer")]
    if len(cut) < max(1, MANY * len(rollouts)):
        return None
    limits = sorted({int(limit) for limit in cut["max_tokens"].dropna()})
    where = f" at {' or '.join(map(str, limits))} tokens" if limits else ""
    return (
        f"{len(cut)} of {len(rollouts)} responses ({100 * len(cut) / len(rollouts):.0f} %) were cut off"
        f"{where} before an answer and count as not correct; {_CURE}"
    )
