"""Everything that is measured at one layer and anchor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from geomrl.compare.cell_rows import similarity_rows
from geomrl.compare.encoder_change import GeometryEvidence, PairedStates
from geomrl.compare.rows import BOTH, CHANGE, Place, Row
from geomrl.geometry import dimension, neighbours, rsa
from geomrl.geometry.drift import drift
from geomrl.geometry.groups import Groups
from geomrl.geometry.linear_probes import (
    FEWEST_PROBLEMS,
    Scores,
    grouped_auroc,
    held_out_scores,
    nuisance_features,
    problem_folds,
    shuffled_labels,
    transfer_auroc,
    within_auroc,
)
from geomrl.geometry.spectrum import matched_spectra
from geomrl.probe.lens import answer_decodability, before_the_answer
from geomrl.stats.effect import Effect, mean_effect

_ENCODERS = ("base", "rl")


@dataclass(frozen=True)
class PlaceSettings:
    """How much is done: `probes` fits linear probes here, `n_perm` is RSA's number of permutations."""

    seed: int = 0
    n_boot: int = 1000
    n_perm: int = 0
    probes: bool = False
    k: int = 10


def place_rows(
    sets: Mapping[str, PairedStates],
    evidence: GeometryEvidence,
    place: Place,
    settings: PlaceSettings,
) -> Iterator[Row]:
    """Yield the rows of one layer and anchor.

    Args:
        sets: rollouts by policy ("base", "rl").
        evidence: `geometry_evidence` of them.
        place: layer and anchor.
        settings: how much is done.
    """
    yield from similarity_rows(sets, place, seed=settings.seed, n_boot=settings.n_boot)
    yield from evidence_rows(evidence, place)
    for policy, paired in sets.items():
        yield from _spread_rows(paired, policy, place, settings)
        yield from _relation_rows(paired, policy, place, settings)
        if before_the_answer(place.anchor):
            yield from _decoder_rows(paired, policy, place, settings)
        if settings.probes and paired.groups.n_problems >= FEWEST_PROBLEMS:
            yield from _probe_rows(paired, policy, place, settings)


def evidence_rows(found: GeometryEvidence, place: Place) -> Iterator[Row]:
    """Yield the verdict's evidence: changes from the base to the RL encoder, over both policies."""
    effects = {
        ("common_share", "", "raw"): found.common_share,
        ("effective_rank", "log ratio", "raw"): found.log_rank,
        ("cka", "", ""): found.cka,
        ("procrustes", "unrotated", ""): found.unrotated,
        ("procrustes", "rotated", ""): found.rotated,
        ("procrustes", "gain", ""): found.gain,
        ("alignment", "CC", "centred"): found.cc,
        ("alignment", "CC-II", "centred"): found.cc_over_ii,
        ("alignment", "CC-CI", "centred"): found.cc_over_ci,
        ("alignment", "CC-floor", "centred"): found.cc_over_floor,
    }
    for (measure, cell, space), effect in effects.items():
        tested = measure != "cka" and cell not in ("unrotated", "rotated")  # 1 is no change there
        yield place.row(measure, BOTH, CHANGE, effect, cell=cell, space=space, tested=tested)


def _spread_rows(
    paired: PairedStates, policy: str, place: Place, settings: PlaceSettings
) -> Iterator[Row]:
    """Yield effective rank and participation ratio at matched n, and TwoNN, of each encoder."""
    groups = paired.groups
    pick = groups.one_each(settings.seed, "rank")
    for encoder, states in zip(_ENCODERS, (paired.base, paired.rl), strict=True):
        spectra, n = matched_spectra(states, groups, seed=settings.seed)
        for (measure, cell), interval in spectra.items():
            yield place.row(
                measure, policy, encoder, interval, cell=cell, space="raw", n_problems=n
            )
        one_each = states[pick]
        if len(np.unique(one_each, axis=0)) >= dimension.FEWEST:
            yield place.row(
                "two_nn", policy, encoder, dimension.two_nn(one_each), n_problems=len(pick)
            )


def _relation_rows(
    paired: PairedStates, policy: str, place: Place, settings: PlaceSettings
) -> Iterator[Row]:
    """Yield how the two encoders' states of the same rollouts relate."""
    groups = paired.groups

    def mean(
        values: Float[np.ndarray, " n"], label: str, bounds: tuple[float, float] | None = None
    ) -> Effect:
        return mean_effect(
            _by_problem(values, groups), seed=settings.seed, label=label, n_boot=settings.n_boot,
            bounds=bounds,
        )  # fmt: skip

    moved = drift(paired.base, paired.rl)
    yield place.row("log_norm_ratio", policy, CHANGE, mean(moved.log_norm_ratio, "norm"))
    direction = mean(moved.direction, "direction", (-1.0, 1.0))
    yield place.row("direction", policy, CHANGE, direction, tested=False)
    others = len(groups.problem) - int(groups.sizes.max(initial=0))
    if groups.n_problems >= 2 and others > settings.k:
        share = neighbours.mutual_neighbours(paired.base, paired.rl, groups.problem, settings.k)
        found = mean(share, "knn", (0.0, 1.0))
        yield place.row("mutual_knn", policy, CHANGE, found, cell=f"k={settings.k}", tested=False)
        by_chance = neighbours.chance(groups.problem, settings.k)
        yield place.row(
            "mutual_knn", policy, CHANGE, by_chance, cell="chance", n_problems=groups.n_problems
        )
    if groups.n_problems >= rsa.FEWEST:
        related = rsa.rsa(
            *(_means(x, groups) for x in (paired.base, paired.rl)),
            n_perm=settings.n_perm, seed=settings.seed,
        )  # fmt: skip
        row = place.row("rsa", policy, CHANGE, related.value, n_problems=related.n_problems)
        yield {**row, "p": related.p}


def _decoder_rows(
    paired: PairedStates, policy: str, place: Place, settings: PlaceSettings
) -> Iterator[Row]:
    """Yield how well the rollout's own answer is decoded from each encoder's states."""
    answer = paired.rows["answer_token"].fillna(-1).to_numpy(dtype=int)
    fold = problem_folds(paired.groups, settings.seed)
    for encoder, states in zip(_ENCODERS, (paired.base, paired.rl), strict=True):
        found, usual = answer_decodability(
            states, answer, fold, paired.groups, seed=settings.seed, n_boot=settings.n_boot
        )
        yield place.row(
            "answer_decodability", policy, encoder, found, cell="own answer", tested=False
        )
    yield place.row(
        "answer_decodability", policy, BOTH, usual, cell="most frequent",
        n_problems=paired.groups.n_problems,
    )  # fmt: skip


def _probe_rows(
    paired: PairedStates, policy: str, place: Place, settings: PlaceSettings
) -> Iterator[Row]:
    """Yield AUROCs for correctness. Their p tests against .5."""
    groups, labels = paired.groups, paired.groups.correct
    fold = problem_folds(groups, settings.seed)
    base, transferred = held_out_scores(paired.base, [paired.base, paired.rl], labels, fold)
    (rl,) = held_out_scores(paired.rl, [paired.rl], labels, fold)

    def both(scores: Scores, encoder: str, cell: str) -> Iterator[Row]:
        grouped = grouped_auroc(scores, labels, groups)
        yield place.row("auroc", policy, encoder, grouped, cell=cell, space="grouped", shift=0.5)
        within = within_auroc(scores, labels, groups, seed=settings.seed, n_boot=settings.n_boot)
        yield place.row("auroc", policy, encoder, within, cell=cell, space="within", shift=0.5)

    yield from both(base, "base", "states")
    yield from both(rl, "rl", "states")
    yield from both(transferred, "rl", "probe of base")
    shuffled = shuffled_labels(labels, settings.seed)
    for encoder, states in zip(_ENCODERS, (paired.base, paired.rl), strict=True):
        (scores,) = held_out_scores(states, [states], shuffled, fold)
        found = grouped_auroc(scores, shuffled, groups)
        yield place.row(
            "auroc", policy, encoder, found, cell="shuffled labels", space="grouped", shift=0.5
        )
        nuisance = nuisance_features(
            paired.rows["token_id"].fillna(-1).to_numpy(dtype=int),
            paired.rows[f"entropy_{encoder}"].to_numpy(dtype=float),
            paired.rows["length"].to_numpy(dtype=float),
        )
        joint = np.concatenate([nuisance, states], axis=1)
        for cell, features in (("token, entropy, length", nuisance), ("states and these", joint)):
            (scores,) = held_out_scores(features, [features], labels, fold)
            yield from both(scores, encoder, cell)
        yield from _transfer_rows(states, paired, policy, encoder, place)


def _transfer_rows(
    states: Float[np.ndarray, "n d"], paired: PairedStates, policy: str, encoder: str, place: Place
) -> Iterator[Row]:
    """Yield, for each ordered pair of benchmarks, a probe fitted on one and read on the other."""
    names = paired.rows["benchmark"].to_numpy(dtype=str)
    present = np.unique(names)
    if len(present) < 2:
        return
    labels = paired.groups.correct
    for one in present:
        for other in present:
            if one != other:
                a, b = names == one, names == other
                effect = transfer_auroc(
                    states[a], labels[a], states[b], labels[b], paired.groups.problem[b]
                )
                yield place.row(
                    "auroc", policy, encoder, effect, cell=f"{one}->{other}", space="benchmark",
                    shift=0.5,
                )  # fmt: skip


def _by_problem(values: Float[np.ndarray, " n"], groups: Groups) -> Float[np.ndarray, " p"]:
    sums = np.bincount(groups.problem, values, minlength=groups.n_problems)
    return sums / groups.sizes


def _means(states: Float[np.ndarray, "n d"], groups: Groups) -> Float[np.ndarray, "p d"]:
    return groups.sums(states) / groups.sizes[:, None]
