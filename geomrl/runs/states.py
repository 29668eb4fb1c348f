"""The state store: anchor states on disk, in shards that are read one layer and anchor at a time.

`states/<encoder>/` contains `store.json` (what decides the content), and for every shard
`shard-00000.safetensors` (one tensor [states, hidden] a layer) and `shard-00000.parquet` (one row a
(rollout, anchor), with the state's row in those tensors; coinciding anchors share it). The parquet is
written last: a shard without one is not there.

An anchor's states lie side by side in a tensor, so that reading them reads little else from the disk.
Where they lie is said by the parquet's `state_row` alone: an older geomrl wrote a rollout's states side
by side, and such shards are read too, by the same code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

from geomrl.errors import GeomrlError
from geomrl.files import (
    atomic_path,
    read_json,
    read_parquet,
    remove_leftovers,
    user_code_name,
    write_json,
    write_parquet,
)
from geomrl.runs.manifest import check_same_settings
from geomrl.runs.tensor_rows import TornFileError, read_metadata, read_rows

ROW_SCHEMA = pa.schema(
    [
        ("rollout_id", pa.string()),
        ("anchor", pa.string()),
        ("token_index", pa.int64()),  # into response_ids; -1 is the prompt's last token
        ("flags", pa.string()),  # at_prompt, merged_right; joined by a space
        ("reason", pa.string()),  # why token_index is null
        ("token_id", pa.int64()),
        ("next_token_id", pa.int64()),
        ("next_logprob", pa.float32()),  # of next_token_id, natural logarithm
        ("entropy", pa.float32()),  # of the next-token distribution, nats
        ("state_row", pa.int64()),  # in the shard's tensors
    ]
)
INTEGER_COLUMNS = dict.fromkeys(["token_index", "token_id", "next_token_id", "state_row"], "Int64")


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """What decides a store's content; a store is only ever filled with one of these."""

    encoder: str
    encoder_hash: str
    vocabulary: str
    rollouts: str  # hash of the rollouts' ids and tokens
    marker: str
    layers: tuple[str, ...]
    anchors: tuple[str, ...]
    dtype: str  # that the model computes in, and that states are kept in
    hidden_size: int
    batch_tokens: int  # of the first shards; each records its own
    shard_rollouts: int
    n_rollouts: int
    tokenizer: str | None = None  # None: an older geomrl's store, which does not say
    stop_ids: tuple[int, ...] | None = None
    user_code: tuple[str, ...] | None = None  # anchors of the user's by their files

    @property
    def named_anchors(self) -> tuple[str, ...]:
        """The anchors by what locates them: "FILE.py:FUNCTION" for one that is stored as FUNCTION."""
        own = {user_code_name(name): name for name in self.user_code or ()}
        return tuple(own.get(anchor, anchor) for anchor in self.anchors)


_FREE = (
    "batch_tokens",
    "shard_rollouts",
)  # of speed and rounding; the store's own shard size stays
_NEWER = ("tokenizer", "stop_ids")
_MADE_WITH = "made_with"


class StateStore:
    """Anchor states of one encoder over one set of rollouts.

    Raises:
        GeomrlError: `store.json` is missing or torn.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        fields: dict[str, Any] = read_json(self.path / "store.json")
        listed = {k: tuple(v) for k, v in fields.items() if isinstance(v, list)}
        self.settings = StoreSettings(**fields | listed)

    @classmethod
    def create(cls, path: Path, settings: StoreSettings) -> StateStore:
        """Open the store at `path`, making it where there is none.

        A store that is there keeps its own size of shards and its batch size's record; both may
        differ from those of `settings`, which a run that is out of memory has to lower.

        Raises:
            GeomrlError: it contains states of other settings.
        """
        index = path / "store.json"
        now = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}
        if settings.user_code is None:
            del now["user_code"]  # as older versions of geomrl wrote it
        begun = any(path.glob("shard-*"))  # a first try that failed does not bind the next
        if index.exists() and begun:
            before = read_json(index)
            check_same_settings(path, "states", before, now, free=_FREE, newer=_NEWER)
        else:
            write_json(index, now)
        remove_leftovers(path)
        return cls(path)

    @property
    def n_shards(self) -> int:
        """The number of shards of the whole store."""
        return -(-self.settings.n_rollouts // self.settings.shard_rollouts)

    def shard_range(self, shard: int) -> range:
        """Return the rows of the rollout table that a shard covers."""
        start = shard * self.settings.shard_rollouts
        return range(start, min(start + self.settings.shard_rollouts, self.settings.n_rollouts))

    def _tensors(self, shard: int) -> Path:
        return self.path / f"shard-{shard:05d}.safetensors"

    def _rows(self, shard: int) -> Path:
        return self.path / f"shard-{shard:05d}.parquet"

    def missing_shards(self) -> list[int]:
        """Return the shards that are not there yet."""
        return [
            shard
            for shard in range(self.n_shards)
            if not (self._rows(shard).exists() and self._tensors(shard).exists())
        ]

    def write_shard(
        self,
        shard: int,
        rows: pd.DataFrame,
        states: Mapping[str, Tensor],
        made_with: Mapping[str, str] | None = None,
    ) -> None:
        """Write one shard, whole or not at all.

        Args:
            shard: its number.
            rows: of `ROW_SCHEMA`; `state_row` counts in `states` as they are given.
            states: [states, hidden] by layer; they are written anchor by anchor.
            made_with: what is recorded of this shard alone.
        """
        order = anchor_order(rows, self.settings.anchors)
        rows = rows.assign(state_row=moved_rows(rows["state_row"], order))
        # Rows of an older geomrl may be left of a shard that was torn; they count otherwise.
        self._rows(shard).unlink(missing_ok=True)
        with atomic_path(self._tensors(shard)) as temporary:
            at = torch.from_numpy(order)
            tensors = {name: state[at] for name, state in states.items()}
            # One entry: safetensors writes several in an order that differs between processes.
            record = json.dumps(dict(made_with or {}), sort_keys=True)
            save_file(tensors, temporary, metadata={_MADE_WITH: record})
        write_parquet(self._rows(shard), rows, ROW_SCHEMA)

    def made_with(self, shard: int) -> dict[str, str]:
        """Return what was recorded of one shard; nothing where an older geomrl wrote it.

        Raises:
            GeomrlError: it is torn.
        """
        path = self._tensors(shard)
        with _whole(path):
            return dict(json.loads(read_metadata(path).get(_MADE_WITH, "{}")))

    def shard_rows(self, shard: int) -> pd.DataFrame:
        """Return one shard's rows.

        Raises:
            GeomrlError: it is missing or torn.
        """
        return read_parquet(self._rows(shard)).astype(INTEGER_COLUMNS)

    def discard(self, shard: int) -> None:
        """Delete a shard, its rows first: without them it is not there."""
        self._rows(shard).unlink(missing_ok=True)
        self._tensors(shard).unlink(missing_ok=True)

    def rows(self) -> pd.DataFrame:
        """Return every (rollout, anchor) row, absent anchors with their reason included.

        Raises:
            GeomrlError: a shard is missing or torn.
        """
        return pd.concat(self._shard_rows, ignore_index=True)

    def read(
        self, layer: str, anchor: str
    ) -> tuple[pd.DataFrame, Float[np.ndarray, "rows hidden"]]:
        """Return the rows that have this anchor, and their float32 states at one layer.

        They are in the order of the rollouts. No other layer's tensor is read from the disk, and of
        this one the anchor's part alone.

        Raises:
            GeomrlError: the layer or anchor is not stored; a shard is missing or torn.
        """
        for kind, name, stored in (
            ("layer", layer, self.settings.layers),
            ("anchor", anchor, self.settings.anchors),
        ):
            if name not in stored:
                raise GeomrlError(
                    f"{self.path}: {kind} '{name}' is not stored; it has {', '.join(stored)}. Probe "
                    f"again with --{kind}s and another --out to read others"
                )
        frames, states = [], []
        for shard, rows in enumerate(self._shard_rows):
            here = rows[(rows["anchor"] == anchor) & rows["state_row"].notna()]
            frames.append(here)
            with _whole(path := self._tensors(shard)):
                states.append(read_rows(path, layer, here["state_row"].astype(int).tolist()))
        table = pd.concat(frames, ignore_index=True).drop(columns=["anchor", "state_row", "reason"])
        return table, np.concatenate(states)

    @cached_property
    def _shard_rows(self) -> list[pd.DataFrame]:
        """Every shard's rows, read once: they are small beside the states."""
        missing = self.missing_shards()
        if missing:
            raise GeomrlError(
                f"{self.path}: {len(missing)} of {self.n_shards} shards are missing (first: {missing[0]}); "
                "run the same `geomrl probe` command again: it makes only those"
            )
        return [self.shard_rows(shard) for shard in range(self.n_shards)]


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Name a shard that is found torn inside the block, and the cure."""
    try:
        yield
    except TornFileError as error:
        raise GeomrlError(
            f"{path}: torn or not of this store ({error}); delete it and run the same "
            "`geomrl probe` command again: it makes only this shard"
        ) from error


def anchor_order(rows: pd.DataFrame, anchors: Sequence[str]) -> Int[np.ndarray, " states"]:
    """Return the order in which a shard's states are written: anchor by anchor.

    States that several anchors share lie together, by which anchors these are, so that each anchor's
    states are a few runs of rows. Within a run they keep their order.

    Args:
        rows: of `ROW_SCHEMA`, with every state in at least one row.
        anchors: the store's, which decide the order of the runs.

    >>> rows = pd.DataFrame({"anchor": ["a", "b"] * 3, "state_row": [0, 1, 2, 2, 3, 4]})
    >>> anchor_order(rows, ["a", "b"]).tolist()
    [0, 3, 2, 1, 4]
    """
    kept = rows[rows["state_row"].notna()]
    number = {anchor: i for i, anchor in enumerate(anchors)}
    sharing: dict[int, list[int]] = {}
    for row, anchor in zip(kept["state_row"], kept["anchor"].map(number), strict=True):
        sharing.setdefault(int(row), []).append(int(anchor))
    order = sorted(sharing, key=lambda row: (sorted(sharing[row]), row))
    return np.array(order, dtype=np.int64)


def moved_rows(state_row: pd.Series, order: Int[np.ndarray, " states"]) -> pd.Series:
    """Return where each row's state lies once the states are in `order`; absent ones stay so."""
    place = dict(zip(order.tolist(), range(len(order)), strict=True))
    return state_row.map(place, na_action="ignore").astype("Int64")


def absences(rows: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return, by anchor, how many rollouts lack it for which reason."""
    lacking = rows[rows["reason"].notna()]
    counts = lacking.groupby(["anchor", "reason"]).size()
    found: dict[str, dict[str, Any]] = {}
    for key, count in counts.items():
        anchor, reason = map(str, key if isinstance(key, tuple) else (key, ""))
        found.setdefault(anchor, {})[reason] = int(count)
    return found
