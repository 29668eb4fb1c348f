"""Whether both encoders find the same rollouts of other problems nearest."""

from __future__ import annotations

from collections.abc import Iterator

from geomrl.compare.measures.measure import GREY, PINK, Compared, Line, Measure, Panel
from geomrl.compare.rows import CHANGE, Row
from geomrl.geometry import neighbours


def neighbour_rows(at: Compared) -> Iterator[Row]:
    """Yield the share of mutual nearest neighbours, beside that of chance."""
    k = at.settings.k
    for policy, paired in at.sets.items():
        groups = paired.groups
        others = len(groups.problem) - int(groups.sizes.max(initial=0))
        if others <= k:
            continue
        share = neighbours.mutual_neighbours(paired.base, paired.rl, groups.problem, k)
        found = at.mean(share, groups, "knn", (0.0, 1.0))
        yield at.place.row("mutual_knn", policy, CHANGE, found, cell=f"k={k}", tested=False)
        chance = neighbours.chance(groups.problem, k)
        yield at.place.row(
            "mutual_knn", policy, CHANGE, chance, cell="chance", n_problems=groups.n_problems
        )


MEASURE = Measure(
    rows=neighbour_rows,
    by_policy=True,
    labels={"mutual_knn": "Mutual nearest neighbours"},
    panels=(
        Panel(
            picture="relation",
            name="knn",
            title="Same neighbours?",
            unit="Share of 10 nearest",
            lines=(
                Line(
                    series="knn", label="mutual neighbours", measure="mutual_knn", encoder=CHANGE,
                    cell="k=10", colour=PINK, marker="^",
                ),
                Line(
                    series="chance", label="by chance", measure="mutual_knn", encoder=CHANGE,
                    cell="chance", colour=GREY, marker="X", dashed=True,
                ),
            ),
        ),
    ),
)  # fmt: skip
