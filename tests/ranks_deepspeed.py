"""A rank of tests/train/test_deepspeed.py: three SGD steps under every ZeRO stage; saves weights."""

import gc
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from tiny import byte_level_tokenizer
from training import (
    build_batch,
    build_config,
    build_policy,
    build_samples,
    plain_extractor,
    tensor_bytes,
)

from geomrl.train import checkpoint
from geomrl.train.deepspeed_engine import DeepSpeedEngine
from geomrl.train.update import optimiser_step
from geomrl.train.weights import named_weights
from geomrl.train.world import join_world

STEPS = 3
RATE = 0.05
WEIGHT = 0.7


def cases():
    return {
        f"zero {zero}, {'checkpointed' if checkpointing else 'plain'}": (zero, checkpointing)
        for zero in (0, 1, 2, 3)
        for checkpointing in (False, True)
    }


def build_step(step, config):
    """A ragged mini-batch a step; in the second, only one short group, kept whole, is eligible."""
    samples = build_samples(n_groups=4, seed=step, shortest=24 if step == 1 else 8, longest=40)
    if step == 1:
        samples = [_shortened(s) if s.group == 0 else _hardly_right(s) for s in samples]
    return build_batch(samples, config, seed=step)


def _shortened(sample):
    return replace(sample, response_ids=sample.response_ids[:9], logprobs=sample.logprobs[:9])


def _hardly_right(sample):
    return replace(sample, verdict="correct" if sample.sample == 0 else "wrong")


def build_case(zero):
    return build_config(
        alignment={"layers": ["2", "final"], "table": "refresh"},
        micro_batch={"tokens": 90, "keep_groups": True},
        deepspeed={"zero": zero},
    )


def sgd(weights):
    return torch.optim.SGD(weights, lr=RATE)


def train(world, zero, checkpointing):
    config = build_case(zero)
    policy = build_policy(checkpointing=checkpointing)
    engine = DeepSpeedEngine(policy, config, world, optimiser=sgd)
    extractor = plain_extractor(engine)
    norms, weights = [], []
    for step in range(STEPS):
        result = optimiser_step(
            engine, extractor, build_step(step, config), config,
            learning_rate=RATE, weight=WEIGHT,
        )  # fmt: skip
        norms.append(result.metrics["grad_norm"])
        weights.append({k: v.clone() for k, v in named_weights(policy)})
    return {"norms": norms, "weights": weights, "saving": growth_of_a_save(engine)}


def growth_of_a_save(engine):
    """By rank, the most bytes of tensors that saving the model adds; and those of weights."""

    def watched(policy):
        for name, weight in named_weights(policy):
            held.append(tensor_bytes() - before)
            yield name, weight
            sizes[name] = weight.nbytes

    gc.collect()  # what an earlier case left would else be freed on the way, and be counted as less
    held, sizes, before = [], {}, tensor_bytes()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(checkpoint, "named_weights", watched),
    ):
        checkpoint.write_model(Path(folder), engine, byte_level_tokenizer())
    return {
        "held": engine.world.gather(max(held)),
        "layer": sum(size for name, size in sizes.items() if ".layers.0." in name),
        "all": sum(sizes.values()) - max(sizes.values()),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    gc.freeze()  # counting tensors would else walk all that the imports made, at every weight
    with join_world() as world:
        found = {name: train(world, *case) for name, case in cases().items()}
        if world.first:
            torch.save(found, Path(sys.argv[1]))
