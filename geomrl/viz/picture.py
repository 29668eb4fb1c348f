"""A picture and the table behind it, written together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from geomrl.errors import GeomrlError
from geomrl.files import atomic_path, write_csv
from geomrl.viz.theme import style

FORMATS = ("png", "pdf")
DIGITS = 6
"""Of numbers in CSVs: more than any reader needs, fewer than would differ between processors."""

# No dates and no versions: the same data give the same bytes.
_METADATA = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
}


@dataclass(frozen=True)
class Picture:
    """A drawn figure and exactly the data that it shows."""

    name: str
    figure: Figure
    data: pd.DataFrame

    def named(self, name: str) -> Picture:
        """Return the same picture under another name."""
        return replace(self, name=name)


@dataclass(frozen=True)
class Skipped:
    """A picture that the data do not allow, and why."""

    name: str
    reason: str


def write_picture(picture: Picture, out: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write NAME.csv and NAME.FORMAT for each format, each whole or not at all.

    Raises:
        GeomrlError: a format other than "png" or "pdf", or a folder that cannot be written.
    """
    check_formats(formats)
    written = []
    write_csv(out / f"{picture.name}.csv", picture.data, digits=DIGITS)
    written.append(out / f"{picture.name}.csv")
    if formats:
        with style():  # laid out once, at the resolution of the PNG, for all formats
            picture.figure.draw_without_rendering()
            picture.figure.set_layout_engine("none")
    for kind in formats:
        path = out / f"{picture.name}.{kind}"
        with atomic_path(path) as temporary, style():
            picture.figure.savefig(temporary, format=kind, metadata=_METADATA[kind])
        written.append(path)
    return written


def check_formats(formats: Sequence[str]) -> None:
    """Refuse a picture format that is not written deterministically.

    Raises:
        GeomrlError: names the format.
    """
    for kind in formats:
        if kind not in FORMATS:
            raise GeomrlError(
                f"format {kind!r}: not one of {', '.join(FORMATS)}; choose among these"
            )
