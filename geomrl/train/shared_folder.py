"""Ranks on several machines need one folder: whether they all see it, and what the others wrote."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from geomrl.errors import GeomrlError
from geomrl.train.world import World

PATIENCE = 20.0
"""Seconds in which a file must have appeared: for so long NFS may show a folder as it was before."""


def require_shared(run: Path, world: World) -> None:
    """Make the run's folder, and check that every rank sees what rank 0 writes there.

    Raises:
        GeomrlError: one does not; it is raised on all ranks.
    """
    if world.size == 1:
        run.mkdir(parents=True, exist_ok=True)
        return
    token = run / world.gather(f".shared-{uuid.uuid4().hex}")[0]
    if world.first:
        run.mkdir(parents=True, exist_ok=True)
        token.touch()
    world.barrier()
    seen = world.gather((appears(token), f"{run.resolve()} on {socket.gethostname()}"))
    if world.first:
        token.unlink()
    blind = [f"rank {rank} ({place})" for rank, (there, place) in enumerate(seen) if not there]
    if blind:
        raise GeomrlError(
            f"{run}: what rank 0 ({seen[0][1]}) writes there is not seen by {', '.join(blind)}; give"
            " --out a folder that all machines share, under the same path"
        )


def require_seen(folder: Path, sizes: Mapping[str, int], rank: int) -> None:
    """Check on rank 0 that it sees the files that another rank says it wrote.

    Args:
        folder: where they lie.
        sizes: bytes by name.
        rank: who wrote them.

    Raises:
        GeomrlError: one is missing or has another size.
    """
    for name, size in sizes.items():
        if not appears(folder / name, size):
            raise GeomrlError(
                f"{folder / name}: rank {rank} wrote it ({size} bytes), but rank 0 does not see it"
                " so, and the checkpoint would be useless: --out must be one folder for all"
                " machines. Earlier checkpoints are kept"
            )


def appears(path: Path, size: int | None = None) -> bool:
    """Wait for a file, of `size` bytes where given; return whether it appeared in time."""
    until = time.monotonic() + PATIENCE
    wait = 0.05
    while True:
        list(path.parent.iterdir()) if path.parent.is_dir() else []  # NFS asks the server anew
        if path.exists() and size in (None, path.stat().st_size):
            return True
        if time.monotonic() > until:
            return False
        time.sleep(wait)
        wait = min(2 * wait, 2.0)
