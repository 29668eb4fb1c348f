"""Nearest neighbours of rollouts in state space, beside the floor that their cosines stand on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from geomrl.geometry.cells import cross_cells
from geomrl.geometry.groups import group_rows
from geomrl.geometry.spaces import raw_space
from geomrl.runs.rollouts import problem_keys
from geomrl.stats.intervals import Interval, pair_interval

N_BOOT = 2000
_LABEL = "similarity"  # the draws of the similarity table: one floor, not two


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The k nearest rollouts of some, by raw cosine at one layer and anchor.

    Attributes:
        queries: ids of the rollouts asked for that have a state.
        ids: id of each neighbour, nearest first.
        cosines: raw cosine of the two states, in -1 .. 1.
        floor: mean raw cosine of graded rollouts of different problems, with its interval.
        n_states: among how many states they were looked for.
    """

    queries: tuple[str, ...]
    ids: tuple[tuple[str, ...], ...]
    cosines: Float[np.ndarray, "queries k"]
    floor: Interval
    n_states: int


def nearest(
    states: Float[np.ndarray, "n d"], queries: Int[np.ndarray, " q"], k: int
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """Return each query's k nearest other rows by cosine, nearest first, and the cosines.

    k is at most n - 1. A row is never its own neighbour, not even among equal rows.

    Args:
        states: one a row; a state of length zero has cosine 0 with all.
        queries: rows to ask for.
        k: neighbours wanted.
    """
    from sklearn.neighbors import NearestNeighbors

    k = min(k, len(states) - 1)
    if k < 1 or not len(queries):
        return np.empty((len(queries), 0), dtype=int), np.empty((len(queries), 0))
    finder = NearestNeighbors(metric="cosine", algorithm="brute").fit(states)
    distance, index = finder.kneighbors(states[queries], n_neighbors=k + 1)
    own = index == queries[:, None]
    # Among equal rows the query itself may be crowded out: then the farthest one is left out.
    own[~own.any(axis=1), -1] = True
    kept = ~own
    return index[kept].reshape(-1, k), 1.0 - distance[kept].reshape(-1, k)


def find_neighbours(
    rows: pd.DataFrame, states: Float[np.ndarray, "n d"], wanted: set[str], k: int, *, seed: int
) -> Neighbours:
    """Return the neighbours of the wanted rollouts among all that have a state.

    Args:
        rows: rollout_id, benchmark, problem_id, verdict, answer_class, gold, as `Run.states` has.
        states: aligned with `rows`.
        wanted: ids of rollouts to ask for.
        k: neighbours a rollout.
        seed: of the floor's bootstrap.
    """
    ids = rows["rollout_id"].to_numpy()
    queries = np.flatnonzero(rows["rollout_id"].isin(wanted).to_numpy())
    index, cosines = nearest(states, queries, k)
    return Neighbours(
        queries=tuple(ids[queries]),
        ids=tuple(tuple(ids[row]) for row in index),
        cosines=cosines,
        floor=floor(rows, states, seed=seed),
        n_states=len(states),
    )


def floor(rows: pd.DataFrame, states: Float[np.ndarray, "n d"], *, seed: int) -> Interval:
    """Return the anisotropy floor: the mean raw cosine over pairs of different problems.

    The cell "floor" of `geomrl.geometry.cells`, over all benchmarks together.
    """
    several = rows["benchmark"].nunique() > 1
    if several:
        rows = rows.assign(problem_id=problem_keys(rows))
    groups = group_rows(rows)
    if groups.n_problems < 2:
        why = "no pair of different problems"
        return Interval.missing(float("nan"), groups.n_problems, seed, why)
    cell = cross_cells(raw_space(states[groups.order], groups), groups)["floor"]
    return pair_interval(
        np.nan_to_num(cell.means), (cell.counts > 0).astype(float), seed=seed, label=_LABEL,
        n_boot=N_BOOT, bounds=(-1.0, 1.0),
    )  # fmt: skip
