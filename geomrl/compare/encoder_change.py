"""What the RL encoder does to rollouts that the base encoder read too, at one layer and anchor.

Policy and representation change together, so both encoders read the *same* rollouts, and every
change here is the encoder's alone. It is measured on the base policy's rollouts and on the RL
policy's, and averaged by problem over the problems that have the needed cells in both: a problem
that RL solved has no wrong pairs left, and must not drop out on one side only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from geomrl.errors import GeomrlError
from geomrl.geometry.cells import Cell, cross_cells, within_cells
from geomrl.geometry.cka import FEWEST, cka_without
from geomrl.geometry.groups import Groups, group_rows
from geomrl.geometry.procrustes import HeldOut, held_out_procrustes
from geomrl.geometry.spaces import Refusal, Space, centred_space, raw_space
from geomrl.geometry.spectrum import effective_rank, spectra_without
from geomrl.seeds import deal
from geomrl.stats.effect import N_BOOT, Effect, jackknife_effect, mean_effect, unknown

JACKKNIFE_GROUPS = 20
_ROUNDING = 1e-6  # a spread this small beside the states is float32 rounding


@dataclass(frozen=True)
class PairedStates:
    """Rollouts of one policy as two encoders read them: states [N, d] in the groups' order.

    `rows` are the rollouts' labels in the same order.
    """

    rows: pd.DataFrame
    groups: Groups
    base: Float[np.ndarray, "n d"]
    rl: Float[np.ndarray, "n d"]

    @cached_property
    def raw(self) -> tuple[SpaceCells, SpaceCells]:
        """Raw cosines, as the base and as the RL encoder gives them."""
        base, rl = (space_cells(raw_space(x, self.groups), self.groups) for x in self.both)
        return base, rl

    @cached_property
    def centred(self) -> tuple[SpaceCells, SpaceCells] | None:
        """Centred cosines of both encoders; None where one has none."""
        spaces = [centred_space(x, self.groups) for x in self.both]
        cells = [space_cells(s, self.groups) for s in spaces if not isinstance(s, Refusal)]
        return (cells[0], cells[1]) if len(cells) == 2 else None

    @property
    def both(self) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n d"]]:
        """The base encoder's states and the RL encoder's."""
        return self.base, self.rl


@dataclass(frozen=True)
class SpaceCells:
    """Cells within problems, and across them, of one encoder in one space."""

    within: dict[str, Cell]
    across: dict[str, Cell]


@dataclass(frozen=True, kw_only=True)
class GeometryEvidence:
    """Changes from the base to the RL encoder on identical rollouts, averaged over both policies'.

    Attributes:
        cc: centred cosine of correct rollouts of a problem.
        cc_over_ii, cc_over_ci, cc_over_floor: the same less that of wrong pairs, of mixed pairs,
            and of the problem's rollouts with other problems'; paired by problem.
        raw_cc, raw_floor: raw cosines, for reading; the loss trains the first and moves the second.
        common_share: raw CC across problems over raw CC within, for correct rollouts: the share of
            their common part that all problems have in common. It is the floor freed of the
            attenuation by rollout noise (Spearman 1904), so that drawing the correct rollouts of
            each problem together leaves it where it is, and drawing all problems together does not.
        log_rank: log of the ratio of effective ranks, one state a problem.
        cka: debiased CKA between the encoders (no change: 1).
        unrotated, rotated, gain: held-out Procrustes scores and their difference.
        n_directions: that Procrustes compared.
    """

    cc: Effect
    cc_over_ii: Effect
    cc_over_ci: Effect
    cc_over_floor: Effect
    raw_cc: Effect
    raw_floor: Effect
    common_share: Effect
    log_rank: Effect
    cka: Effect
    unrotated: Effect
    rotated: Effect
    gain: Effect
    n_directions: int


def pair_states(
    rows: pd.DataFrame, base: Float[np.ndarray, "rows d"], rl: Float[np.ndarray, "rows d"]
) -> PairedStates:
    """Put two encoders' states of the same rollouts into the groups' order.

    Args:
        rows: as for `group_rows`, aligned with both; problem ids unique over benchmarks.
        base, rl: states.

    Raises:
        GeomrlError: rows and states do not pair, or a state is not finite.
    """
    if not len(rows) == len(base) == len(rl):
        raise GeomrlError(
            f"{len(rows)} rows, {len(base)} base and {len(rl)} RL states: both encoders must read "
            "the same rollouts"
        )
    if not (np.isfinite(base).all() and np.isfinite(rl).all()):
        raise GeomrlError("a state is not finite; read the states again in float32")
    groups = group_rows(rows)
    return PairedStates(
        rows.iloc[groups.order].reset_index(drop=True), groups,
        base[groups.order].astype(float), rl[groups.order].astype(float),
    )  # fmt: skip


def space_cells(space: Space, groups: Groups) -> SpaceCells:
    """Return one space's cells."""
    grams = [space.within(p) for p in range(groups.n_problems)]
    return SpaceCells(within_cells(grams, groups), cross_cells(space, groups))


def geometry_evidence(
    sets: Sequence[PairedStates], *, seed: int = 0, n_boot: int = N_BOOT
) -> GeometryEvidence:
    """Return what the encoder changed, averaged over the policies whose rollouts are given.

    Args:
        sets: rollouts of one policy each.
        seed: of bootstrap draws, of the states that the rank takes, and of the folds.
        n_boot: bootstrap draws.
    """
    problems = _shared([paired.groups.problem_ids for paired in sets])

    def mean(values: list[dict[str, float]], label: str) -> Effect:
        each = np.array([[v.get(p, np.nan) for p in problems] for v in values])
        return mean_effect(each.mean(axis=0), seed=seed, label=f"encoder/{label}", n_boot=n_boot)

    assigned = jackknife_groups(sets, seed)
    cells = [_changes(paired) for paired in sets]
    scores = [_procrustes(paired, seed) for paired in sets]
    return GeometryEvidence(
        **{name: mean([c[name] for c in cells], name) for name in cells[0]},
        common_share=_common_share(sets, problems),
        log_rank=_log_rank(sets, assigned, seed),
        cka=_cka(sets, assigned),
        **_procrustes_effects(scores, sets, problems),
        n_directions=min(score.n_directions for score in scores),
    )


def _changes(paired: PairedStates) -> dict[str, dict[str, float]]:
    """Return, by measure, each problem's change."""
    names = paired.groups.problem_ids
    before: dict[str, Float[np.ndarray, " p"]] = {}
    after: dict[str, Float[np.ndarray, " p"]] = {}
    centred_cells = paired.centred or (None, None)
    for found, raw, centred in zip((before, after), paired.raw, centred_cells, strict=True):
        blank = np.full(len(names), np.nan)
        if centred is None:
            found |= dict.fromkeys(("cc", "cc_over_ii", "cc_over_ci", "cc_over_floor"), blank)
        else:
            cc = centred.within["CC"].means
            found |= {
                "cc": cc,
                "cc_over_ii": cc - centred.within["II"].means,
                "cc_over_ci": cc - centred.within["CI"].means,
                "cc_over_floor": cc - _by_problem(centred.across["floor"]),
            }
        found |= {
            "raw_cc": raw.within["CC"].means,
            "raw_floor": _by_problem(raw.across["floor"]),
        }
    return {
        name: dict(zip(names, (after[name] - before[name]).tolist(), strict=True))
        for name in before
    }


def _by_problem(floor: Cell) -> Float[np.ndarray, " p"]:
    """Return each problem's mean over the other problems."""
    partners = np.maximum((floor.counts > 0).sum(axis=1), 1)
    means = np.nan_to_num(floor.means).sum(axis=1) / partners
    return np.where((floor.counts > 0).any(axis=1), means, np.nan)


def _common_share(sets: Sequence[PairedStates], problems: Sequence[str]) -> Effect:
    """Return the change of mean CC_cross / mean CC; the jackknife leaves out a problem a time."""
    correct = [dict(zip(s.groups.problem_ids, s.groups.n_correct, strict=True)) for s in sets]
    kept = [p for p in problems if all(n[p] >= 2 for n in correct)]
    if len(kept) < 3:
        return unknown()
    changes = []
    for paired in sets:
        at = {p: i for i, p in enumerate(paired.groups.problem_ids)}
        index = np.array([at[p] for p in kept])
        before, after = (
            _shares(c.within["CC"].means[index], c.across["CC_cross"].means[np.ix_(index, index)])
            for c in paired.raw
        )
        changes.append(after - before)
    both = np.mean(changes, axis=0)
    return jackknife_effect(float(both[0]), both[1:], len(kept))


def _shares(
    cc: Float[np.ndarray, " k"], cross: Float[np.ndarray, "k k"]
) -> Float[np.ndarray, " k1"]:
    """Return the share over all problems, then without each."""
    k = len(cc)
    cross = np.nan_to_num(cross)
    np.fill_diagonal(cross, 0.0)
    total, own = cross.sum(), cross.sum(axis=1)
    across = np.append(total / (k * (k - 1)), (total - 2 * own) / ((k - 1) * (k - 2)))
    within = np.append(cc.mean(), (cc.sum() - cc) / (k - 1))
    return np.where(within > 0, across / np.where(within > 0, within, 1.0), np.nan)


def _shared(ids: Sequence[Sequence[str]]) -> list[str]:
    rest = [set(other) for other in ids[1:]]
    return [p for p in ids[0] if all(p in other for other in rest)]


def jackknife_groups(sets: Sequence[PairedStates], seed: int) -> list[Int[np.ndarray, " p"]]:
    """Return each set's problems' groups, 0 .. 19, dealt by seed; a problem's is the same in all."""
    names = sorted({p for paired in sets for p in paired.groups.problem_ids})
    group = dict(zip(names, deal(names, JACKKNIFE_GROUPS, seed, "jackknife"), strict=True))
    return [np.array([group[p] for p in paired.groups.problem_ids]) for paired in sets]


def _cka(sets: Sequence[PairedStates], groups: Sequence[Int[np.ndarray, " p"]]) -> Effect:
    found = []
    if not all(map(_spread, sets)):
        return unknown()
    for paired, group in zip(sets, groups, strict=True):
        own = group[paired.groups.problem]
        sizes = np.bincount(own, minlength=_n_groups(groups))
        if len(own) - sizes.max() < FEWEST:
            return unknown()
        found.append(cka_without(paired.base, paired.rl, own, len(sizes)))
    return _average(found, min(s.groups.n_problems for s in sets))


def _spread(paired: PairedStates) -> bool:
    """Say whether both encoders' states differ by more than rounding: layer 0 often has one token."""
    return all(
        np.abs(x - x.mean(axis=0)).max(initial=0.0) > _ROUNDING * np.abs(x).max(initial=0.0)
        for x in (paired.base, paired.rl)
    )


def _n_groups(groups: Sequence[Int[np.ndarray, " p"]]) -> int:
    return 1 + max(int(group.max()) for group in groups)


def _average(
    found: Sequence[tuple[float, Float[np.ndarray, " groups"]]], n_problems: int
) -> Effect:
    """Return the mean over rollout sets, of the value and of each group's replicate."""
    value = float(np.mean([v for v, _ in found]))
    return jackknife_effect(value, np.mean([r for _, r in found], axis=0), n_problems)


def _log_rank(
    sets: Sequence[PairedStates], assigned: Sequence[Int[np.ndarray, " p"]], seed: int
) -> Effect:
    found = []
    for paired, group in zip(sets, assigned, strict=True):
        groups = paired.groups
        pick = groups.one_each(seed, "rank")
        base, rl = (
            [effective_rank(s) for s in spectra_without(x[pick], group, _n_groups(assigned))]
            for x in paired.both
        )
        whole, *parts = np.log(np.divide(rl, base)).tolist()
        found.append((whole, np.array(parts)))
    return _average(found, min(s.groups.n_problems for s in sets))


def _procrustes(paired: PairedStates, seed: int) -> HeldOut:
    fold = deal(paired.groups.problem_ids, 2, seed, "procrustes")
    return held_out_procrustes(paired.base, paired.rl, paired.groups.problem, fold)


def _procrustes_effects(
    scores: Sequence[HeldOut], sets: Sequence[PairedStates], problems: Sequence[str]
) -> dict[str, Effect]:
    """Return the scores' effects; the fits are held, the scored problems jackknifed."""
    if not all(map(_spread, sets)):
        return dict.fromkeys(("unrotated", "rotated", "gain"), unknown(n_problems=len(problems)))
    wholes = [score.score() for score in scores]
    at = [{p: i for i, p in enumerate(paired.groups.problem_ids)} for paired in sets]
    replicates = [
        [score.score(np.arange(len(score.base)) != own[p]) for p in problems]
        for score, own in zip(scores, at, strict=True)
    ]
    return {
        name: jackknife_effect(
            float(np.mean([getattr(whole, name) for whole in wholes])),
            np.mean([[getattr(r, name) for r in each] for each in replicates], axis=0),
            len(problems),
        )
        for name in ("unrotated", "rotated", "gain")
    }
