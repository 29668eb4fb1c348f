"""From rollouts to the state store: find anchors, run the model up to the last one, keep the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from geomrl.errors import GeomrlError
from geomrl.files import text_hash, user_code_hash, user_code_name
from geomrl.models.decoder import FINAL, layer_name, score_next
from geomrl.models.identity import tokenizer_hash
from geomrl.models.loading import LoadedModel
from geomrl.models.token_bytes import TokenBytes
from geomrl.models.turns import turn_end_ids
from geomrl.probe.anchors import DEFAULT_ANCHORS, Anchor, find_anchors, own_anchors, try_anchor
from geomrl.probe.extractor import Extractor, Rows
from geomrl.probe.self_check import check_reading, refuse_unreadable
from geomrl.runs.layout import STATES
from geomrl.runs.rollouts import columns_hash
from geomrl.runs.states import INTEGER_COLUMNS, ROW_SCHEMA, StateStore, StoreSettings
from geomrl.verify.marker import Marker

_SHARD_BYTES = 256e6
_SHARD_ROLLOUTS = 256

ANCHOR_RULES = "07383e9fa67fc114"
"""Names the rules by which anchors are found: what was read by other rules is looked at again.

To be changed when an anchor of some response moves (by `probe.anchors`, `models.turns` or
`verify.marker`); a test compares it with what they find in a body of texts.
"""


@dataclass(frozen=True)
class ExtractionConfig:
    """What to read.

    Attributes:
        layers: None is all of them.
        anchors: names, or "FILE.py:FUNCTION" for one of the user's (`geomrl.probe.anchors`).
        batch_tokens: bounds a padded batch's size.

    Raises:
        GeomrlError: an anchor is unknown, or a function of the user's is none.
    """

    layers: tuple[str, ...] | None = None
    anchors: tuple[str, ...] = DEFAULT_ANCHORS
    batch_tokens: int = 16384

    def __post_init__(self) -> None:
        for anchor in self.anchors:
            try_anchor(anchor)
        own_anchors(self.anchors)

    @property
    def stored(self) -> tuple[str, ...]:
        """The names under which the anchors' states are stored."""
        return tuple(map(user_code_name, self.anchors))


@dataclass(frozen=True, kw_only=True)
class Located:
    """A rollout with its anchors: `ids` is prompt and response, cut after the last anchor."""

    rollout_id: str
    ids: list[int]
    n_prompt: int
    anchors: list[Anchor]
    following: dict[int, int]  # token index -> id of the token after it

    @property
    def positions(self) -> list[int]:
        """The distinct positions in `ids` to read, in order; coinciding anchors share one."""
        found = {a.token_index + self.n_prompt for a in self.anchors if a.token_index is not None}
        return sorted(found)


class ModelProbe:
    """A loaded model with what reading it needs: extractor, head and tokenizer's byte view.

    Raises:
        GeomrlError: no decoder stack is found, or the model disagrees with itself (`self_check`).
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.extractor = Extractor(loaded.model.base_model)
        self.tokens = TokenBytes(loaded.tokenizer)
        self.stop_ids = turn_end_ids(loaded.model.generation_config, loaded.tokenizer)
        self.unreadable = check_reading(loaded, self.extractor)

    def as_filed(self, folder: Path) -> Self:
        """Return the same, checked already, under the key that a folder has (`LoadedModel.as_filed`)."""
        other = copy(self)
        other.loaded = self.loaded.as_filed(folder)
        return other

    @property
    def hidden_size(self) -> int:
        """The width of a state."""
        return self.loaded.model.get_output_embeddings().weight.shape[1]

    def layers(self, wanted: Sequence[str | int] | None) -> tuple[str, ...]:
        """Return layer names in forward order; all of them where none are named.

        Raises:
            GeomrlError: a layer is unknown, or cannot be read in this architecture.
        """
        n_layers = self.extractor.decoder.n_layers
        names = {layer_name(layer, n_layers) for layer in wanted or self.extractor.layer_names}
        ordered = tuple(name for name in self.extractor.layer_names if name in names)
        refuse_unreadable(self.loaded.name, ordered, self.unreadable)
        return ordered

    def locate(
        self, rollouts: pd.DataFrame, marker: Marker, anchors: Sequence[str]
    ) -> list[Located]:
        """Find the anchors of every rollout."""
        return [self._locate(row, marker, anchors) for row in rollouts.to_dict("records")]

    def _locate(self, row: dict[Any, Any], marker: Marker, names: Sequence[str]) -> Located:
        prompt, response = list(row["prompt_ids"]), list(row["response_ids"])
        answer = row["answer"] if isinstance(row["answer"], str) else None
        anchors = find_anchors(
            self.tokens, response, marker, names, stop_ids=self.stop_ids, answer=answer
        )
        room = (self.loaded.max_length or 2**31) - len(prompt)
        steady = (self.loaded.steady_length or 2**31) - len(prompt)
        anchors = [
            Anchor(a.name, None, "beyond_the_models_context")
            if a.token_index is not None and a.token_index >= room
            else Anchor(a.name, None, "beyond_the_steady_length")
            if a.token_index is not None and a.token_index >= steady
            else Anchor(a.name, None, "no_prompt")
            if a.token_index == -1 and not prompt
            else a
            for a in anchors
        ]
        kept = [a.token_index for a in anchors if a.token_index is not None]
        end = max(kept, default=-1) + 1
        following = {i: response[i + 1] for i in kept if i + 1 < len(response)}
        return Located(
            rollout_id=row["rollout_id"],
            ids=prompt + response[:end],
            n_prompt=len(prompt),
            anchors=anchors,
            following=following,
        )

    @torch.inference_mode()
    def read(
        self,
        located: Sequence[Located],
        layers: Sequence[str],
        batch_tokens: int,
        progress: Callable[[int], None] | None = None,
    ) -> tuple[pd.DataFrame, dict[str, Tensor]]:
        """Read every located rollout's states.

        Args:
            located: rollouts with anchors.
            layers: layer names.
            batch_tokens: rows times longest sequence of a batch, at most (a longer one runs alone).
            progress: called with how many more rollouts are done.

        Returns:
            The rows of `ROW_SCHEMA`, and by layer the states [states, hidden] on the CPU, in the
            order of the rollouts and their positions.

        Raises:
            GeomrlError: a state is not finite.
        """
        first_row = np.cumsum([0, *(len(item.positions) for item in located)])
        total = int(first_row[-1])
        states = {
            name: torch.empty(total, self.hidden_size, dtype=self.loaded.dtype) for name in layers
        }
        logprobs = torch.full((total,), torch.nan)
        entropies = torch.full((total,), torch.nan)
        for batch in token_batches([len(item.ids) for item in located], batch_tokens):
            reading = [i for i in batch if located[i].positions]
            if reading:
                at = torch.cat([torch.arange(first_row[i], first_row[i + 1]) for i in reading])
                found, logprob, entropy = self._read_batch([located[i] for i in reading], layers)
                for name in layers:
                    states[name][at] = found[name].cpu()
                logprobs[at], entropies[at] = logprob.cpu(), entropy.cpu()
            if progress:
                progress(len(batch))
        return _row_table(located, first_row, logprobs, entropies), states

    def _read_batch(
        self, batch: Sequence[Located], layers: Sequence[str]
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        device = self.loaded.device
        # Padding on the right needs no attention mask: a causal model never looks ahead, so no
        # position that is read can see it, and positions count from 0 as in a single sequence.
        ids = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(item.ids) for item in batch], batch_first=True
        )
        pairs = [(i, p) for i, item in enumerate(batch) for p in item.positions]
        sequence, position = (torch.tensor(x, device=device) for x in zip(*pairs, strict=True))
        inputs = {"input_ids": ids.to(device), "use_cache": False}
        found = self.extractor.read(inputs, Rows(sequence, position), [*layers, FINAL]).states
        for name, state in found.items():
            self._check_finite(name, state, batch, pairs)
        targets = [batch[i].following.get(p - batch[i].n_prompt) for i, p in pairs]
        known = torch.tensor([t if t is not None else 0 for t in targets], device=device)
        logprob, entropy = score_next(self.loaded.model, found[FINAL], known)
        has_next = torch.tensor([t is not None for t in targets], device=device)
        return found, logprob.masked_fill(~has_next, torch.nan), entropy

    def _check_finite(
        self, layer: str, state: Tensor, batch: Sequence[Located], pairs: Sequence[tuple[int, int]]
    ) -> None:
        bad = ~torch.isfinite(state).all(-1)
        if bad.any():
            sequence, position = pairs[int(bad.nonzero()[0])]
            item = batch[sequence]
            raise GeomrlError(
                f"{self.loaded.name}: the state at layer {layer}, response token "
                f"{position - item.n_prompt} of rollout {item.rollout_id} is not finite. The weights "
                "are damaged, or the number format overflows: try --dtype float32"
            )


def token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group sequences of similar length into batches of at most `budget` padded tokens.

    >>> token_batches([5, 2, 9, 3], budget=10)
    [[1, 3], [0], [2]]
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[index] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _row_table(
    located: Sequence[Located], first_row: np.ndarray, logprobs: Tensor, entropies: Tensor
) -> pd.DataFrame:
    """Return one row a (rollout, anchor), absent ones included."""
    rows = []
    for item, start in zip(located, first_row[:-1], strict=True):
        row_of = {position: int(start) + i for i, position in enumerate(item.positions)}
        for anchor in item.anchors:
            row: dict[str, Any] = {
                "rollout_id": item.rollout_id,
                "anchor": anchor.name,
                "flags": " ".join(anchor.flags),
                "reason": anchor.reason,
            }
            if anchor.token_index is not None:
                position = anchor.token_index + item.n_prompt
                state_row = row_of[position]
                row |= {
                    "token_index": anchor.token_index,
                    "token_id": item.ids[position],
                    "next_token_id": item.following.get(anchor.token_index),
                    "next_logprob": float(logprobs[state_row]),
                    "entropy": float(entropies[state_row]),
                    "state_row": state_row,
                }
            rows.append(row)
    return pd.DataFrame(rows).reindex(columns=ROW_SCHEMA.names).astype(INTEGER_COLUMNS)


def store_settings(
    probe: ModelProbe, rollouts: pd.DataFrame, marker: Marker, config: ExtractionConfig
) -> StoreSettings:
    """Return what decides the store's content, shard size included."""
    loaded, layers = probe.loaded, probe.layers(config.layers)
    per_rollout = len(layers) * len(config.anchors) * probe.hidden_size * loaded.dtype.itemsize
    return StoreSettings(
        encoder=loaded.name,
        encoder_hash=loaded.identity,
        vocabulary=loaded.vocabulary,
        rollouts=rollouts_hash(rollouts),
        marker=marker.spec,
        layers=layers,
        anchors=config.stored,
        dtype=str(loaded.dtype).removeprefix("torch."),
        hidden_size=probe.hidden_size,
        batch_tokens=config.batch_tokens,
        shard_rollouts=int(min(_SHARD_ROLLOUTS, max(1, _SHARD_BYTES // per_rollout))),
        n_rollouts=len(rollouts),
        tokenizer=tokenizer_hash(loaded.tokenizer),
        stop_ids=tuple(sorted(probe.stop_ids)),
        user_code=tuple(own_anchors(config.anchors)) or None,
    )


def size_estimate(settings: StoreSettings) -> float:
    """Return the most bytes that the states can take (anchors that coincide take less)."""
    width = settings.hidden_size * (4 if settings.dtype == "float32" else 2)
    return float(settings.n_rollouts * len(settings.anchors) * len(settings.layers) * width)


def rollouts_hash(rollouts: pd.DataFrame) -> str:
    """Return a hash of the rollouts' ids and tokens, in their order."""
    rows = zip(
        rollouts["rollout_id"], rollouts["prompt_ids"], rollouts["response_ids"], strict=True
    )
    return text_hash(*(f"{i} {list(map(int, p))} {list(map(int, r))}" for i, p, r in rows))


def fill_store(
    probe: ModelProbe,
    rollouts: pd.DataFrame,
    marker: Marker,
    store: StateStore,
    shards: Sequence[int],
    progress: Callable[[int], None] | None = None,
    *,
    batch_tokens: int | None = None,
) -> None:
    """Make some of a store's shards; each is a pure function of the settings and its number.

    `batch_tokens` differs from the store's where an earlier command ran out of memory: it moves states
    by rounding only, and is recorded with the shard.
    """
    settings = store.settings
    size = batch_tokens or settings.batch_tokens
    for shard in shards:
        part = rollouts.iloc[list(store.shard_range(shard))]
        located = probe.locate(part, marker, settings.named_anchors)
        rows, states = probe.read(located, settings.layers, size, progress)
        made_with = {
            "batch_tokens": str(size),
            "anchors": anchors_hash(part, settings.named_anchors),
        }
        store.write_shard(shard, rows, states, made_with)


def anchors_hash(rollouts: pd.DataFrame, anchors: Sequence[str] = ()) -> str:
    """Return a hash of what decides anchors besides a store's settings.

    That is the answers read, the rules, and the content of the user's files among `anchors`.
    """
    own = [user_code_hash(name) for name in own_anchors(anchors)]
    return text_hash(ANCHOR_RULES, columns_hash(rollouts[["answer"]]), *own)


def stale_shards(
    probe: ModelProbe, rollouts: pd.DataFrame, marker: Marker, store: StateStore
) -> list[int]:
    """Return the finished shards whose anchors would be found elsewhere now.

    That is where the rollouts were graded again and other answers were read from them, or where
    another geomrl, or another content of a file of the user's, found the anchors. Shards whose record
    says that nothing changed are believed; of others the anchors are located again and compared.
    """
    missing, found = set(store.missing_shards()), []
    for shard in sorted(set(range(store.n_shards)) - missing):
        part = rollouts.iloc[list(store.shard_range(shard))]
        if store.made_with(shard).get("anchors") == anchors_hash(
            part, store.settings.named_anchors
        ):
            continue
        located = probe.locate(part, marker, store.settings.named_anchors)
        now = [(a.name, a.token_index, a.reason) for item in located for a in item.anchors]
        rows = store.shard_rows(shard)
        there = zip(rows["anchor"], rows["token_index"], rows["reason"], strict=True)
        if now != [tuple(None if pd.isna(x) else x for x in row) for row in there]:
            found.append(shard)
    return found


def encoder_folder(run: Path, loaded: LoadedModel) -> Path:
    """Return where a run keeps an encoder's states."""
    return run / STATES / loaded.key
