"""What an analysis finds, and how it is written: pictures, tables, and what they say in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from geomrl.files import atomic_path, write_csv
from geomrl.viz.picture import DIGITS, Picture, write_picture

PAGE = "README.md"
_SHOWN_ROWS = 60  # a longer table is in its CSV alone


@dataclass(frozen=True)
class Finding:
    """What an analysis found.

    `says` are sentences, the answer first, with the numbers that they rest on. `tables` are written
    as NAME.csv, and the page shows those of `shown` (all by default) too.
    """

    says: Sequence[str]
    pictures: Sequence[Picture] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    shown: Sequence[str] | None = None


def write_finding(
    finding: Finding, folder: Path, *, title: str, inputs: Sequence[str], command: str
) -> list[Path]:
    """Write a finding's page, pictures and tables into its folder; return the files.

    CSVs have six digits and nothing of this machine or day: equal runs give equal bytes.

    Args:
        finding: what was found.
        folder: made where it is missing.
        title: the question.
        inputs: sentences on what it was made of: runs, the paper's settings, our assumptions.
        command: what makes it again.
    """
    written: list[Path] = []
    for picture in finding.pictures:
        written += write_picture(picture, folder)
    for name, table in finding.tables.items():
        path = folder / f"{name}.csv"
        write_csv(path, table, digits=DIGITS)
        written.append(path)
    page = folder / PAGE
    with atomic_path(page) as temporary:
        temporary.write_text(_page(finding, title, inputs, command))
    return [*written, page]


def _page(finding: Finding, title: str, inputs: Sequence[str], command: str) -> str:
    parts = [f"# {title}", "\n\n".join(finding.says)]
    parts += [f"![{picture.name}]({picture.name}.png)" for picture in finding.pictures]
    shown = finding.tables if finding.shown is None else finding.shown
    for name in shown:
        table = finding.tables[name]
        if len(table) <= _SHOWN_ROWS:
            parts.append(f"`{name}.csv`:\n\n{markdown_table(table)}")
        else:
            parts.append(f"`{name}.csv` has {len(table)} rows.")
    parts.append("## What it was made of\n\n" + "\n".join(f"- {line}" for line in inputs))
    parts.append(f"Made by `{command}`.")
    return "\n\n".join(parts) + "\n"


def markdown_table(table: pd.DataFrame) -> str:
    """Return a table in markdown: numbers with three decimals, nothing for NaN.

    >>> print(markdown_table(pd.DataFrame({"arm": ["dapo"], "n": [5], "value": [0.25]})))
    | arm | n | value |
    |---|---|---|
    | dapo | 5 | .250 |
    """
    head = ["| " + " | ".join(map(str, table.columns)) + " |", "|---" * table.shape[1] + "|"]
    rows = [
        "| " + " | ".join(_cell(value) for value in row) + " |"
        for row in table.itertuples(index=False)
    ]
    return "\n".join(head + rows)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else number(value)
    return "" if value is None or value is pd.NA else str(value).replace("|", "\\|")


def number(value: float, digits: int = 3) -> str:
    """Return a number as the pages print it.

    >>> number(0.25), number(-0.0312), number(12.5), number(0.00001)
    ('.250', '-.031', '12.500', '.000')
    """
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """Return a value with its interval as running text has it (tables: `stats.words`).

    >>> interval(0.25, 0.2, 0.3), interval(0.25, float("nan"), float("nan"))
    ('.250 (95 % .200 to .300)', '.250 (no interval)')
    """
    if low != low or high != high:
        return f"{number(value, digits)} (no interval)"
    return f"{number(value, digits)} (95 % {number(low, digits)} to {number(high, digits)})"
