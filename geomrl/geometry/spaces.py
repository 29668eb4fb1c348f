"""Cosines between anchor states: raw, mean-centred, whitened.

A raw cosine mixes three things: a direction that all states share (anisotropy), what is particular
to the problem, and what is particular to correctness. Centring removes the first, whitening also
evens out the scale of the directions that remain. Each space answers the same three questions:
cosines within problems, their sums over pairs of problems, and the cosine of named pairs.

No array of rollouts x rollouts x hidden is ever made: raw and whitened sums over pairs of
problems come from each problem's sum of unit vectors, centred ones from blocks of problems.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from geomrl.errors import GeomrlError
from geomrl.geometry.groups import Groups

SpaceName = Literal["raw", "centred", "whitened"]
SPACES: tuple[SpaceName, ...] = ("raw", "centred", "whitened")
WHITENING_FOLDS = 5
_NO_DIRECTION = 1e-6  # a vector this short, relative to its state, is float32 rounding
_BLOCK_NUMBERS = 300_000  # float64 numbers in one block of pairs of problems: 2.4 MB, cached
_PAIRS_AT_ONCE = 2_000_000  # numbers gathered at once for the cosines of named pairs

Rows = Int[np.ndarray, " k"]


@dataclass(frozen=True)
class CrossSums:
    """Sums of cosines over the rollout pairs of each ordered pair of different problems.

    Symmetric, 0 on the diagonal and where the space cannot compare the problems.
    """

    graded: Float[np.ndarray, "p p"]
    correct: Float[np.ndarray, "p p"]


@dataclass(frozen=True)
class Refusal:
    """Why a space is not available for these states."""

    reason: str


class Space(Protocol):
    """How to compare the states of one layer and anchor."""

    @property
    def n_without_direction(self) -> int:
        """States no more than rounding away from the centre; their cosines count as 0."""

    @property
    def comparable(self) -> Bool[np.ndarray, "p p"]:
        """Which pairs of different problems the space can compare."""

    def within(self, p: int) -> Float[np.ndarray, "n n"]:
        """Return the cosines between the rollouts of problem p (diagonal 1)."""

    def across(self) -> CrossSums:
        """Return the sums over pairs of different problems."""

    def cosines(self, i: Rows, j: Rows) -> Float[np.ndarray, " k"]:
        """Return the cosines of pairs of rows; NaN where the space cannot compare the problems."""


def build_space(
    name: SpaceName, states: Float[np.ndarray, "n d"], groups: Groups, *, seed: int = 0
) -> Space | Refusal:
    """Return a space over states that are already in the groups' order.

    Args:
        name: "raw", "centred" or "whitened".
        states: [N, d], `all_states[groups.order]`.
        groups: who is who.
        seed: of the folds and of the states that whitening learns from.

    Raises:
        GeomrlError: a state is not finite, or there is no such space.
    """
    if not np.isfinite(states).all():
        bad = int(np.flatnonzero(~np.isfinite(states).all(axis=1))[0])
        raise GeomrlError(
            f"a state of problem {groups.problem_ids[groups.problem[bad]]!r} is not finite: its "
            f"cosines have no meaning; read the states again in float32 or bfloat16"
        )
    if name == "raw":
        return raw_space(states, groups)
    if name == "centred":
        return centred_space(states, groups)
    if name == "whitened":
        return whitened_space(states, groups, seed=seed)
    raise GeomrlError(f"space {name!r}: there is none such; choose among {', '.join(SPACES)}")


def raw_space(states: Float[np.ndarray, "n d"], groups: Groups) -> Space:
    """Return the plain cosine between states."""
    unit, lost = _unit(states, _norms(states))
    return _UnitSpace(groups, unit, np.zeros(groups.n_problems, int), lost)


def centred_space(states: Float[np.ndarray, "n d"], groups: Groups) -> Space | Refusal:
    """Return the cosine after subtracting a centre that knows neither rollout's problem.

    For a pair from problems p and q, or both from p, the centre is the mean over the *other*
    problems of their mean states: one vote a problem. (A centre that contains a pair's own
    problems pushes their states apart: different-problem cosines fell by .022 at 30 problems.)
    """
    if groups.n_problems < 2:
        return Refusal("centring leaves a pair's own problem out and needs another one")
    means = groups.sums(states) / groups.sizes[:, None]
    # Cosines from a centre are blind to a shift of all states; this one keeps numbers small.
    middle = means.mean(axis=0)
    return _CentredSpace(groups, states - middle, means - middle, _norms(states))


def whitened_space(
    states: Float[np.ndarray, "n d"], groups: Groups, *, seed: int = 0
) -> Space | Refusal:
    """Return the cosine after whitening with a covariance learnt on other problems.

    Mean and Ledoit-Wolf shrinkage covariance (2004, Journal of Multivariate Analysis 88) of one
    state a problem, drawn by seed, from the problems outside a fold whiten the fold's states.
    Pairs across problems are compared within a fold only, since folds have different axes.
    Refused where fewer than two training problems a dimension are left: shrinkage then decides
    the result.
    """
    fold = np.argsort(np.argsort(groups.draw(seed, "whitening folds"))) % WHITENING_FOLDS
    chosen = groups.one_each(seed, "whitening")
    d, n_train = states.shape[1], groups.n_problems - int(np.bincount(fold).max(initial=0))
    if n_train < 2 * d:
        return Refusal(
            f"whitening d = {d} dimensions needs {2 * d} training problems, there are {n_train}"
        )
    white = np.empty(states.shape)
    for f in range(WHITENING_FOLDS):
        inside = fold[groups.problem] == f
        fitted = _whiten(states[chosen[fold != f]].astype(float), states[inside].astype(float))
        if fitted is None:
            return Refusal("the states have no variance to whiten")
        white[inside] = fitted
    unit, lost = _unit(white, np.zeros(len(white)))
    return _UnitSpace(groups, unit, fold, lost)


def _whiten(
    train: Float[np.ndarray, "m d"], states: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, "n d"] | None:
    from scipy.linalg import solve_triangular
    from sklearn.covariance import LedoitWolf

    fit = LedoitWolf().fit(train)
    if np.trace(fit.covariance_) <= _NO_DIRECTION**2 * float((train**2).sum(axis=1).mean()):
        return None
    # Any square root of the inverse covariance gives the same cosines: Cholesky is the cheapest.
    root = np.linalg.cholesky(fit.covariance_)
    return solve_triangular(root, (states - fit.location_).T, lower=True).T


@dataclass(frozen=True)
class _UnitSpace:
    """Cosines as products of unit vectors; problems compare within their fold."""

    groups: Groups
    unit: Float[np.ndarray, "n d"]
    fold: Int[np.ndarray, " p"]
    lost: int

    @property
    def n_without_direction(self) -> int:
        return self.lost

    @property
    def comparable(self) -> Bool[np.ndarray, "p p"]:
        return (self.fold[:, None] == self.fold[None, :]) & ~np.eye(len(self.fold), dtype=bool)

    def within(self, p: int) -> Float[np.ndarray, "n n"]:
        own = self.unit[self.groups.rows(p)]
        return own @ own.T

    def across(self) -> CrossSums:
        graded = self.groups.sums(self.unit)  # [P, d]
        correct = self.groups.sums(self.unit, self.groups.correct)
        return CrossSums(graded @ graded.T * self.comparable, correct @ correct.T * self.comparable)

    def cosines(self, i: Rows, j: Rows) -> Float[np.ndarray, " k"]:
        fold = self.fold[self.groups.problem]
        found = np.full(len(i), np.nan)
        for part in _chunks(len(i), self.unit.shape[1]):
            found[part] = np.einsum("kd,kd->k", self.unit[i[part]], self.unit[j[part]])
        return np.where(fold[i] == fold[j], found, np.nan)


@dataclass(frozen=True)
class _CentredSpace:
    """Cosines from a centre that depends on the pair: the mean of all other problems' means.

    With means m that sum to zero, the centre for problems p and q is -(m_p + m_q) / (P - 2), and
    -m_p / (P - 1) for a pair within p.
    """

    groups: Groups
    states: Float[np.ndarray, "n d"]
    means: Float[np.ndarray, "p d"]
    lengths: Float[np.ndarray, " n"]  # of the states before centring

    @property
    def n_without_direction(self) -> int:
        others, problem = self.groups.n_problems - 1, self.groups.problem
        own = self._dots[np.arange(len(problem)), problem]
        centre = np.einsum("pd,pd->p", self.means, self.means)[problem] / others**2
        away = np.sqrt(np.maximum(self._squares + 2 * own / others + centre, 0.0))
        return int((away <= _NO_DIRECTION * self.lengths).sum())

    @property
    def comparable(self) -> Bool[np.ndarray, "p p"]:
        n = self.groups.n_problems
        return ~np.eye(n, dtype=bool) if n > 2 else np.zeros((n, n), dtype=bool)

    def within(self, p: int) -> Float[np.ndarray, "n n"]:
        rows = self.groups.rows(p)
        away = self.states[rows] + self.means[p] / (self.groups.n_problems - 1)
        unit, _ = _unit(away, self.lengths[rows])
        return unit @ unit.T

    def across(self) -> CrossSums:
        n = self.groups.n_problems
        if n < 3:
            return CrossSums(np.zeros((n, n)), np.zeros((n, n)))
        pull, closeness, centre = self._distances()
        starts = self.groups.starts
        graded = self._pair_sums(closeness, pull, centre, starts[1:])
        ends = starts[:-1] + self.groups.n_correct  # correct rollouts come first
        right = closeness * self.groups.correct[:, None]
        correct = self._pair_sums(right, pull, centre, ends)
        return CrossSums(graded, correct)

    def cosines(self, i: Rows, j: Rows) -> Float[np.ndarray, " k"]:
        n_problems, problem = self.groups.n_problems, self.groups.problem
        found = np.full(len(i), np.nan)
        for part in _chunks(len(i), self.states.shape[1]):
            p, q = problem[i[part]], problem[j[part]]
            same = (p == q)[:, None]
            left_out = np.where(same, self.means[p], self.means[p] + self.means[q])
            others = n_problems - np.where(same, 1, 2)
            shift = left_out / np.maximum(others, 1)
            u, _ = _unit(self.states[i[part]] + shift, self.lengths[i[part]])
            v, _ = _unit(self.states[j[part]] + shift, self.lengths[j[part]])
            found[part] = np.where(others[:, 0] > 0, np.einsum("kd,kd->k", u, v), np.nan)
        return found

    @cached_property
    def _dots(self) -> Float[np.ndarray, "n p"]:
        """Products of states and means."""
        return self.states @ self.means.T

    @cached_property
    def _squares(self) -> Float[np.ndarray, " n"]:
        return np.einsum("nd,nd->n", self.states, self.states)

    def _distances(
        self,
    ) -> tuple[Float[np.ndarray, "n p"], Float[np.ndarray, "n p"], Float[np.ndarray, "p p"]]:
        """Return x_i . c, 1 / |x_i - c| and |c|^2, for c the centre of (i's problem, q)."""
        problem, others = self.groups.problem, self.groups.n_problems - 2
        dots = self._dots
        pull = -(dots + dots[np.arange(len(dots)), problem][:, None]) / others
        gram = self.means @ self.means.T
        square = np.diag(gram)
        centre = (square[:, None] + 2 * gram + square[None, :]) / others**2  # [P, P]
        away = np.sqrt(np.maximum(self._squares[:, None] - 2 * pull + centre[problem], 0.0))
        seen = away > _NO_DIRECTION * self.lengths[:, None]
        return pull, np.divide(1.0, away, out=np.zeros_like(away), where=seen), centre

    def _pair_sums(
        self,
        weight: Float[np.ndarray, "n p"],
        pull: Float[np.ndarray, "n p"],
        centre: Float[np.ndarray, "p p"],
        ends: Int[np.ndarray, " p"],
    ) -> Float[np.ndarray, "p p"]:
        """Return, for p and q, the sum over i in p and j in q of w_iq w_jp (x_i - c) . (x_j - c).

        Multiplied out, so that states meet once a problem and not once a rollout. Rows of p from
        `ends[p]` on have no weight.
        """
        n_problems, hidden = self.means.shape
        total, lean = self.groups.sums(weight), self.groups.sums(weight * pull)  # [P, P]
        sums = total * total.T * centre - lean * total.T - total * lean.T
        width = max(1, int(np.sqrt(_BLOCK_NUMBERS / hidden)))
        blocks = [slice(a, min(a + width, n_problems)) for a in range(0, n_problems, width)]
        for k, these in enumerate(blocks):
            for those in blocks[k:]:
                there = self._pulled(these, those, weight, ends)
                back = self._pulled(those, these, weight, ends)
                block = np.einsum("pqd,qpd->pq", there, back)
                sums[these, those] += block
                if those != these:
                    sums[those, these] += block.T
        np.fill_diagonal(sums, 0.0)
        return sums

    def _pulled(
        self,
        these: slice,
        those: slice,
        weight: Float[np.ndarray, "n p"],
        ends: Int[np.ndarray, " p"],
    ) -> Float[np.ndarray, "a b d"]:
        """Return, for p in `these` and q in `those`, the sum of p's states times their weight."""
        shape = these.stop - these.start, those.stop - those.start, self.states.shape[1]
        found = np.empty(shape)
        for k, p in enumerate(range(these.start, these.stop)):
            rows = slice(int(self.groups.starts[p]), int(ends[p]))
            np.matmul(weight[rows, those].T, self.states[rows], out=found[k])
        return found


def _norms(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    x = np.asarray(x, dtype=float)
    return np.sqrt(np.einsum("nd,nd->n", x, x))


def _unit(
    x: Float[np.ndarray, "n d"], lengths: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "n d"], int]:
    """Return unit vectors, zero where x is rounding beside `lengths`, and how many are zero."""
    norms = _norms(x)
    seen = (norms > _NO_DIRECTION * lengths) & (norms > 0)
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=seen)
    return x * scale[:, None], int((~seen).sum())


def _chunks(n: int, width: int) -> list[slice]:
    step = max(1, _PAIRS_AT_ONCE // max(width, 1))
    return [slice(a, a + step) for a in range(0, n, step)]
