"""Bytes really read from the disk for one (layer, anchor) of a state store, its pages not in memory.

    python benchmarks/store.py [--rollouts 8000] [--hidden 1024] [--layers 2] [--folder .]

One store of random states is written twice: as geomrl wrote it before (a rollout's anchors side by
side) and as it does now (anchor by anchor). Every (layer, anchor) is then read, the files' pages
dropped before each (posix_fadvise), and what the process took from the disk counted (/proc/self/io:
Linux). Four ways:

    before         the old shards, the layer mapped into memory and indexed (safetensors)
    old shards     the same files, as they are read now
    new, mapped    the new shards, mapped and indexed: what the layout alone does
    now            the new shards, as they are read now

The ideal is the states' own bytes. How much mapping reads depends on the disk's readahead
(/sys/block/*/queue/read_ahead_kb), which is printed.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open

from geomrl.runs import states
from geomrl.runs.states import INTEGER_COLUMNS, ROW_SCHEMA, StateStore, StoreSettings

ANCHORS = tuple(f"anchor_{i}" for i in range(12))
ABSENT, SHARED = (
    0.1,
    0.1,
)  # share of anchors that a rollout lacks, and that coincide with the one before


def settings(args):
    return StoreSettings(
        encoder="random", encoder_hash="0", vocabulary="0", rollouts="0", marker="boxed",
        layers=tuple(map(str, range(args.layers))), anchors=ANCHORS, dtype="bfloat16",
        hidden_size=args.hidden, batch_tokens=1, shard_rollouts=256, n_rollouts=args.rollouts,
    )  # fmt: skip


def shard_rows(rollouts, draw):
    """Return a shard's rows as extraction makes them, and how many states they point into."""
    rows, n = [], 0
    for rollout in rollouts:
        fresh = True
        for anchor in ANCHORS:
            row = {"rollout_id": str(rollout), "anchor": anchor, "flags": "", "reason": "absent"}
            if draw.random() >= ABSENT:
                n += fresh or draw.random() >= SHARED
                fresh = False
                row |= {"reason": None, "token_index": n, "state_row": n - 1}
            rows.append(row)
    return pd.DataFrame(rows).reindex(columns=ROW_SCHEMA.names).astype(INTEGER_COLUMNS), n


def write_store(folder, args):
    folder.mkdir()
    store = StateStore.create(folder, settings(args))
    draw, torch_draw = np.random.default_rng(0), torch.Generator().manual_seed(0)
    for shard in range(store.n_shards):
        rows, n = shard_rows(store.shard_range(shard), draw)
        one = torch.randn(n, args.hidden, generator=torch_draw).bfloat16()
        store.write_shard(shard, rows, {layer: one + int(layer) for layer in store.settings.layers})
    os.sync()
    return StateStore(folder)


def drop_pages(folder):
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_read():
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("read_bytes")))


def mapped(path, layer, rows):
    """What `StateStore` did before."""
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(layer)[torch.tensor(rows, dtype=torch.long)].float().numpy()


def read(store, layer, anchor, way):
    with mock.patch.object(
        states, "read_rows", mapped if way in ("before", "new, mapped") else states.read_rows
    ):
        return store.read(layer, anchor)[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=8000)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; the default is TMPDIR")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        given = lambda rows, _: np.arange(int(rows["state_row"].max()) + 1)  # noqa: E731
        with mock.patch.object(states, "anchor_order", given):
            old = write_store(Path(folder) / "old", args)
        new = write_store(Path(folder) / "new", args)
        size = sum(file.stat().st_size for file in new.path.iterdir())
        ahead = {
            p.parent.parent.name: p.read_text().strip()
            for p in Path("/sys/block").glob("*/queue/read_ahead_kb")
        }
        print(f"{args.rollouts} rollouts x {len(ANCHORS)} anchors x {args.layers} layers,", end=" ")
        print(f"d = {args.hidden}, bfloat16: {size / 1e6:.0f} MB in {new.n_shards} shards")
        print(f"readahead in kB: {ahead}")
        ways = {"before": old, "old shards": old, "new, mapped": new, "now": new}
        for store in (old, new):
            _ = store.rows()  # the rows are read once and kept; states alone are counted
        taken = {way: [] for way in ways}
        seconds = {way: [] for way in ways}
        for layer in new.settings.layers:
            for anchor in ANCHORS:
                found = []
                for way, store in ways.items():
                    drop_pages(store.path)
                    first, started = bytes_read(), time.perf_counter()
                    found.append(read(store, layer, anchor, way))
                    seconds[way].append(time.perf_counter() - started)
                    taken[way].append((bytes_read() - first) / (found[-1].size * 2))
                assert all(np.array_equal(found[0], other) for other in found[1:])
        print("| way | read over ideal: median (least to most) | seconds: median |\n|---|---|---|")
        for way, each in taken.items():
            spread = f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"
            print(f"| {way} | {spread} | {statistics.median(seconds[way]):.3f} |")


if __name__ == "__main__":
    main()
