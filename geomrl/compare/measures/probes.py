"""How well a linear probe tells correct rollouts from wrong ones by their states."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from geomrl.compare.encoder_change import PairedStates
from geomrl.compare.measures.measure import (
    GREY,
    ORANGE,
    RED,
    Compared,
    Line,
    Measure,
    Panel,
    PlaceSettings,
)
from geomrl.compare.rows import ENCODERS, Place, Row
from geomrl.geometry.linear_probes import (
    FEWEST_PROBLEMS,
    Scores,
    grouped_auroc,
    held_out_scores,
    nuisance_features,
    probe_scores,
    problem_folds,
    shuffled_labels,
    transfer_auroc,
    within_auroc,
)


def probe_rows(at: Compared) -> Iterator[Row]:
    """Yield AUROCs for correctness. Their p tests against .5."""
    if not at.settings.probes:
        return
    for policy, paired in at.sets.items():
        if paired.groups.n_problems >= FEWEST_PROBLEMS:
            yield from _of_policy(paired, policy, at.place, at.settings)


def _of_policy(
    paired: PairedStates, policy: str, place: Place, settings: PlaceSettings
) -> Iterator[Row]:
    groups, labels = paired.groups, paired.groups.correct
    fold = problem_folds(groups, settings.seed)
    shuffled = shuffled_labels(labels, settings.seed)
    nuisance = {encoder: _nuisance(paired, encoder) for encoder in ENCODERS}
    (base, base_shuffled), (transferred, _), (base_joint,) = probe_scores(
        paired.base, paired.both, [labels, shuffled], fold, beside=nuisance["base"]
    )
    (rl, rl_shuffled), (rl_joint,) = probe_scores(
        paired.rl, [paired.rl], [labels, shuffled], fold, beside=nuisance["rl"]
    )

    def both(scores: Scores, encoder: str, cell: str) -> Iterator[Row]:
        grouped = grouped_auroc(scores, labels, groups)
        yield place.row("auroc", policy, encoder, grouped, cell=cell, space="grouped", shift=0.5)
        within = within_auroc(scores, labels, groups, seed=settings.seed, n_boot=settings.n_boot)
        yield place.row("auroc", policy, encoder, within, cell=cell, space="within", shift=0.5)

    yield from both(base, "base", "states")
    yield from both(rl, "rl", "states")
    yield from both(transferred, "rl", "probe of base")
    for encoder, states, shuffled_scores, joint in (
        ("base", paired.base, base_shuffled, base_joint),
        ("rl", paired.rl, rl_shuffled, rl_joint),
    ):
        found = grouped_auroc(shuffled_scores, shuffled, groups)
        yield place.row(
            "auroc", policy, encoder, found, cell="shuffled labels", space="grouped", shift=0.5
        )
        features = nuisance[encoder]
        (alone,) = held_out_scores(features, [features], labels, fold)
        yield from both(alone, encoder, "token, entropy, length")
        yield from both(joint, encoder, "states and these")
        yield from _transfer_rows(states, paired, policy=policy, encoder=encoder, place=place)


def _nuisance(paired: PairedStates, encoder: str) -> Float[np.ndarray, "n k"]:
    return nuisance_features(
        paired.rows["token_id"].fillna(-1).to_numpy(dtype=int),
        paired.rows[f"entropy_{encoder}"].to_numpy(dtype=float),
        paired.rows["length"].to_numpy(dtype=float),
    )


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
                    states[a],
                    labels[a],
                    test=states[b],
                    test_labels=labels[b],
                    problem=paired.groups.problem[b],
                )
                yield place.row(
                    "auroc", policy, encoder, effect, cell=f"{one}->{other}", space="benchmark",
                    shift=0.5,
                )  # fmt: skip


def _panel(space: str, title: str) -> Panel:
    def line(series: str, label: str, encoder: str, cell: str, **look: Any) -> Line:
        return Line(
            series=series, label=label, measure="auroc", encoder=encoder, cell=cell, space=space,
            **look,
        )  # fmt: skip

    return Panel(
        picture="auroc",
        name=space,
        title=title,
        unit="AUROC",
        level=0.5,
        lines=(
            line("states base", "states, before", "base", "states", dashed=True),
            line("states rl", "states, after", "rl", "states"),
            line(
                "probe of base rl", "probe before, states after", "rl", "probe of base",
                colour=RED, marker="^",
            ),
            line(
                "token, entropy, length rl", "token, entropy, length", "rl",
                "token, entropy, length", colour=ORANGE, marker="s",
            ),
            line(
                "shuffled labels rl", "shuffled labels", "rl", "shuffled labels",
                colour=GREY, marker="X",
            ),
        ),
    )  # fmt: skip


MEASURE = Measure(
    rows=probe_rows,
    fewest=FEWEST_PROBLEMS,
    by_policy=True,
    labels={"auroc": "Linear probe AUROC"},
    panels=(_panel("grouped", "Held-out problems"), _panel("within", "Within a problem")),
)
