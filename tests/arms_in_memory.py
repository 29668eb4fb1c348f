"""Train one arm after another in a process, and write how many policies are alive after each."""

import gc
import json
import sys
import warnings
from pathlib import Path

import torch

from geomrl.train.config import load_config
from geomrl.train.policy import Policy
from geomrl.train.trainer import train
from geomrl.train.world import join_world

CONFIG = Path(__file__).parents[1] / "configs" / "smoke.yaml"
SETTINGS = ["steps=1", "evaluation=null", "data.prompts_per_step=2", "dapo.updates_per_rollout=1"]


def alive():
    """Policies and elements of tensors that this process cannot give back."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = gc.get_objects()
        policies = sum(isinstance(thing, Policy) for thing in found)
        elements = sum(thing.numel() for thing in found if isinstance(thing, torch.Tensor))
    return policies, elements


def main(folder):
    torch.set_num_threads(1)
    found = []
    with join_world():
        for zero in (1, 2):
            run = folder / f"arm-{len(found)}"
            train(load_config(CONFIG, [*SETTINGS, f"deepspeed.zero={zero}"]), run, show=False)
            found.append(alive())
    (folder / "alive.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
