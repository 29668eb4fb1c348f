"""A rank of tests/train/test_gradients.py: every loss under every split, in float64; saves gradients."""

import sys
from pathlib import Path

import torch
from training import (
    PlainEngine,
    build_batch,
    build_config,
    build_policy,
    build_samples,
    flat_gradient,
    plain_extractor,
)

from geomrl.train.alignment import GROUP_LOCAL, KINDS
from geomrl.train.update import optimiser_step
from geomrl.train.world import join_world

LONGEST = 20  # prompt and response
WEIGHT = 0.7
OWN = f"{Path(__file__).parent / 'toy_loss.py'}:push_apart"


def cases():
    """(name, configuration sections) of everything that must give the reference's gradient."""
    found = {}
    for kind in KINDS:
        for rows in (1, 2, 4):
            found[f"{kind}/{rows} rows"] = (
                {"kind": kind, "layers": ["2", "final"]},
                {"tokens": rows * LONGEST, "keep_groups": False},
            )
    for kind in sorted(GROUP_LOCAL):
        found[f"{kind}/whole groups"] = (
            {"kind": kind, "table": "groups"},
            {"tokens": 4 * LONGEST, "keep_groups": True},
        )
        found[f"{kind}/some groups cut"] = (
            {"kind": kind, "layers": ["2", "final"]},
            {"tokens": 4 * (LONGEST - 1), "keep_groups": True},
        )
    found["own/2 rows"] = (
        {"kind": OWN, "layers": ["2", "final"]},
        {"tokens": 2 * LONGEST, "keep_groups": False},
    )
    found["own/whole groups"] = ({"kind": OWN}, {"tokens": 4 * LONGEST, "keep_groups": True})
    for arm in ("wrong", "shuffled_correct", "shuffled_groups"):
        found[f"{arm}/4 rows"] = ({"rollouts": arm}, {"tokens": 4 * LONGEST, "keep_groups": True})
    found["no eligible group"] = ({"rollouts": "correct"}, {"tokens": 2 * LONGEST})
    return found


def build_case(name):
    alignment, micro_batch = cases()[name]
    config = build_config(alignment=alignment, micro_batch=micro_batch)
    samples = build_samples()
    if name == "no eligible group":
        samples = [s for s in samples if s.group == 3]
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(1)).tolist()
    return config, build_batch([samples[i] for i in order], config)


def gradients(world):
    found = {}
    for name in cases():
        config, batch = build_case(name)
        policy = build_policy(torch.float64)
        engine = PlainEngine(policy, world)
        result = optimiser_step(
            engine, plain_extractor(engine), batch, config, learning_rate=0.0, weight=WEIGHT
        )
        found[name] = (flat_gradient(policy), result.metrics)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    with join_world() as world:
        found = gradients(world)
        if world.first:
            torch.save(found, Path(sys.argv[1]))
