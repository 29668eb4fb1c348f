"""Sample and grade rollouts on all ranks, with the weights that the policy has now."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import torch

from geomrl.errors import GeomrlError
from geomrl.progress import Bar, Progress
from geomrl.rollout.engine import Completion, Request, Sampling, TrainingEngine
from geomrl.rollout.generate import response_text
from geomrl.seeds import derive_seed
from geomrl.train.advantage import reward
from geomrl.train.batch import Sample
from geomrl.train.config import TrainConfig
from geomrl.train.dynamic_sampling import TrainingPrompt
from geomrl.train.policy import Policy
from geomrl.train.weights import named_weights
from geomrl.train.world import World
from geomrl.verify.verifier import Grade, Verifier


class Sampler:
    """Generates with an engine, grades with a verifier; the ranks share the prompts.

    A sample's draws depend on its seed alone, and that on (seed, purpose, problem, sample): neither
    the number of ranks nor the batches decide them.
    """

    def __init__(
        self,
        engine: TrainingEngine,
        verifier: Verifier,
        tokenizer: Any,
        policy: Policy,
        config: TrainConfig,
        world: World,
    ) -> None:
        self.engine, self.verifier, self.tokenizer = engine, verifier, tokenizer
        self.policy, self.config, self.world = policy, config, world
        self._fresh = False

    def weights_changed(self) -> None:
        """Say that the policy was updated: the next sampling pushes its weights first."""
        self._fresh = False

    def sleep(self) -> None:
        """Give the engine's memory back until it is needed again."""
        self.engine.sleep()
        self._fresh = False

    def sample(
        self,
        prompts: Sequence[TrainingPrompt],
        n: int,
        sampling: Sampling,
        *,
        policy_step: int,
        seed: int,
        purpose: Sequence[str | int],
        progress: Progress | None = None,
    ) -> list[list[Sample]]:
        """Return one group of `n` graded rollouts a prompt, on every rank.

        Args:
            prompts: what to sample from.
            n: rollouts of each.
            sampling: how tokens are drawn.
            policy_step: the training step whose weights these are.
            seed: the run's seed.
            purpose: labels that set these draws apart from all others'.
            progress: called with how many rollouts are done on this rank, and of how many.

        Raises:
            GeomrlError: the engine ended a response before `sampling.max_tokens`.
        """
        self._push()
        mine = self.world.share(prompts)
        planned = [
            (prompt, number, derive_seed(
                seed, *purpose, prompt.problem.benchmark, prompt.problem.problem_id, number
            ))
            for prompt in mine
            for number in range(n)
        ]  # fmt: skip
        completions = self._generate(
            [Request(prompt.prompt_ids, drawn) for prompt, _, drawn in planned], sampling, progress
        )
        _check_lengths(completions, sampling)
        texts = [response_text(self.tokenizer, c.ids, c.finish_reason) for c in completions]
        self.world.watchdog.see("grade")
        grades = self.verifier.grade(texts, [p.problem.gold for p, _, _ in planned])
        samples = [
            self._sample(
                *plan, completion=completion, text=text, grade=grade, policy_step=policy_step
            )
            for plan, completion, text, grade in zip(
                planned, completions, texts, grades, strict=True
            )
        ]
        groups = [samples[i : i + n] for i in range(0, len(samples), n)]
        return self.world.merge(groups, len(prompts))

    def draw(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Return this rank's responses, ungraded; the weights are pushed first."""
        self._push()
        return self.engine.generate(requests, sampling)

    def _push(self) -> None:
        if not self._fresh:
            if torch.cuda.is_available():
                # What torch keeps of the update's memory, an engine's own allocator cannot have.
                gc.collect()
                torch.cuda.empty_cache()
            self.world.watchdog.see("push weights")
            self.engine.wake()
            self.engine.load_weights(named_weights(self.policy))
            self._fresh = True

    def _generate(
        self, requests: Sequence[Request], sampling: Sampling, progress: Progress | None
    ) -> list[Completion]:
        """Generate chunk by chunk, or all at once where the engine schedules; count what is done."""
        bar = Bar(progress)
        bar.set(0, len(requests))
        # A chunk waits for its longest rollout: an engine that takes new ones meanwhile needs none.
        whole = max(1, len(requests))
        size = whole if self.engine.schedules else self.config.rollout.chunk
        return [
            completion
            for start in range(0, len(requests), size)
            for completion in self.engine.generate(
                requests[start : start + size], sampling, bar.advance
            )
        ]

    def _sample(
        self,
        prompt: TrainingPrompt,
        number: int,
        seed: int,
        *,
        completion: Completion,
        text: str,
        grade: Grade,
        policy_step: int,
    ) -> Sample:
        problem, config = prompt.problem, self.config
        return Sample(
            group=prompt.index,
            sample=number,
            benchmark=problem.benchmark,
            problem_id=problem.problem_id,
            problem=problem.statement,
            gold=problem.gold,
            prompt=prompt.prompt,
            prompt_kind=prompt.prompt_kind,
            prompt_ids=prompt.prompt_ids,
            response=text,
            response_ids=tuple(completion.ids),
            logprobs=tuple(completion.logprobs),
            finish_reason=completion.finish_reason,
            seed=seed,
            verdict=grade.verdict,
            answer=grade.answer,
            verdict_reason=grade.reason,
            policy_step=policy_step,
            reward=reward(
                grade.verdict, len(completion.ids), config.dapo, config.rollout.max_tokens
            ),
        )


def _check_lengths(completions: Sequence[Completion], sampling: Sampling) -> None:
    """Refuse responses that an engine cut for want of room: they would count as wrong ones."""
    for completion in completions:
        if completion.finish_reason == "length" and len(completion.ids) < sampling.max_tokens:
            raise GeomrlError(
                f"a response was cut after {len(completion.ids)} tokens, where {sampling.max_tokens}"
                " were asked for: the engine has no room for its prompt and that many; lower"
                " max_tokens, or raise rollout.vllm.max_model_len"
            )
