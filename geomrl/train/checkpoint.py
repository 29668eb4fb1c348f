"""Checkpoints: all that a run needs to go on as if it had never stopped.

RUN/checkpoints/step-000010 holds DeepSpeed's own state (weights, optimiser), the random state of
every rank, the trainer's counters, the carried groups, and `model/`, a plain Hugging Face folder
that `geomrl probe` reads. `complete.json`, written last, names every file with its size and hash: a
folder without it, or with a file that differs, was torn, and the one before it is taken.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geomrl.errors import GeomrlError
from geomrl.files import file_hash, read_json, read_parquet, write_json, write_parquet
from geomrl.seeds import derive_seed
from geomrl.train.batch import Sample, read_samples, samples_table
from geomrl.train.engine import DeepSpeedEngine
from geomrl.train.weights import named_weights

_COMPLETE = "complete.json"
_TAG = "state"


@dataclass
class TrainState:
    """What changes from step to step beside weights and optimiser.

    `step` training steps and `updates` optimiser updates are done; `cursor` counts the prompts
    drawn; `carried` are surplus groups for the next step.
    """

    step: int = 0
    updates: int = 0
    cursor: int = 0
    carried: list[list[Sample]] = field(default_factory=list)


def checkpoint_folder(run: Path, step: int) -> Path:
    """Return where a step's checkpoint lies."""
    return run / "checkpoints" / f"step-{step:06d}"


def save_checkpoint(
    run: Path,
    engine: DeepSpeedEngine,
    tokenizer: Any,
    state: TrainState,
    *,
    keep: int,
    tick: Callable[[str], None] = lambda point: None,
) -> Path:
    """Write a checkpoint; all ranks take part. Older ones than the newest `keep` + 1 go.

    Args:
        run: the run's folder.
        engine: what is saved.
        tokenizer: goes into the model folder.
        state: the trainer's counters.
        keep: how many checkpoints stay besides this one.
        tick: told the name of each point that is reached.
    """
    world, folder = engine.world, checkpoint_folder(run, state.step)
    if world.first and folder.exists():
        shutil.rmtree(folder)  # what a killed run left of it
    world.barrier()
    engine.raw.save_checkpoint(str(folder / "deepspeed"), tag=_TAG)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(random_state(), folder / f"random-{world.rank:05d}.pt")
    save_model(folder / "model", engine, tokenizer)
    if world.first:
        if state.carried:
            samples = [sample for group in state.carried for sample in group]
            write_parquet(folder / "carried.parquet", samples_table(samples))
        counters = {"step": state.step, "updates": state.updates, "cursor": state.cursor}
        write_json(folder / "trainer.json", {**counters, "world": world.size})
    world.barrier()
    tick("model_written")
    if world.first:
        write_json(folder / _COMPLETE, _fingerprints(folder))
        for old in _folders(run)[keep + 1 :]:
            shutil.rmtree(old)
    world.barrier()
    return folder


def save_model(folder: Path, engine: DeepSpeedEngine, tokenizer: Any) -> None:
    """Write the policy as a plain Hugging Face folder, adapters merged; all ranks take part."""
    weights = {name: tensor.cpu().clone() for name, tensor in named_weights(engine.policy)}
    if not engine.world.first:
        return
    model = engine.policy.model
    plain = _plain_model(model)
    # Tied heads are left out by name, as transformers itself does.
    plain.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)


def _plain_model(model: Any) -> Any:
    """Return an empty model of the same configuration: adapters and partitions stay out of it."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype)
    plain.generation_config = model.generation_config
    return plain


def load_checkpoint(run: Path, engine: DeepSpeedEngine) -> TrainState | None:
    """Restore the newest whole checkpoint; None where there is none. All ranks take part.

    Raises:
        GeomrlError: it was made with another number of ranks.
    """
    world = engine.world
    # Rank 0 alone reads what is whole, so that all ranks take the same one.
    folder = world.gather(newest_checkpoint(run) if world.first else None)[0]
    if folder is None:
        return None
    counters = read_json(folder / "trainer.json")
    if counters.pop("world") != world.size:
        raise GeomrlError(
            f"{folder}: made with another number of ranks than {world.size}; its optimiser is split "
            "over them, so start with as many"
        )
    loaded, _ = engine.raw.load_checkpoint(str(folder / "deepspeed"), tag=_TAG)
    if loaded is None:
        raise GeomrlError(
            f"{folder}: DeepSpeed cannot read its part; delete this folder to go back"
        )
    state = TrainState(**counters, carried=_carried(folder))
    saved = torch.load(folder / f"random-{world.rank:05d}.pt", weights_only=False)
    set_random_state(saved)
    return state


def newest_checkpoint(run: Path) -> Path | None:
    """Return the newest checkpoint that is whole, passing over torn ones."""
    return next((folder for folder in _folders(run) if is_whole(folder)), None)


def is_whole(folder: Path) -> bool:
    """Say whether every file of a checkpoint is there as it was written."""
    record = folder / _COMPLETE
    if not record.exists():
        return False
    try:
        files: Mapping[str, Any] = read_json(record)
    except GeomrlError:  # the record itself is torn
        return False
    return all(
        (path := folder / name).exists()
        and path.stat().st_size == known["bytes"]
        and file_hash(path) == known["hash"]
        for name, known in files.items()
    )


def forget_later(run: Path, step: int) -> None:
    """Delete what a run wrote after `step`: it is made again, to the bit."""
    for pattern in ("rollouts/step-*.parquet", "eval/step-*", "checkpoints/step-*"):
        for path in run.glob(pattern):
            if int(path.name.removeprefix("step-")[:6]) > step:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _folders(run: Path) -> list[Path]:
    """Return all checkpoint folders, newest first, torn ones among them."""
    return sorted((run / "checkpoints").glob("step-*"), reverse=True)


def _fingerprints(folder: Path) -> dict[str, dict[str, Any]]:
    """Return every file's size and hash, after making sure that it is on the disk."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != _COMPLETE):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        name = path.relative_to(folder).as_posix()
        found[name] = {"bytes": path.stat().st_size, "hash": file_hash(path)}
    return found


def _carried(folder: Path) -> list[list[Sample]]:
    path = folder / "carried.parquet"
    if not path.exists():
        return []
    groups: dict[int, list[Sample]] = {}
    for sample in read_samples(read_parquet(path)):
        groups.setdefault(sample.group, []).append(sample)
    return list(groups.values())


def random_state() -> dict[str, Any]:
    """Return the state of every global generator of this process."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }


def seed_generators(seed: int, rank: int) -> None:
    """Seed every global generator of this process, for libraries that draw from one."""
    drawn = derive_seed(seed, "global generators", rank)
    torch.manual_seed(drawn)
    np.random.seed(drawn % 2**32)
    random.seed(drawn)


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
