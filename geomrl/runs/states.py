"""The state store: anchor states on disk, in shards that are read one layer at a time.

`states/<encoder>/` contains `store.json` (what decides the content), and for every shard
`shard-00000.safetensors` (one tensor [states, hidden] a layer) and `shard-00000.parquet` (one row a
(rollout, anchor), with the state's row in those tensors; coinciding anchors share it). The parquet is
written last: a shard without one is not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
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
            rows: of `ROW_SCHEMA`.
            states: [states, hidden] by layer.
            made_with: what is recorded of this shard alone.
        """
        with atomic_path(self._tensors(shard)) as temporary:
            tensors = {name: state.contiguous() for name, state in states.items()}
            # One entry: safetensors writes several in an order that differs between processes.
            record = json.dumps(dict(made_with or {}), sort_keys=True)
            save_file(tensors, temporary, metadata={_MADE_WITH: record})
        write_parquet(self._rows(shard), rows, ROW_SCHEMA)

    def made_with(self, shard: int) -> dict[str, str]:
        """Return what was recorded of one shard; nothing where an older geomrl wrote it."""
        with safe_open(self._tensors(shard), framework="pt") as file:
            return dict(json.loads((file.metadata() or {}).get(_MADE_WITH, "{}")))

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

        No other layer's tensor is read from the disk.

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
            states.append(self._read_layer(shard, layer, here["state_row"].astype(int).tolist()))
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

    def _read_layer(
        self, shard: int, layer: str, rows: Sequence[int]
    ) -> Float[np.ndarray, "rows hidden"]:
        path = self._tensors(shard)
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(layer)[torch.tensor(rows, dtype=torch.long)].float().numpy()
        except (SafetensorError, IndexError) as error:
            raise GeomrlError(
                f"{path}: torn or not of this store ({error}); delete it and run the same "
                "`geomrl probe` command again: it makes only this shard"
            ) from error


def absences(rows: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return, by anchor, how many rollouts lack it for which reason."""
    lacking = rows[rows["reason"].notna()]
    counts = lacking.groupby(["anchor", "reason"]).size()
    found: dict[str, dict[str, Any]] = {}
    for key, count in counts.items():
        anchor, reason = map(str, key if isinstance(key, tuple) else (key, ""))
        found.setdefault(anchor, {})[reason] = int(count)
    return found
