"""What checkpoints and arms cost: memory of a rank, room on the disk, and what is given back."""

import json
import shutil
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from tiny import byte_level_tokenizer
from training import build_policy, run_script, tensor_bytes

from geomrl.errors import GeomrlError
from geomrl.train import checkpoint
from geomrl.train.checkpoint import TrainState, save_checkpoint, save_model
from geomrl.train.world import World

CPU = torch.device("cpu")


def engine(rank, size, policy):
    """What a save asks of an engine, without its ranks: nothing here is partitioned."""
    return SimpleNamespace(world=World(rank, size, CPU), policy=policy, raw=Raw())


class Raw:
    def zero_optimization_stage(self):
        return 2

    def save_checkpoint(self, folder, tag):
        raise AssertionError("nothing is to be written")


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_rank_that_writes_a_model_holds_it(rank, tmp_path, monkeypatch):
    policy, real, held = build_policy(), checkpoint.named_weights, []

    def watched(policy):
        for name, weight in real(policy):
            yield name, weight
            seen.append(name)
        held.append(tensor_bytes() - before)

    seen, sizes = [], [weight.nbytes for weight in policy.parameters()]
    monkeypatch.setattr(checkpoint, "named_weights", watched)
    before = tensor_bytes()
    save_model(tmp_path / "model", engine(rank, 2, policy), byte_level_tokenizer())
    assert len(seen) == len(sizes)  # all ranks take part, which gathering needs
    if rank == 0:
        assert held[0] >= sum(sizes)
        assert (tmp_path / "model" / "model.safetensors").exists()
    else:
        assert held[0] <= max(sizes)
        assert not (tmp_path / "model").exists()


def test_without_room_for_it_no_checkpoint_is_begun(tmp_path, monkeypatch):
    policy = build_policy()
    weights = sum(weight.numel() for weight in policy.parameters())
    needed = weights * (4 + 4 + 12)  # for DeepSpeed, as a plain model, Adam's moments and master
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, needed - 1))
    with pytest.raises(GeomrlError, match=r"a checkpoint takes about .* free"):
        save_checkpoint(tmp_path, engine(0, 1, policy), None, TrainState(step=3), keep=1)
    assert not list((tmp_path / "checkpoints").iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, needed))
    with pytest.raises(AssertionError):
        save_checkpoint(tmp_path, engine(0, 1, policy), None, TrainState(step=3), keep=1)


@pytest.mark.slow
def test_trainings_in_one_process_leave_no_policy_behind(tmp_path):
    run_script("arms_in_memory.py", tmp_path)
    found = json.loads((tmp_path / "alive.json").read_text())
    assert len(found) == 2
    for policies, elements in found:
        assert policies == 0
        assert elements < 50_000  # the policy has 139,000 weights
