"""The labels of one anchor's rows: which rollout belongs to which problem, right or wrong.

Pure bookkeeping, shared by every measure of a similarity table, so that cells, spaces and
permutation tests agree on who takes part.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from geomrl.errors import GeomrlError
from geomrl.seeds import derive_seed

UNKNOWN = -1
"""An answer class or gold answer that is not known."""
CANCELS = 1e-5
"""What is less than this share of a whole is computed anew, not as a difference from it."""
_MANY = 2**20  # numbers; fewer are added in numpy's order, whose rounding is seen where all is 0
_COLUMNS = ("rollout_id", "problem_id", "verdict")


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Graded rollouts, sorted by problem, correct ones first, then by rollout id.

    The order is a function of the labels alone, so results do not depend on the rows' order.

    Attributes:
        problem_ids: the P problems, sorted.
        order: [N] positions of the graded rollouts in the caller's rows.
        starts: [P + 1] problem p has rows starts[p]:starts[p + 1] of the sorted order.
        n_correct: [P].
        answer: [N] answer class within the problem, `UNKNOWN` where there is none.
        gold: [P] a code that problems with the same gold answer share, `UNKNOWN` without gold.
    """

    problem_ids: tuple[str, ...]
    order: Int[np.ndarray, " n"]
    starts: Int[np.ndarray, " p1"]
    n_correct: Int[np.ndarray, " p"]
    answer: Int[np.ndarray, " n"]
    gold: Int[np.ndarray, " p"]

    @property
    def n_problems(self) -> int:
        """Number of problems with a graded rollout."""
        return len(self.problem_ids)

    @cached_property
    def sizes(self) -> Int[np.ndarray, " p"]:
        """Graded rollouts of each problem."""
        return np.diff(self.starts)

    @cached_property
    def problem(self) -> Int[np.ndarray, " n"]:
        """Each row's problem, as an index into `problem_ids`."""
        return np.repeat(np.arange(self.n_problems), self.sizes)

    @cached_property
    def correct(self) -> Bool[np.ndarray, " n"]:
        """Whether each row is correct."""
        return np.arange(len(self.order)) < (self.starts[:-1] + self.n_correct)[self.problem]

    def rows(self, p: int) -> slice:
        """Return problem p's rows."""
        return slice(int(self.starts[p]), int(self.starts[p + 1]))

    def draw(self, seed: int, purpose: str) -> Float[np.ndarray, " p"]:
        """Return a number in [0, 1) for each problem; it depends on its id, not on the others."""
        seeds = [derive_seed(seed, purpose, name) for name in self.problem_ids]
        return np.array([s >> 10 for s in seeds], dtype=float) / 2**53

    def one_each(self, seed: int, label: str) -> Int[np.ndarray, " p"]:
        """Return one row of each problem, drawn by seed, label and problem."""
        return self.starts[:-1] + (self.draw(seed, label) * self.sizes).astype(int)

    def sums(
        self, x: Float[np.ndarray, "n d"], weights: Float[np.ndarray, " n"] | None = None
    ) -> Float[np.ndarray, "p d"]:
        """Return the sum over each problem's rows, each times its weight."""
        return group_sums(x, self.starts, weights)

    @cached_property
    def pairs(self) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
        """Rows (i, j), i < j, of every within-problem pair; problem by problem, row-major."""
        firsts, seconds = [np.empty(0, int)], [np.empty(0, int)]
        for start, size in zip(self.starts[:-1], self.sizes, strict=True):
            i, j = upper_triangle(int(size))
            firsts.append(i + start)
            seconds.append(j + start)
        return np.concatenate(firsts), np.concatenate(seconds)


def group_sums(
    x: Float[np.ndarray, "n d"],
    starts: Int[np.ndarray, " g1"],
    weights: Float[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, "g d"]:
    """Return the sums of rows starts[g]:starts[g + 1]; of many numbers, as one sparse product.

    Args:
        x: rows, those of one group beside each other.
        starts: where each group begins, and the end of the last.
        weights: what each row is multiplied by; 1 if not given.
    """
    from scipy.sparse import csr_array

    if x.size < _MANY and (np.diff(starts) > 0).all():
        x = np.asarray(x, dtype=float)
        weighted = x if weights is None else x * weights[:, None]
        return np.add.reduceat(weighted, starts[:-1], axis=0)
    n = len(x)
    values = np.ones(n) if weights is None else np.asarray(weights, dtype=float)
    return csr_array((values, np.arange(n), starts), shape=(len(starts) - 1, n)) @ x


@lru_cache(maxsize=256)
def upper_triangle(n: int) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Return the indices (i, j), i < j, of the pairs of n things, row-major (read-only)."""
    i, j = np.triu_indices(n, 1)
    i.flags.writeable = j.flags.writeable = False
    return i, j


def group_rows(rows: pd.DataFrame) -> Groups:
    """Return the groups of one anchor's rows. Only `correct` and `wrong` rollouts take part.

    Args:
        rows: rollout_id, problem_id, verdict; optionally answer_class (nullable) and gold. Each
            rollout appears once. Two problems share a gold answer where the texts, stripped, are
            equal.

    Raises:
        GeomrlError: a column is missing, or a rollout or its problem's gold is ambiguous.
    """
    missing = [column for column in _COLUMNS if column not in rows.columns]
    if missing:
        raise GeomrlError(
            f"rows of states lack {', '.join(missing)}: cells cannot be told apart; join the "
            f"rollouts' columns onto them by rollout_id"
        )
    taken = np.flatnonzero(rows["verdict"].isin(["correct", "wrong"]).to_numpy())
    graded = rows.iloc[taken]
    repeated = graded["rollout_id"][graded["rollout_id"].duplicated()]
    if len(repeated):
        raise GeomrlError(
            f"rollout {repeated.iloc[0]!r} has several states at one anchor: pairs of copies would "
            f"count as agreement; give each rollout once"
        )
    keys = pd.DataFrame(
        {
            "problem": graded["problem_id"].astype(str).to_numpy(),
            "wrong": (graded["verdict"] == "wrong").to_numpy(),
            "rollout": graded["rollout_id"].astype(str).to_numpy(),
        }
    )
    inner = keys.sort_values(["problem", "wrong", "rollout"], kind="stable").index.to_numpy()
    graded, keys = graded.iloc[inner], keys.iloc[inner]
    problem_ids, starts, sizes = np.unique(
        keys["problem"].to_numpy(dtype=str), return_index=True, return_counts=True
    )
    right = (~keys["wrong"].to_numpy()).astype(int)
    return Groups(
        problem_ids=tuple(problem_ids.tolist()),
        order=taken[inner],
        starts=np.append(starts, len(graded)).astype(int),
        n_correct=np.array(
            [right[s : s + n].sum() for s, n in zip(starts, sizes, strict=True)], int
        ),
        answer=_answers(graded),
        gold=_golds(graded, starts),
    )


def _answers(graded: pd.DataFrame) -> Int[np.ndarray, " n"]:
    if "answer_class" not in graded.columns:
        return np.full(len(graded), UNKNOWN)
    return graded["answer_class"].astype("Int64").fillna(UNKNOWN).to_numpy(dtype=int)


def _golds(graded: pd.DataFrame, starts: Int[np.ndarray, " p"]) -> Int[np.ndarray, " p"]:
    if "gold" not in graded.columns or not len(graded):
        return np.full(len(starts), UNKNOWN)
    first = graded["gold"].iloc[starts]
    text = first.where(first.isna(), first.astype(str).str.strip())
    return pd.factorize(text)[0]
