"""The protocol that a generation engine fills: token ids and a seed in, token ids out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. temperature 0 is greedy; top_k 0 and top_p 1 are off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 2048


@dataclass(frozen=True)
class Request:
    """One rollout to make. Its seed alone decides its random draws, whatever else is in the batch."""

    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Completion:
    """One sampled response: `ids` end with the end-of-sequence token where it was drawn.

    `logprobs` are natural logarithms of the drawn tokens' probabilities under the distribution they
    were drawn from (after temperature, top-k and top-p).
    """

    ids: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]


class Engine(Protocol):
    """Anything that turns requests into completions, in the same order."""

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """Sample one completion a request; `progress` is told how many more have finished."""
        ...


class TrainingEngine(Engine, Protocol):
    """An engine whose weights follow a policy in training.

    One round of training calls `wake`, `load_weights`, `generate` (as often as needed) and `sleep`,
    in this order: a sleeping engine may have let its weights go.
    """

    def load_weights(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Take every weight anew.

        Args:
            named: all parameters, under the names of the transformers model's `state_dict`. A head
                that is tied to the embedding may be left out.

        Raises:
            GeomrlError: a name is unknown or missing, or a shape is wrong. The weights are then
                part old and part new: the engine must not be used before they are loaded again.
        """
        ...

    def sleep(self) -> None:
        """Give back what memory the engine can do without until `wake`."""
        ...

    def wake(self) -> None:
        """Take the memory again. The weights are undefined until `load_weights`."""
        ...

    def close(self) -> None:
        """Give everything back, at the end: the engine cannot be used again."""
        ...
