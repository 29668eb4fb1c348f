"""What a report shows: facts, charts and tables, free of how they are read and how they are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

import pandas as pd

DIGITS = 6
"""Significant digits of every number in the page."""

Kind = Literal["text", "number", "count", "p", "interval"]


def clean(number: Any) -> float | None:
    """Return a number as the page's JSON contains it: six significant digits, None for what is none.

    >>> clean(0.12345678), clean(float("nan")), clean(None)
    (0.123457, None, None)
    """
    if number is None or pd.isna(number):
        return None
    value = float(number)
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


@dataclass(frozen=True)
class Number:
    """A value with its 95 % interval; `low` and `high` are None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, row: Mapping[Any, Any], value: str = "value", prefix: str = "") -> Number:
        """Read a number out of a table's row, a JSON object or `vars` of an `Interval`."""
        ends = (row.get(f"{prefix}{end}") for end in ("low", "high"))
        return cls(clean(row.get(value)), *map(clean, ends))

    def words(self, digits: int = 3) -> str:
        """Return "0.668 (0.655, 0.682)".

        >>> Number(-0.5, -1, -0.0001).words(), Number(None).words()
        ('−0.500 (−1.000, 0.000)', '–')
        """
        if self.value is None:
            return "–"
        value, low, high = (
            "–" if x is None else f"{round(x, digits) + 0.0:.{digits}f}"  # + 0.0: no "−0.000"
            for x in (self.value, self.low, self.high)
        )
        shown = value if self.low is None and self.high is None else f"{value} ({low}, {high})"
        return shown.replace("-", "−")


@dataclass(frozen=True)
class Fact:
    """A headline figure: what it is, its value, what it rests on; a cosine with its floor.

    `rests_on` names n and seed. `text` takes the place of a number where the finding is a word.
    """

    label: str
    number: Number
    rests_on: str
    _: KW_ONLY
    floor: Number | None = None
    text: str | None = None

    @property
    def shown(self) -> str:
        """The value in words."""
        return self.text if self.text is not None else f"{Number(self.number.value).words()}"

    @property
    def interval(self) -> str:
        """The interval in words, "" without one."""
        if self.number.low is None or self.number.high is None:
            return ""
        return f"95 %: {Number(self.number.low).words()} to {Number(self.number.high).words()}"

    @property
    def floor_words(self) -> str:
        """The floor in words."""
        return "" if self.floor is None else f"floor {self.floor.words()}"


@dataclass(frozen=True)
class Column:
    """A table's column. An "interval" shows column `key` with columns `low` and `high`."""

    key: str
    label: str
    kind: Kind = "text"
    _: KW_ONLY
    low: str = "low"
    high: str = "high"


@dataclass(frozen=True)
class Table:
    """A sortable table: its frame's rows, of which `columns` are shown."""

    title: str
    frame: pd.DataFrame
    columns: tuple[Column, ...]
    note: str = ""

    def payload(self) -> dict[str, Any]:
        """Return the table as the page's JSON contains it: column by column."""
        return {
            "title": self.title,
            "rows": len(self.frame),
            "columns": [self._column(column) for column in self.columns],
        }

    def _column(self, column: Column) -> dict[str, Any]:
        known = {"label": column.label, "kind": column.kind}
        if column.kind == "text":
            values = self.frame[column.key]
            return {**known, "values": ["" if pd.isna(v) else str(v) for v in values]}
        found = {**known, "values": [clean(v) for v in self.frame[column.key]]}
        if column.kind == "interval":
            for end, key in (("low", column.low), ("high", column.high)):
                found[end] = [clean(v) for v in self.frame[key]]
        return found


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of one colour: `at` along the chart's axis, `value` with its interval across it.

    `texts` are shown by a point when it is pointed at; `refs` are rollouts that it opens.
    """

    label: str
    colour: str
    marker: str
    at: Sequence[float]
    value: Sequence[Any]
    low: Sequence[Any] = ()
    high: Sequence[Any] = ()
    texts: Sequence[str] = ()
    refs: Sequence[str] = ()
    line: bool = True

    def payload(self) -> dict[str, Any]:
        """Return the series as the page's JSON contains it."""
        none: list[Any] = [None] * len(self.value)
        found = {
            "label": self.label,
            "colour": self.colour,
            "marker": self.marker,
            "line": self.line,
            "at": [clean(x) for x in self.at],
            "value": [clean(x) for x in self.value],
            "low": [clean(x) for x in self.low] or none,
            "high": [clean(x) for x in self.high] or none,
            "text": list(self.texts) or [""] * len(self.value),
        }
        return found | ({"refs": list(self.refs)} if self.refs else {})


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A zoomable plot.

    `ticks` name the places 0, 1, ... of a categorical axis; without them the axis is numeric.
    `flip` lays the values along the horizontal axis, for categories with long names. `zero` draws a
    line where there is no difference.
    """

    title: str
    series: tuple[Series, ...]
    axis: str = ""
    unit: str = ""
    ticks: tuple[str, ...] = ()
    note: str = ""
    flip: bool = False
    zero: bool = False
    logarithmic: bool = False
    wide: bool = False

    def payload(self) -> dict[str, Any]:
        """Return the chart as the page's JSON contains it."""
        return {
            "title": self.title,
            "axis": self.axis,
            "unit": self.unit,
            "ticks": list(self.ticks),
            "flip": self.flip,
            "zero": self.zero,
            "log": self.logarithmic,
            "wide": self.wide,
            "series": [series.payload() for series in self.series],
        }


@dataclass(frozen=True)
class Setting:
    """One step's settings, as text."""

    title: str
    text: str


@dataclass(frozen=True)
class View:
    """What one source of a run (its probing, its training, ...) contributes to the page."""

    facts: tuple[Fact, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run directory as the page shows it. `rollouts` are payloads of `rollouts.browser`."""

    name: str
    path: str
    kinds: tuple[str, ...]
    view: View
    settings: tuple[Setting, ...]
    rollouts: tuple[dict[str, Any], ...] = field(default=())


def joined(views: Sequence[View]) -> View:
    """Return several views as one, in order."""
    return View(
        tuple(fact for view in views for fact in view.facts),
        tuple(chart for view in views for chart in view.charts),
        tuple(table for view in views for table in view.tables),
        tuple(note for view in views for note in view.notes),
    )


def with_floor(
    frame: pd.DataFrame, keys: Sequence[str], columns: Sequence[str] = ("value", "low", "high")
) -> pd.DataFrame:
    """Return the frame with `floor`, `floor_low`, `floor_high` beside every cosine of a cell.

    The floor of a row is that of the row which has "floor" for its cell and agrees in `keys`.
    Contrasts ("CC-II"), and rows that have no such partner, get NaN: there the floor has no meaning.
    """
    names = dict(zip(columns, ("floor", "floor_low", "floor_high"), strict=True))
    floors = frame.loc[frame["cell"] == "floor", [*keys, *columns]].rename(columns=names)
    floors = floors.drop_duplicates(list(keys))
    found = frame.merge(floors, how="left", on=list(keys))
    contrast = found["cell"].astype(str).str.contains("-", regex=False)
    found.loc[contrast, list(names.values())] = float("nan")
    return found
