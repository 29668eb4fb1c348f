"""Everything that is measured at one layer and anchor: one tuple of measures, and the rows they yield."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from geomrl.compare.measures import (
    cells,
    decoder,
    evidence,
    lens,
    movement,
    mutual_neighbours,
    probes,
    rsa,
    spread,
)
from geomrl.compare.measures.measure import Compared, Measure
from geomrl.compare.rows import Row
from geomrl.errors import GeomrlError
from geomrl.files import load_user_code

MEASURES: tuple[Measure, ...] = (
    cells.MEASURE,
    evidence.MEASURE,
    spread.MEASURE,
    movement.MEASURE,
    mutual_neighbours.MEASURE,
    rsa.MEASURE,
    decoder.MEASURE,
    probes.MEASURE,
    lens.MEASURE,
)
"""All measures of the encoder's change, in the order of the table's rows."""
_POLICY = ("pass@1", "answer_distance", "log_length")  # of the policies, at no layer


def place_rows(at: Compared, measures: Sequence[Measure] = MEASURES) -> Iterator[Row]:
    """Yield the rows of one layer and anchor.

    Args:
        at: what is compared there.
        measures: which; neighbours that take one policy at a time yield policy by policy.
    """
    for by_policy, neighbours in groupby(measures, key=lambda measure: measure.by_policy):
        together = list(neighbours)
        for part in at.one_policy_each() if by_policy else [at]:
            for measure in together:
                if part.n_problems >= measure.fewest:
                    yield from measure.rows(part)


def own_measure(spec: str) -> Measure:
    """Return a measure of the user's, "FILE.py:NAME".

    Raises:
        GeomrlError: it is not there, is no `Measure`, or takes the name of one of geomrl's.
    """
    measure = load_user_code(spec, "a measure")
    if not isinstance(measure, Measure):
        raise GeomrlError(
            f"{spec}: is {type(measure).__name__}; a measure is a "
            "geomrl.compare.measures.measure.Measure"
        )
    known = {*_POLICY, *(name for each in MEASURES for name in each.labels)}
    taken = sorted(known & set(measure.labels))
    if taken or not measure.labels:
        reason = f"'{taken[0]}' is a measure of geomrl's" if taken else "its labels name no measure"
        raise GeomrlError(f"{spec}: {reason}; give yours a name of its own")
    return measure


def own_rows(spec: str, at: Compared) -> list[Row]:
    """Return the rows of a measure of the user's at one layer and anchor.

    Raises:
        GeomrlError: a row has a name that the measure's labels do not have.
    """
    measure = own_measure(spec)
    rows = list(place_rows(at, [measure]))
    for row in rows:
        if row["measure"] not in measure.labels:
            raise GeomrlError(
                f"{spec}: yields rows of '{row['measure']}', which is not among its labels "
                f"({', '.join(measure.labels)}); add it there"
            )
    return rows
