"""A rank of tests/train/test_weight_zero.py: ten steps with the alignment's weight 0, and without it."""

import sys
from pathlib import Path

import torch
from training import build_batch, build_config, build_policy, build_samples, plain_extractor

from geomrl.train.checkpoint import random_state
from geomrl.train.deepspeed_engine import DeepSpeedEngine
from geomrl.train.update import optimiser_step
from geomrl.train.world import join_world

STEPS = 10


def train(world, zero, alignment):
    config = build_config(
        alignment=alignment,
        micro_batch={"tokens": 90},
        optimiser={"lr": 1e-2, "clip_norm": 0.5, "weight_decay": 0.1},
        deepspeed={"zero": zero},
    )
    torch.manual_seed(0)
    engine = DeepSpeedEngine(build_policy(), config, world)
    extractor = plain_extractor(engine) if alignment is not None else None
    gauged = []
    for step in range(STEPS):
        samples = build_samples(seed=step, shortest=8, longest=40)
        batch = build_batch(samples, config, seed=step)
        weight = alignment["weight"] if alignment else 0.0
        result = optimiser_step(engine, extractor, batch, config, learning_rate=1e-2, weight=weight)
        gauged.append(result.metrics.get("loss/align"))
    moments = engine.raw.optimizer.state_dict()
    return {
        "weights": {k: v.detach().clone() for k, v in engine.policy.named_parameters()},
        "moments": _tensors(moments),
        "random": random_state()["torch"],
        "gauged": gauged,
    }


def _tensors(value):
    """Every tensor in nested containers, in order."""
    if isinstance(value, torch.Tensor):
        return [value.detach().clone()]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in _tensors(v)] if isinstance(value, list | tuple) else []


if __name__ == "__main__":
    torch.set_num_threads(1)
    settings = {"none": None, "zero": {"weight": 0.0}, "some": {"weight": 0.5}}
    with join_world() as world:
        found = {
            (zero, name): train(world, zero, alignment)
            for zero in (0, 2)
            for name, alignment in settings.items()
        }
        torch.save(found, Path(sys.argv[1]) / f"rank{world.rank}.pt")
