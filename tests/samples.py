"""A sample of the training loop."""

import dataclasses

from geomrl.train.batch import Sample


def build_sample(group=0, verdict="correct", **overrides):
    sample = Sample(
        group=group,
        sample=0,
        benchmark="train",
        problem_id=f"train-{group}",
        problem="What is 1?",
        gold="1",
        prompt="What is 1?",
        prompt_kind="raw",
        prompt_ids=(5, 6, 7),
        response="\\boxed{1}",
        response_ids=(8, 9, 2),
        logprobs=(-0.5, -0.25, 0.0),
        finish_reason="stop",
        seed=3,
        verdict=verdict,
        answer="1",
        verdict_reason=None,
        policy_step=1,
        reward=1.0,
    )
    return dataclasses.replace(sample, **overrides)
