"""A rank of tests/train/test_train_loop.py: trainings under ZeRO, each also resumed."""

import shutil
import sys
from pathlib import Path

import torch
from loop_runs import SMALL, SMOKE

from geomrl.train.checkpoint import checkpoint_folder
from geomrl.train.config import load_config
from geomrl.train.trainer import train
from geomrl.train.world import join_world

STEPS = 3
CASES = {
    "zero 2": ["deepspeed.zero=2", "dapo.updates_per_rollout=2"],
    "zero 3, lora": ["deepspeed.zero=3", "model.lora.rank=4", "model.lora.targets=[q_proj]"],
}
SETTINGS = [
    *SMALL, f"steps={STEPS}", "data.limit=12", "data.prompts_per_step=2",
    "rollout.mismatch_stop=0.01", "optimiser.lr=0.001", "checkpoint.every=2",
]  # fmt: skip


def cut(run):
    """Make of a finished run one that was killed in its last step."""
    shutil.rmtree(checkpoint_folder(run, STEPS))
    shutil.rmtree(run / "model")


def main(folder, world):
    for name, settings in CASES.items():
        config = load_config(SMOKE, [*SETTINGS, *settings])
        whole, resumed = (folder / f"{name}, {what}" for what in ("whole", "resumed"))
        train(config, whole, show=False)
        if world.first:
            shutil.copytree(whole, resumed)
            cut(resumed)
        world.barrier()
        train(config, resumed, resume=True, show=False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with join_world() as world:  # around all: DeepSpeed keeps the process group of the first
        main(Path(sys.argv[1]), world)
