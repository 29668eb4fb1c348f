"""Charts out of tidy tables: the shapes that all runs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from geomrl.report.views import Chart, Number, Series
from geomrl.viz.theme import Look

_STEP = 0.16  # places between series that stand side by side
_ROOM = 0.7  # of a place's width is for its series
LOOKS = (
    *(("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v")),
    *(("#56B4E9", "P"), ("#A0522D", "X"), ("#7A7A7A", "<")),
)
"""Colour and marker of series that have no look of their own, such as models; they repeat."""


def look(number: int, label: str) -> Look:
    """Return the look of the so-manyth series without one of its own."""
    colour, marker = LOOKS[number % len(LOOKS)]
    return Look(colour, marker, label)


def offset(series: int, of: int) -> float:
    """Return how far a series stands from its place's centre, so that none hides another."""
    return min(_STEP, _ROOM / max(of, 1)) * (series - (of - 1) / 2)


def place_chart(
    frame: pd.DataFrame,
    *,
    place: str,
    series: str,
    looks: Mapping[str, Look],
    places: Sequence[str],
    labels: Sequence[str] | None = None,
    value: str = "value",
    line: bool = True,
    apart: str | None = None,
    title: str,
    axis: str = "",
    unit: str = "",
    note: str = "",
    flip: bool = False,
    zero: bool = False,
    wide: bool = False,
) -> Chart:
    """Return a chart of a tidy table over named places: layers, anchors, arms, k.

    Its parameters are what charts of one page differ in.

    Args:
        frame: columns `place`, `series`, `value`, low, high and n (its number of problems or seeds
            in words); other columns are ignored.
        place: the column of the categorical axis.
        series: the column whose values are series, drawn in the order of `looks`.
        looks: series -> look.
        places: the axis' places in order.
        labels: their names; `places` themselves by default.
        value: the column of values.
        line: join a series' points.
        apart: a place that the line does not reach, such as the final norm's output.
        title: the chart's title.
        axis: the categorical axis' title.
        unit: the values' axis' title.
        note: what the numbers rest on.
        flip: lay values along the horizontal axis.
        zero: mark zero.
        wide: give the chart the page's width.
    """
    names = list(labels or places)
    shown = [name for name in looks if (frame[series].astype(str) == name).any()]
    drawn = []
    for number, name in enumerate(shown):
        rows = frame[frame[series].astype(str) == name].set_index(place)
        known = [p for p in places if p in rows.index]
        rows = rows.loc[known]
        at = [places.index(p) + offset(number, len(shown)) for p in known]
        numbers = [Number.of(row, value) for row in rows.to_dict("records")]
        texts = [
            f"{looks[name].label} · {names[places.index(p)]}: {n.words()}, {rests}"
            for p, n, rests in zip(known, numbers, rows["n"], strict=True)
        ]
        if apart in known and len(known) > 1:  # a hole in the line before the last point
            cut = known.index(apart)
            at.insert(cut, at[cut])
            numbers.insert(cut, Number(None))
            texts.insert(cut, "")
        drawn.append(
            Series(
                label=looks[name].label,
                colour=looks[name].colour,
                marker=looks[name].marker,
                at=at,
                value=[n.value for n in numbers],
                low=[n.low for n in numbers],
                high=[n.high for n in numbers],
                texts=texts,
                line=line,
            )
        )
    return Chart(
        title=title,
        series=tuple(drawn),
        axis=axis,
        unit=unit,
        ticks=tuple(names),
        note=note,
        flip=flip,
        zero=zero,
        wide=wide,
    )


def counted(numbers: pd.Series, noun: str) -> list[str]:
    """Return each row's "n = 158 problems"."""
    return ["" if pd.isna(n) else f"n = {int(n)} {noun}{'' if n == 1 else 's'}" for n in numbers]
