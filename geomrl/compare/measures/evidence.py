"""The verdict's evidence as rows: changes from the base to the RL encoder, over both policies."""

from __future__ import annotations

from collections.abc import Iterator

from geomrl.compare.measures.measure import GREEN, RED, Compared, Line, Measure, Panel
from geomrl.compare.rows import BOTH, CHANGE, Row


def evidence_rows(at: Compared) -> Iterator[Row]:
    """Yield the evidence of one layer and anchor."""
    found = at.evidence
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
        yield at.place.row(measure, BOTH, CHANGE, effect, cell=cell, space=space, tested=tested)


MEASURE = Measure(
    rows=evidence_rows,
    labels={
        "common_share": "",
        "effective_rank": "Effective rank",
        "cka": "Debiased CKA",
        "procrustes": "Procrustes, held out",
        "alignment": "Change of centred cosine",
    },
    panels=(
        Panel(
            picture="relation",
            name="shape",
            title="Same shape?",
            unit="Similarity of encoders",
            level=1.0,
            lines=(
                Line(
                    series="cka", label="debiased CKA", measure="cka", policy=BOTH, encoder=CHANGE
                ),
                Line(
                    series="rotated", label="Procrustes, held out", measure="procrustes",
                    policy=BOTH, encoder=CHANGE, cell="rotated", colour=GREEN, marker="D",
                ),
                Line(
                    series="unrotated", label="without rotation", measure="procrustes",
                    policy=BOTH, encoder=CHANGE, cell="unrotated", colour=RED, marker="s",
                    dashed=True,
                ),
            ),
        ),
    ),
)  # fmt: skip
