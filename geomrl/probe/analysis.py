"""Similarity and interventions of a run: by benchmark, each place kept as soon as it is finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from geomrl.files import read_parquet
from geomrl.geometry.similarity import Places, similarity_table
from geomrl.models.context import Context
from geomrl.models.loading import LoadedModel
from geomrl.probe.extraction import ModelProbe, anchors_hash, rollouts_hash
from geomrl.progress import progress_bar
from geomrl.runs.manifest import versions
from geomrl.runs.parts import Parts, parts_key
from geomrl.runs.pieces import Piece, finish_pieces
from geomrl.runs.rollouts import columns_hash, labels_hash
from geomrl.runs.run import Run, open_run, run_marker
from geomrl.runs.states import StateStore
from geomrl.stats.draws import Draws

Place = tuple[pd.DataFrame, Float[np.ndarray, "rows d"]]


def similarity_of(
    run: Run,
    loaded: LoadedModel,
    store: StateStore,
    draws: Draws,
    *,
    context: Context,
) -> tuple[pd.DataFrame, list[str]]:
    """Return this encoder's rows for every benchmark, and notes on them.

    Args:
        run: whose rollouts were read.
        loaded: the encoder.
        store: its states.
        draws: seed, n_boot and n_perm.
        context: processes, whether a bar is shown, and where the estimate goes.
    """
    tables, notes = [], []
    labels = run.rollouts
    policy = labels["policy"].dropna()
    steps = labels["policy_step"].dropna()
    layers, anchors = store.settings.layers, store.settings.anchors
    parts = {
        str(name): _similarity_parts(run, store, name, draws)
        for name in labels["benchmark"].unique()
    }
    places = [(layer, anchor) for anchor in anchors for layer in layers]
    finished = [Places(kept, draws) for kept in parts.values()]
    todo = [Piece(place) for place in places if any(made.read(*place) is None for made in finished)]
    with progress_bar("similarity", "layer x anchor", show=context.show) as bar:
        bar.set(len(places) - len(todo), len(places))
        begin = partial(_begin, run.path, encoder=loaded.key, parts=parts, draws=draws)
        finish_pieces(todo, begin, jobs=context.jobs, advance=bar.advance, say=context.say)
    for benchmark, kept in parts.items():

        def of_one(layer: str, anchor: str, benchmark: str = benchmark) -> Place:
            return of_benchmark(*run.states(layer, anchor, loaded.key), benchmark)

        result = similarity_table(
            of_one, layers, anchors, parts=kept, progress=None, **asdict(draws),
            context={
                "policy": policy.iloc[0] if len(policy) else "unknown",
                "encoder": loaded.key,
                "step": steps.iloc[0] if len(steps) else pd.NA,
                "benchmark": benchmark,
            },
        )  # fmt: skip
        tables.append(result.table)
        notes += [n if len(parts) == 1 else f"{benchmark}: {n}" for n in result.notes]
    return pd.concat(tables, ignore_index=True), notes


def _begin(
    path: Path, encoder: str, parts: Mapping[str, Parts], draws: Draws
) -> Callable[[str, str], None]:
    """Open a run, and return what finishes one layer and anchor, keeping what an anchor's labels fix.

    Args:
        path: the run's folder.
        encoder: whose states are read.
        parts: where the finished places are kept, by benchmark.
        draws: seed, n_boot and n_perm.
    """
    run = open_run(path, encoder)
    places = {name: Places(kept, draws) for name, kept in parts.items()}

    def finish(layer: str, anchor: str) -> None:
        """Compute what is not finished there, read from the store once for all benchmarks."""
        todo = [name for name in places if places[name].read(layer, anchor) is None]
        rows, states = run.states(layer, anchor)
        for name in todo:
            places[name].make(layer, anchor, *of_benchmark(rows, states, name))

    return finish


def of_benchmark(rows: pd.DataFrame, states: Float[np.ndarray, "rows d"], benchmark: str) -> Place:
    """Return one benchmark's rows and states."""
    here = (rows["benchmark"] == benchmark).to_numpy()
    return rows[here].reset_index(drop=True), states[here]


def with_other_encoders(path: Path, table: pd.DataFrame, encoder: str) -> pd.DataFrame:
    """Return an encoder's rows with those that a similarity file contains of others."""
    if not path.exists():
        return table
    before = read_parquet(path)
    others = before[before["encoder"] != encoder]
    return pd.concat([table, others], ignore_index=True) if len(others) else table


def _similarity_parts(run: Run, store: StateStore, benchmark: str, draws: Draws) -> Parts:
    """Return where the finished places of one encoder's similarity on one benchmark are kept."""
    labels = run.rollouts[run.rollouts["benchmark"] == benchmark]
    rows = store.rows()
    rows = rows[rows["rollout_id"].isin(set(labels["rollout_id"]))]
    key = parts_key(
        labels=labels_hash(labels), rows=columns_hash(rows[["rollout_id", "anchor", "token_index"]]),
        encoder=store.settings.encoder_hash, dtype=store.settings.dtype,
        rollouts=store.settings.rollouts, geomrl=versions()["geomrl"], **asdict(draws),
    )  # fmt: skip
    folder = run.path / "parts" / "similarity" / store.path.name
    return Parts(folder / "".join(c if c.isalnum() else "-" for c in benchmark), key)


def replacement_parts(run: Run, reader: ModelProbe, anchor: str, seed: int) -> Parts:
    """Return where the finished layers of one encoder's interventions at one anchor are kept."""
    loaded = reader.loaded
    key = parts_key(
        labels=run.labels, rollouts=rollouts_hash(run.rollouts), marker=run_marker(run).spec,
        anchors=anchors_hash(run.rollouts), encoder=loaded.identity, dtype=str(loaded.dtype),
        anchor=anchor, seed=seed, geomrl=versions()["geomrl"],
    )  # fmt: skip
    return Parts(run.path / "parts" / "replacement" / loaded.key, key)
