"""Random models of Qwen3's shapes, and rollouts of random tokens for them, in the sizes of real ones."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from geomrl.seeds import derive_rng, derive_seed
from geomrl.train.advantage import group_advantages
from geomrl.train.batch import Sample, with_advantages
from geomrl.train.passes import score

NOISE = 0.25  # nats; clips about a sixth of the tokens
ANSWER = " \\boxed{7}"


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How many rollouts there are, and of how many tokens."""

    problems: int
    samples: int
    prompt: tuple[int, int]  # drawn uniformly, the second excluded
    response: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model's shape and what is run on it."""

    config: dict
    checkpointing: bool  # of activations, in training
    probed: Lengths
    compared: Lengths  # in two number formats
    trained: Lengths
    micro_tokens: int
    rows: tuple[int, ...]  # micro-batches that TRL is tried with, in rows
    rounds: dict = field(default_factory=lambda: {"probe": 10, "update": 20, "trl": 6})


def _qwen3(hidden, intermediate):
    return {
        "vocab_size": 151936, "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 128, "tie_word_embeddings": True, "max_position_embeddings": 40960,
    }  # fmt: skip


_REAL = {
    "probed": Lengths(problems=32, samples=8, prompt=(64, 192), response=(256, 1280)),
    "compared": Lengths(problems=8, samples=8, prompt=(64, 192), response=(256, 1280)),
    # 16 x (96 + 928) tokens on average: 16,384.
    "trained": Lengths(problems=2, samples=8, prompt=(96, 97), response=(512, 1345)),
    "micro_tokens": 16384,
    "rows": (16, 8, 4),
}
_TINY = Lengths(problems=2, samples=4, prompt=(6, 12), response=(16, 48))
SHAPES = {
    "0.6B": Shape(config=_qwen3(1024, 3072), checkpointing=False, **_REAL),
    # Without checkpoints 16k tokens of activations would fill an 80 GB card.
    "1.7B": Shape(config=_qwen3(2048, 6144), checkpointing=True, **_REAL),
    "tiny": Shape(
        config={
            "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 16, "tie_word_embeddings": True, "max_position_embeddings": 512,
        },
        checkpointing=True, probed=_TINY, compared=_TINY, trained=_TINY, micro_tokens=512,
        rows=(4,), rounds={"probe": 2, "update": 6, "trl": 2},
    ),
}  # fmt: skip


def random_model(shape: Shape, device, dtype=torch.float32, seed=0):
    """Return a model of random weights; they are drawn in float32, and those of one device only."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = Qwen3ForCausalLM(Qwen3Config(**shape.config, pad_token_id=0))
    return cast_weights(model, dtype).eval()


def cast_weights(model, dtype):
    """Cast a model's weights alone, as loading does: rotary frequencies stay in float32."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return model


def random_rollouts(lengths: Lengths, tokenizer, vocabulary: int, seed=0) -> list[Sample]:
    """Return rollouts of random tokens that end with a boxed answer, half of them correct.

    The tokens are ids that the tokenizer does not have, so that none ends a turn or opens a box.
    """
    draw = derive_rng(seed, "random rollouts")
    answer = tokenizer(ANSWER, add_special_tokens=False)["input_ids"]
    samples = []
    for group in range(lengths.problems):
        prompt = _tokens(draw, lengths.prompt, len(tokenizer), vocabulary)
        for number in range(lengths.samples):
            response = _tokens(draw, lengths.response, len(tokenizer), vocabulary)
            response = (*response[: len(response) - len(answer)], *answer)
            correct = number % 2 == 0
            samples.append(
                Sample(
                    group=group, sample=number, benchmark="random", problem_id=str(group),
                    problem="", gold="7", prompt="", prompt_kind="raw", prompt_ids=prompt,
                    response=ANSWER, response_ids=response, logprobs=(0.0,) * len(response),
                    finish_reason="stop", seed=derive_seed(seed, group, number),
                    verdict="correct" if correct else "wrong", answer="7", verdict_reason=None,
                    policy_step=1, reward=1.0 if correct else -1.0,
                )
            )  # fmt: skip
    rewards = torch.tensor([sample.reward for sample in samples], dtype=torch.float64)
    groups = torch.tensor([sample.group for sample in samples])
    return with_advantages(samples, group_advantages(rewards, groups, std=True).tolist())


def _tokens(draw: np.random.Generator, between, first, last) -> tuple[int, ...]:
    return tuple(draw.integers(first, last, int(draw.integers(*between))).tolist())


def rollout_columns(samples: list[Sample]) -> pd.DataFrame:
    """Return the columns of a rollout table that reading states needs."""
    return pd.DataFrame(
        {
            "rollout_id": [f"{s.problem_id}/{s.sample}" for s in samples],
            "prompt_ids": [list(s.prompt_ids) for s in samples],
            "response_ids": [list(s.response_ids) for s in samples],
            "answer": [s.answer for s in samples],
        }
    )


def perturbed(runner, samples: list[Sample], budget: int, seed=0) -> list[torch.Tensor]:
    """Return old log-probabilities: the policy's own plus noise, so that some tokens are clipped."""
    own, _ = score(runner, samples, budget=budget)
    draw = torch.Generator().manual_seed(seed)
    return [x.double() + NOISE * torch.randn(len(x), generator=draw).double() for x in own]
