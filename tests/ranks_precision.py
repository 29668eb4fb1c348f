"""A rank of tests/train/test_precision.py: bfloat16 policies under ZeRO 1 to 3, and one process group."""

import sys
from pathlib import Path

import torch
from training import PlainEngine, build_batch, build_config, build_policy, build_samples

from geomrl.train.deepspeed_engine import DeepSpeedEngine
from geomrl.train.update import optimiser_step
from geomrl.train.world import join_world

STAGES = (1, 2, 3)
GROUPS = 16
RATE = 1e-2


def build_case(zero, tokens):
    return build_config(
        model={"dtype": "bfloat16"},
        data={"prompts_per_step": GROUPS},
        micro_batch={"tokens": tokens, "keep_groups": False},
        deepspeed={"zero": zero},
        optimiser={"lr": RATE},
    )


def build_update(config, seed, groups=GROUPS):
    return build_batch(build_samples(n_groups=groups, seed=seed), config, seed=seed)


def one_by_one(zero):
    """One rollout a micro-batch: what a sum in bfloat16 loses, it loses once for each of them."""
    return build_case(zero, tokens=20)


def sgd(weights):
    return torch.optim.SGD(weights, lr=1.0)


def master_weights(policy):
    from deepspeed.utils import safe_get_full_fp32_param

    return torch.cat([safe_get_full_fp32_param(w).flatten() for w in policy.parameters()])


class WideSum(PlainEngine):
    """The same bfloat16 micro-batches, whose gradients are added up in float64."""

    def __init__(self, policy, world):
        super().__init__(policy, world)
        self.total = {}

    def backward(self, loss):
        loss.backward()
        for name, weight in self.policy.named_parameters():
            if weight.grad is not None:
                self.total[name] = self.total.get(name, 0) + weight.grad.double()
        self.policy.zero_grad()

    def step(self, learning_rate):
        return 0.0


def wide_gradient(world):
    """An update's gradient, flat, from micro-batches in bfloat16 and sums in float64."""
    config = one_by_one(2)
    engine = WideSum(build_policy(torch.bfloat16), world)
    optimiser_step(engine, None, build_update(config, seed=1), config, learning_rate=1.0)
    total = torch.cat([grad.flatten() for grad in engine.total.values()])
    torch.distributed.all_reduce(total)
    return total


def deepspeed_gradient(world, zero):
    """DeepSpeed's gradient of the same update: what one step of SGD with rate 1 takes away."""
    config = one_by_one(zero)
    policy = build_policy(torch.bfloat16)
    engine = DeepSpeedEngine(policy, config, world, optimiser=sgd)
    before = master_weights(policy)
    optimiser_step(engine, None, build_update(config, seed=1), config, learning_rate=1.0)
    return (before - master_weights(policy)).double()


def resumed(world, zero, folder):
    """Weights after three updates at once, and after two, a checkpoint and the third."""
    config = build_case(zero, tokens=400)

    def update(engine, seed):
        optimiser_step(
            engine, None, build_update(config, seed, groups=4), config, learning_rate=RATE
        )

    engine = DeepSpeedEngine(build_policy(torch.bfloat16), config, world)
    for seed in (1, 2):
        update(engine, seed)
    engine.raw.save_checkpoint(str(folder), tag="state")
    update(engine, 3)
    again = DeepSpeedEngine(build_policy(torch.bfloat16, seed=9), config, world)
    again.raw.load_checkpoint(str(folder), tag="state")
    update(again, 3)
    return master_weights(engine.policy), master_weights(again.policy)


def patience():
    """How long DeepSpeed's own process group waits."""
    from deepspeed.utils import groups

    group = groups._get_data_parallel_group()
    return group._get_backend(torch.device("cpu")).options._timeout.total_seconds()


def main(folder, world):
    found = {"wide": wide_gradient(world), "gradient": {}, "resumed": {}}
    for zero in STAGES:
        found["gradient"][zero] = deepspeed_gradient(world, zero)
        found["resumed"][zero] = resumed(world, zero, folder / f"zero-{zero}")
    found["patience"] = patience()
    if world.first:
        torch.save(found, folder / "found.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with join_world() as world:
        main(Path(sys.argv[1]), world)
