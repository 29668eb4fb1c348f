"""How well a rollout's own answer can be read from its states before it is written."""

from __future__ import annotations

from collections.abc import Iterator

from geomrl.compare.measures.measure import GREY, Compared, Line, Measure, Panel
from geomrl.compare.rows import BOTH, ENCODERS, Row
from geomrl.geometry.answer_decoder import answer_decodability
from geomrl.geometry.linear_probes import problem_folds
from geomrl.probe.anchors import before_the_answer


def decoder_rows(at: Compared) -> Iterator[Row]:
    """Yield how often a linear decoder of other problems names the answer's first token."""
    if not before_the_answer(at.place.anchor):
        return
    settings = at.settings
    for policy, paired in at.sets.items():
        answer = paired.rows["answer_token"].fillna(-1).to_numpy(dtype=int)
        fold = problem_folds(paired.groups, settings.seed)
        usual = float("nan")
        for encoder, states in zip(ENCODERS, paired.both, strict=True):
            found, usual = answer_decodability(
                states, answer, fold, paired.groups, seed=settings.seed, n_boot=settings.n_boot
            )
            yield at.place.row(
                "answer_decodability", policy, encoder, found, cell="own answer", tested=False
            )
        yield at.place.row(
            "answer_decodability", policy, BOTH, usual, cell="most frequent",
            n_problems=paired.groups.n_problems,
        )  # fmt: skip


MEASURE = Measure(
    rows=decoder_rows,
    by_policy=True,
    labels={"answer_decodability": ""},
    panels=(
        Panel(
            picture="lens",
            name="answer_decodability",
            title="Linear decoder: own answer",
            unit="Share right",
            lines=(
                Line(
                    series="base", label="before", measure="answer_decodability", encoder="base",
                    cell="own answer", dashed=True,
                ),
                Line(
                    series="rl", label="after", measure="answer_decodability", encoder="rl",
                    cell="own answer",
                ),
                Line(
                    series="usual", label="always the most frequent",
                    measure="answer_decodability", encoder=BOTH, cell="most frequent",
                    colour=GREY, marker="X",
                ),
            ),
        ),
    ),
)  # fmt: skip
