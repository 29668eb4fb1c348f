"""Rollouts with plain transformers: a loop over the key-value cache, on any device.

Every row draws from noise of its own (`token_draws`), so that a sample depends on its seed and not
on its neighbours, and rows that have finished leave the batch. Measured beside `model.generate`,
dropping them makes the loop about 1.5 times as fast where lengths vary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoConfig

from geomrl.errors import GeomrlError
from geomrl.models.loading import LoadedModel, load_model
from geomrl.models.names import resolve_model
from geomrl.models.options import ModelOptions
from geomrl.rollout.engine import (
    Completion,
    EngineMemory,
    Request,
    Sampling,
    SamplingJob,
    TrainingEngine,
    TrainingJob,
)
from geomrl.rollout.engines.token_draws import TokenDraws, sampler_settings
from geomrl.rollout.self_check import check_sampling


class TransformersEngine(TrainingEngine):
    """Generates with a loaded transformers model."""

    title: ClassVar[str] = "transformers"
    key: ClassVar[str] = "transformers"
    exact_logprobs: ClassVar[bool] = True

    @classmethod
    def for_sampling(cls, job: SamplingJob, device: str) -> Self:
        """Load the model, and try it on three short rows."""
        options = ModelOptions(device, job.dtype, job.trust_remote_code, job.allow_pickle)
        loaded = options.load(job.model)
        if loaded.weights != job.weights:
            raise GeomrlError(
                f"{job.model}: its files hold other weights than the model that is to be sampled; save "
                "that one, and name its folder"
            )
        engine = cls(loaded)
        check_sampling(loaded, engine)
        return engine

    @classmethod
    def draw_settings(cls, config: Any, sampling: Sampling) -> dict[str, int]:
        """Return which sampler draws, for the manifest (`token_draws.sampler_settings`)."""
        return sampler_settings(config.get_text_config().vocab_size, sampling)

    @classmethod
    def for_training(cls, job: TrainingJob, tokenizer: Any, device: torch.device) -> Self:
        """Load a second copy of the model: sampling from the policy would gather it for every token."""
        loaded = load_model(
            job.model,
            device=str(device),
            dtype=job.dtype,
            trust_remote_code=job.trust_remote_code,
            tokenizer=tokenizer,
            attention=job.attention,
        )
        return cls(loaded)

    @classmethod
    def max_length(cls, job: TrainingJob) -> int | None:
        """Return how many positions the model has; None where it states none."""
        config = AutoConfig.from_pretrained(
            resolve_model(job.model), trust_remote_code=job.trust_remote_code
        )
        return getattr(config.get_text_config(), "max_position_embeddings", None)

    @classmethod
    def memory(cls, job: TrainingJob, *, weights: int, token: int) -> EngineMemory:
        """Return the copy of the model, and the cache of a chunk of the longest rollouts."""
        return EngineMemory(weights=float(weights), cache=float(job.chunk * job.longest * token))

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.stop_ids = loaded.stop_ids
        accepted = inspect.signature(loaded.model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._prefill_options = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """Sample all requests as one batch.

        Raises:
            GeomrlError: the model's logits are not finite, or it keeps no cache that can be shared.
        """
        device = self.loaded.device
        prompts = sorted({request.prompt_ids for request in requests})
        cache, mask, logits = self._prefill(prompts)
        # Each distinct prompt runs once; its cache is then copied to the rows that share it.
        source = torch.tensor([prompts.index(r.prompt_ids) for r in requests], device=device)
        cache.reorder_cache(source)  # unlike batch_select_indices, recurrent layers have it too
        mask, logits = mask[source], logits[source]  # [rows, prompt], [rows, vocabulary]

        draws = TokenDraws([request.seed for request in requests], sampling, device)
        ids: list[list[int]] = [[] for _ in requests]
        logprobs: list[list[float]] = [[] for _ in requests]
        rows = list(range(len(requests)))  # the request that each batch row still stands for
        room = self.loaded.max_length or 2**31
        limits = [min(sampling.max_tokens, room - len(r.prompt_ids)) for r in requests]
        finished: dict[int, Literal["stop", "length"]] = {}
        for step in range(max(limits)):
            tokens, picked = draws.draw(logits, rows, step)
            if not torch.isfinite(picked).all():
                raise GeomrlError(
                    f"{self.loaded.name}: the model's logits are not finite at response token {step}; "
                    "the weights are damaged or the number format overflows: try --dtype float32"
                )
            for row, token, logprob in zip(rows, tokens.tolist(), picked.tolist(), strict=True):
                if row in finished:
                    continue
                ids[row].append(token)
                logprobs[row].append(logprob)
                if token in self.stop_ids or len(ids[row]) == limits[row]:
                    finished[row] = "stop" if token in self.stop_ids else "length"
                    if progress:
                        progress(1)
            if all(row in finished for row in rows):
                break
            alive = [i for i, row in enumerate(rows) if row not in finished]
            # Leaving the batch copies the cache, so wait until an eighth of the rows can go.
            if len(rows) - len(alive) >= max(1, len(rows) // 8):
                keep = torch.tensor(alive, device=device)
                cache.reorder_cache(keep)
                mask, tokens = mask[keep], tokens[keep]
                rows = [rows[i] for i in alive]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            logits = self._forward(tokens[:, None], mask, cache).logits[:, -1]
        return [Completion(ids[i], logprobs[i], finished[i]) for i in range(len(requests))]

    @torch.no_grad()
    def load_weights(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Copy each tensor into the model's weight of that name, in the model's own number format.

        Buffers that are saved with the model may be among them; every parameter must be, where tied
        ones (one tensor under two names) need one of their names.

        Raises:
            GeomrlError: a name is unknown or missing, a shape differs, or tied names come with
                different values. The weights are then part old and part new.
        """
        name_of = self.loaded.name
        targets = self.loaded.model.state_dict(keep_vars=True)
        done: set[int] = set()
        for name, tensor in named:
            target = targets.get(name)
            if target is None or target.shape != tensor.shape:
                expected = "no weight" if target is None else f"a weight {list(target.shape)}"
                raise GeomrlError(
                    f"{name}, {list(tensor.shape)}: {name_of} has {expected} of that name; push "
                    "the state_dict of the model that the engine was made from"
                )
            if id(target) in done and not torch.equal(target, tensor.to(target)):
                raise GeomrlError(
                    f"{name}: {name_of} ties it to another weight, which came with other values; "
                    "push weights of a model with the same tie_word_embeddings"
                )
            target.copy_(tensor)
            done.add(id(target))
        parameters = self.loaded.model.named_parameters()
        missing = [name for name, parameter in parameters if id(parameter) not in done]
        if missing:
            raise GeomrlError(
                f"{name_of}: {len(missing)} weights were not pushed (first: {missing[0]}) and would "
                "stay as they were; push the whole state_dict"
            )

    def sleep(self) -> None:
        """Do nothing: the model keeps its memory."""

    def wake(self) -> None:
        """Do nothing: the model never slept."""

    def close(self) -> None:
        """Do nothing: the memory goes with the model."""

    def _prefill(
        self, prompts: Sequence[tuple[int, ...]]
    ) -> tuple[Any, Int[Tensor, "prompts time"], Float[Tensor, "prompts vocabulary"]]:
        """Run the distinct prompts, padded on the left, and return cache, mask and last logits."""
        width = max(len(prompt) for prompt in prompts)
        padded = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        masked = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        mask = torch.tensor(masked, device=self.loaded.device)
        ids = torch.tensor(padded, device=self.loaded.device)
        output = self._forward(ids, mask, None, **self._prefill_options)
        cache = getattr(output, "past_key_values", None)
        if cache is None:
            raise GeomrlError(
                f"{self.loaded.name}: a {type(self.loaded.model).__name__} keeps its past in a way of its "
                "own, which the transformers engine cannot share out over rows; sample with another "
                "tool and bring the rollouts (geomrl probe --rollouts FILE)"
            )
        return cache, mask, output.logits[:, -1]

    def _forward(self, ids: Tensor, mask: Tensor, cache: Any, **options: Any) -> Any:
        # use_cache is said aloud: a config saved with use_cache=False makes every step a prefill.
        if self._takes_positions:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            options["position_ids"] = positions[:, -ids.shape[1] :]
        return self.loaded.model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **options
        )
