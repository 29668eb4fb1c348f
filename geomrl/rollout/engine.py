"""What a generation engine is: token ids and a seed in, token ids out; and what is asked of one.

Imports no torch. The engines are in `rollout.engines`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from geomrl.errors import GeomrlError

if TYPE_CHECKING:
    import torch
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


@dataclass(frozen=True, kw_only=True)
class SamplingJob:
    """What an engine may know of rollouts that are sampled outside of training.

    `weights` is the hash of the weight files that are meant, `longest` the number of tokens of the
    longest prompt with the longest response, `devices` how many the engine has to itself.
    """

    model: str
    weights: str
    dtype: str
    trust_remote_code: bool
    allow_pickle: bool
    longest: int
    devices: int = 1


class Engine(ABC):
    """Anything that turns requests into completions."""

    title: ClassVar[str] = "the engine"
    """Its name in sentences."""

    key: ClassVar[str] = "own"
    """Its name in commands and manifests."""

    schedules: ClassVar[bool] = False
    """Whether it decides itself how many requests run at once. It is then given a whole round in one
    call of `generate`, and otherwise `chunk` requests at a time."""

    @classmethod
    def for_sampling(cls, job: SamplingJob, device: str) -> Self:
        """Make the engine for rollouts outside of training, on "cpu", "cuda" or "cuda:N".

        Raises:
            GeomrlError: it cannot run this model here, or samples in training only.
        """
        raise GeomrlError(f"{cls.title} samples in training only; use transformers or vllm")

    @classmethod
    def draw_settings(cls, config: Any, sampling: Sampling) -> dict[str, int]:
        """Return what decides draws beside the seeds, for the manifest.

        Args:
            config: the model's transformers configuration.
            sampling: how its tokens are drawn.
        """
        return {}

    @abstractmethod
    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """Sample one completion a request, in their order.

        `progress` is called with how many more have finished.
        """

    def stream(
        self,
        batches: Sequence[Sequence[Request]],
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Sample batches, and yield each one's place with its completions when it is whole.

        One batch is sampled after another. An engine that `schedules` samples all together, and
        yields them in the order in which they are whole.
        """
        for place, batch in enumerate(batches):
            yield place, self.generate(batch, sampling, progress)

    def close(self) -> None:  # noqa: B027  some have nothing to give back
        """Give everything back, at the end: the engine cannot be used again."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What an engine may know of the training that it samples for.

    `longest` is the number of tokens of the longest prompt with the longest response, `chunk` that of
    requests in one call of `generate` at most (where the engine does not schedule them itself).
    `settings` is the engine's own section of the configuration (`rollout.vllm`), None where it has
    none.
    """

    model: str
    dtype: str
    attention: str | None
    trust_remote_code: bool
    chunk: int
    longest: int
    settings: Any = None


@dataclass(frozen=True)
class EngineMemory:
    """What an engine takes of a rank's memory, beside the policy.

    `weights` are bytes that it keeps always, `cache` bytes that it takes to generate. An engine that
    is given a share of the GPU instead (0 to 1) has `share` while it generates and keeps `share_kept`
    of the whole GPU at an update.
    """

    weights: float = 0.0
    cache: float = 0.0
    share: float = 0.0
    share_kept: float = 0.0


class TrainingEngine(Engine):
    """An engine whose weights follow a policy in training.

    One round of training calls `wake`, `load_weights`, `generate` (as often as needed) and `sleep`,
    in this order: a sleeping engine may have let its weights go. The class methods are called before
    one is made, and some of them without any model at hand.
    """

    exact_logprobs: ClassVar[bool] = False
    """Whether its log-probabilities are the policy's own up to rounding. Where they are not, an update
    weighs each token by p_trainer / p_engine (`rollout.importance_cap`)."""

    @classmethod
    @abstractmethod
    def for_training(cls, job: TrainingJob, tokenizer: Any, device: torch.device) -> Self:
        """Make the engine, with weights of its own.

        Args:
            job: the training; `longest` counts the held-out prompts too.
            tokenizer: the model's.
            device: of this rank.

        Raises:
            GeomrlError: it cannot run this model here.
        """

    @classmethod
    def preflight(cls, job: TrainingJob) -> None:
        """Check that what the engine needs is there; no weights are read.

        Raises:
            GeomrlError: a library is missing, or it cannot serve this job.
        """

    @classmethod
    def check_names(cls, job: TrainingJob, names: Collection[str]) -> None:
        """Check that `load_weights` will take the policy's weights; no weights are read.

        Args:
            job: the training.
            names: of the policy's parameters, as transformers names them.

        Raises:
            GeomrlError: one of them would be refused.
        """

    @classmethod
    def max_length(cls, job: TrainingJob) -> int | None:
        """Return the tokens of the longest sequence that it has room for; None: any, or `longest`."""
        return None

    @classmethod
    def memory(cls, job: TrainingJob, *, weights: int, token: int) -> EngineMemory:
        """Return what it takes of a rank's memory.

        Args:
            job: the training.
            weights: bytes of the whole model.
            token: bytes of one token's keys and values in all layers.
        """
        return EngineMemory()

    @abstractmethod
    def load_weights(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Take every weight anew.

        Args:
            named: all parameters, under the names of the transformers model's `state_dict`. A head
                that is tied to the embedding may be left out.

        Raises:
            GeomrlError: a name is unknown or missing, or a shape is wrong. The weights are then
                part old and part new: the engine must not be used before they are loaded again.
        """

    @abstractmethod
    def sleep(self) -> None:
        """Give back what memory the engine can do without until `wake`."""

    @abstractmethod
    def wake(self) -> None:
        """Take the memory again. The weights are undefined until `load_weights`."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back, at the end: the engine cannot be used again."""
