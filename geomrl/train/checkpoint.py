"""Checkpoints: all that a run needs to resume as if it had never stopped.

RUN/checkpoints/step-000010 contains DeepSpeed's own state (weights, optimiser), the random state of
every rank, the trainer's counters, the carried groups, and `model/`, a plain Hugging Face folder
that `geomrl probe` reads and no training needs. `complete.json` is written last (`fingerprints`).
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geomrl.errors import GeomrlError
from geomrl.files import disk_errors, read_json, read_parquet, write_json, write_parquet
from geomrl.seeds import derive_seed
from geomrl.train import memory
from geomrl.train.batch import Sample, read_samples, samples_table
from geomrl.train.deepspeed_engine import DeepSpeedEngine, numel
from geomrl.train.fingerprints import (
    COMPLETE,
    damage,
    everything,
    fingerprints,
    for_training,
    random_file,
)
from geomrl.train.shared_folder import require_seen
from geomrl.train.weights import named_weights

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


def checkpoints(run: Path) -> list[Path]:
    """Return all checkpoint folders, newest first, torn ones among them."""
    found = [path for path in (run / "checkpoints").glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """Return a checkpoint's step."""
    return int(checkpoint.name.removeprefix("step-"))


def save_checkpoint(
    run: Path,
    engine: DeepSpeedEngine,
    tokenizer: Any,
    state: TrainState,
    *,
    keep: int,
    model: bool = True,
    tick: Callable[[str], None] = lambda point: None,
) -> Path:
    """Write a checkpoint; all ranks take part. Older ones than the newest `keep` + 1 go.

    Args:
        run: the run's folder.
        engine: what is saved.
        tokenizer: goes into the model folder.
        state: the trainer's counters.
        keep: how many checkpoints stay besides this one.
        model: whether the plain Hugging Face folder is written too.
        tick: called with the name of each point that is reached.

    Raises:
        GeomrlError: the disk has no room for it, or rank 0 does not see what another rank wrote. The
            checkpoints before it stay.
    """
    world, folder = engine.world, checkpoint_folder(run, state.step)
    world.first_does(lambda: _make_room(folder, checkpoint_bytes(engine, model=model)))
    with disk_errors(folder):
        engine.raw.save_checkpoint(str(folder / "deepspeed"), tag=_TAG)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(random_state(), folder / random_file(world.rank))
        if model:
            write_model(folder / "model", engine, tokenizer)
    if world.first:
        if state.carried:
            samples = [sample for group in state.carried for sample in group]
            write_parquet(folder / "carried.parquet", samples_table(samples))
        counters = {"step": state.step, "updates": state.updates, "cursor": state.cursor}
        write_json(folder / "trainer.json", {**counters, "world": world.size})
    world.barrier()
    tick("model_written")
    written = world.gather(fingerprints(folder, world.rank))
    world.first_does(lambda: _complete(folder, written))
    if world.first:
        for old in checkpoints(run)[keep + 1 :]:
            shutil.rmtree(old)
    world.barrier()
    return folder


def _make_room(folder: Path, needed: int) -> None:
    """Remove what a killed run left of a checkpoint, and check that the disk can take it."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        folder.rmdir()
        raise GeomrlError(
            f"{folder}: a checkpoint takes about {needed / 1e9:.1f} GB, and the disk has"
            f" {free / 1e9:.1f} GB free; the checkpoints before it are whole. Free some space (or lower"
            " checkpoint.keep, or set checkpoint.model=false) and go on with --resume"
        )


def checkpoint_bytes(engine: DeepSpeedEngine, *, model: bool) -> int:
    """Return about how many bytes a checkpoint of the engine's takes (`memory.checkpoint_bytes`)."""
    weights = list(engine.policy.parameters())
    return int(
        memory.checkpoint_bytes(
            sum(map(numel, weights)),
            sum(numel(weight) for weight in weights if weight.requires_grad),
            number=weights[0].element_size(),
            zero=engine.raw.zero_optimization_stage(),
            model=model,
        )
    )


def _complete(folder: Path, written: list[dict[str, dict[str, Any]]]) -> None:
    """Write the record of all ranks' files, if rank 0 sees them all."""
    for rank, files in enumerate(written):
        require_seen(folder, {name: known["bytes"] for name, known in files.items()}, rank)
    merged = {name: known for files in written for name, known in files.items()}
    write_json(folder / COMPLETE, dict(sorted(merged.items())))


def save_model(folder: Path, engine: DeepSpeedEngine, tokenizer: Any) -> None:
    """Write the policy as a plain Hugging Face folder, whole or not at all; all ranks take part.

    Raises:
        GeomrlError: the disk is full. What was in the folder stays.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with disk_errors(folder):
        write_model(partial, engine, tokenizer)
    if engine.world.first:
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)


def write_model(folder: Path, engine: DeepSpeedEngine, tokenizer: Any) -> None:
    """Write the policy into a new plain Hugging Face folder, adapters merged; all ranks take part.

    Gathering partitioned weights needs all ranks, but rank 0 alone keeps and writes them.
    """
    first = engine.world.first
    weights = {}
    for name, tensor in named_weights(engine.policy):
        if first:
            weights[name] = tensor.to("cpu", copy=True)
    if not first:
        return
    # Tied heads are left out by name, as transformers itself does.
    _plain_model(engine.policy.model).save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)


def _plain_model(model: Any) -> Any:
    """Return an empty model of the same configuration: adapters and partitions stay out of it."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype)
    plain.generation_config = model.generation_config
    return plain


def load_checkpoint(folder: Path, engine: DeepSpeedEngine) -> TrainState:
    """Restore a checkpoint that is whole; all ranks take part.

    Raises:
        GeomrlError: it was made with another number of ranks, or DeepSpeed cannot read its part.
    """
    world = engine.world
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
    set_random_state(torch.load(folder / random_file(world.rank), weights_only=False))
    return state


def newest_checkpoint(run: Path) -> Path | None:
    """Return the newest checkpoint that a training can resume from; None where there is none."""
    return next((f for f in checkpoints(run) if damage(f, for_training) is None), None)


def is_whole(folder: Path) -> bool:
    """Say whether every file of a checkpoint is there as it was written."""
    return damage(folder, everything) is None


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
