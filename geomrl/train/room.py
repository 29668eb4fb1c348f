"""Whether a run fits where it is started: its memory beside the GPU's or the host's, and the disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from geomrl.errors import GeomrlError
from geomrl.train.memory import GIGA, Disk, Memory

_CURE = "activation checkpointing, a higher ZeRO stage, more ranks or smaller micro-batches"


def memory_notes(
    memory: Memory,
    *,
    gpu: float | None,
    host: float,
    ranks_here: int,
    offloaded: float = 0.0,
) -> list[str]:
    """Return a line for each phase that may not fit; an estimate warns, and refuses nothing.

    Args:
        memory: of one rank.
        gpu: bytes of a rank's GPU; None where there is none.
        host: bytes of this machine's memory that are available.
        ranks_here: ranks on this machine.
        offloaded: bytes of Adam's states in the host's memory, all ranks' here together.
    """
    if gpu is None:
        needed = memory.peak * ranks_here + offloaded
        if needed <= host:
            return []
        return [
            f"note: {ranks_here} rank(s) may need {_gb(needed)} GB of memory, and this machine has no"
            f" GPU and {_gb(host)} GB available: use {_CURE}"
        ]
    phases = {
        "an update": memory.updating + memory.share_kept * gpu,
        "generation": memory.generating + memory.share * gpu,
    }
    cures = {"an update": _CURE, "generation": "a smaller rollout.chunk or gpu_memory_utilization"}
    notes = [
        f"note: {phase} may need {_gb(needed)} GB, and this GPU has {_gb(gpu)} GB: use {cures[phase]}"
        for phase, needed in phases.items()
        if needed > gpu
    ]
    if offloaded > host:
        notes.append(
            f"note: Adam's offloaded states take {_gb(offloaded)} GB of this machine's memory, of which"
            f" {_gb(host)} GB are available: use more machines"
        )
    return notes


def ranks_here(world_size: int) -> int:
    """Return how many of the ranks run on this machine; all of them where no launcher says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size))


def free_bytes(run: Path) -> tuple[int, int]:
    """Return (bytes free on the disk of a folder, made or not, and bytes that its checkpoints take)."""
    there = run.absolute()
    while not there.exists():
        there = there.parent
    held = sum(p.stat().st_size for p in (run / "checkpoints").rglob("*") if p.is_file())
    return shutil.disk_usage(there).free, held


def disk_notes(sizes: Disk, run: Path) -> list[str]:
    """Return what the disk of the run's folder lacks."""
    free, held = free_bytes(run)
    if sizes.peak <= free + held:
        return []
    return [
        f"note: the run may need {_gb(sizes.peak)} GB of disk, and {run} has {_gb(free + held)} GB: lower"
        " checkpoint.keep, set checkpoint.model=false, or give another --out"
    ]


def require_disk(sizes: Disk, run: Path) -> None:
    """Refuse to start where not even one checkpoint fits.

    Raises:
        GeomrlError: so.
    """
    free, held = free_bytes(run)
    if sizes.checkpoint > free + held:
        raise GeomrlError(
            f"{run}: a checkpoint takes about {_gb(sizes.checkpoint)} GB, and the disk has {_gb(free)} GB"
            " free, so none could be written: free some space, or give another --out"
        )


def _gb(value: float) -> str:
    return f"{value / GIGA:,.1f}"
