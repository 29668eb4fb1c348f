"""Extraction on several devices: one process a device, each making shards of the same store."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from geomrl.errors import GeomrlError


def fill_store_on_devices(
    devices: Sequence[str],
    run: Path,
    store: Path,
    marker: str,
    load: dict[str, Any],
    shards: Sequence[int],
    progress: Callable[[int], None],
    *,
    batch_tokens: int | None = None,
) -> None:
    """Share the missing shards out over devices; the result is that of one device.

    Args:
        devices: "cuda:0", "cuda:1", ...; "cpu" twice makes two processes.
        run: the run directory.
        store: the store's folder.
        marker: the answer marker's specification.
        load: keyword arguments of `load_model`, device left out.
        shards: the shards to make.
        progress: called with how many more rollouts are done.
        batch_tokens: as in `fill_store`.

    Raises:
        GeomrlError: a process failed; finished shards are kept.
    """
    context = multiprocessing.get_context("spawn")
    messages: Any = context.Queue()
    workers = [
        context.Process(
            target=_work,
            args=(
                device,
                run,
                store,
                marker,
                load,
                list(shards[i :: len(devices)]),
                batch_tokens,
                messages,
            ),
            daemon=True,
        )
        for i, device in enumerate(devices)
    ]
    for worker in workers:
        worker.start()
    try:
        while any(worker.is_alive() for worker in workers) or not messages.empty():
            try:
                message = messages.get(timeout=0.2)
            except queue.Empty:
                message = 0
            if isinstance(message, str):
                raise GeomrlError(message)
            progress(message)
            dead = [d for d, w in zip(devices, workers, strict=True) if w.exitcode not in (None, 0)]
            if dead and messages.empty():
                raise GeomrlError(
                    f"the extraction process on {dead[0]} died; what it finished is kept: run the same "
                    "command again (less memory: a smaller --batch-tokens)"
                )
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _work(
    device: str,
    run: Path,
    store: Path,
    marker: str,
    load: dict[str, Any],
    shards: Sequence[int],
    batch_tokens: int | None,
    messages: Any,
) -> None:
    import torch

    from geomrl.models.loading import load_model, quiet_transformers
    from geomrl.probe.extraction import ModelProbe, fill_store
    from geomrl.runs.run import open_run
    from geomrl.runs.states import StateStore
    from geomrl.verify.marker import parse_marker

    quiet_transformers()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        probe = ModelProbe(load_model(**load, device=device))
        rollouts = open_run(run).rollouts
        fill_store(
            probe,
            rollouts,
            marker=parse_marker(marker),
            store=StateStore(store),
            shards=shards,
            progress=messages.put,
            batch_tokens=batch_tokens,
        )
    except GeomrlError as error:
        messages.put(str(error))
