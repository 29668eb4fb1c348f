"""The ranks of a training job, and what they exchange besides gradients."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from geomrl.errors import GeomrlError
from geomrl.train.watchdog import Watchdog

T = TypeVar("T")
PATIENCE = timedelta(hours=2)
"""How long a rank waits for the others: one may generate far longer than another."""


@dataclass(frozen=True)
class World:
    """This process's place among `size` ranks.

    `objects` is the group that carries Python objects; `watchdog` knows when the others are waited for.
    """

    rank: int
    size: int
    device: torch.device
    _: KW_ONLY
    objects: Any = field(default=None, repr=False)
    watchdog: Watchdog = field(default_factory=Watchdog, repr=False, compare=False)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes shared files and prints."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, in the order of the ranks, on all ranks."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with self.watchdog.waiting():
            dist.all_gather_object(found, value, group=self.objects)
        return found

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the ranks' sums by key; ranks are added in order, so the result is exact again."""
        total: dict[str, float] = {}
        for share in self.gather(dict(values)):
            for key, value in share.items():
                total[key] = total.get(key, 0.0) + value
        return total

    def share(self, items: Sequence[T]) -> list[T]:
        """Return this rank's part of a list: every `size`-th item."""
        return list(items[self.rank :: self.size])

    def merge(self, mine: Sequence[T], total: int) -> list[T]:
        """Return the whole list of which each rank has its `share`."""
        whole: list[Any] = [None] * total
        for rank, part in enumerate(self.gather(list(mine))):
            whole[rank :: self.size] = part
        return whole

    def first_does(self, action: Callable[[], T]) -> T:
        """Return on all ranks what rank 0's call returns; its error is raised on all ranks.

        Raises:
            GeomrlError: rank 0's call did.
        """
        if self.size == 1:
            return action()
        found: Any = None
        failure = None
        try:
            found = action() if self.first else None
        except GeomrlError as error:
            failure = str(error)
        found, failure = self.gather((found, failure))[0]
        if failure is not None:
            raise GeomrlError(failure)
        return found  # type: ignore[no-any-return]  # a T, through a pickle

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            with self.watchdog.waiting():
                dist.barrier(group=self.objects)


def world_size() -> int:
    """Return the number of ranks that the launcher started (1 without one)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Say whether this process is rank 0, before anything is initialised."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def join_world() -> Iterator[World]:
    """Join the process group of the launcher (`deepspeed`, `torchrun`), or make one of one rank.

    The group is left again only if it was made here.
    """
    cuda = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda:
        torch.cuda.set_device(local)
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    made = not dist.is_initialized()
    with tempfile.TemporaryDirectory() as folder:
        if made:
            backend = "nccl" if cuda else "gloo"
            if "RANK" in os.environ:
                dist.init_process_group(backend, timeout=PATIENCE)
            else:
                # A file instead of a port: several runs on one machine never meet.
                store = f"file://{Path(folder) / 'store'}"
                dist.init_process_group(backend, init_method=store, rank=0, world_size=1)
        objects = dist.new_group(backend="gloo", timeout=PATIENCE) if cuda else None
        try:
            rank = dist.get_rank()
            watchdog = Watchdog(rank)
            yield World(rank, dist.get_world_size(), device, objects=objects, watchdog=watchdog)
        finally:
            if made:
                dist.destroy_process_group()
