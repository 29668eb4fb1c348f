"""What `geomrl compare` left in a folder, and its parts while it works.

OUT/comparison.parquet, .csv    one number a row: see `geomrl.compare.rows`
OUT/verdict.json                the verdict on each checkpoint, with its tests
OUT/parts/BASE--CHECKPOINT/     finished places, so that a killed comparison resumes
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.files import read_json, read_parquet
from geomrl.runs.layout import COMPARISON, VERDICT


class Comparison:
    """A finished comparison, opened for reading.

    Raises:
        GeomrlError: the folder contains none.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not (self.path / VERDICT).exists():
            raise GeomrlError(
                f"{self.path}: no finished comparison here (no {VERDICT}); make one with "
                "`geomrl compare BASE RL --problems ... --out RUN`"
            )

    def __repr__(self) -> str:
        """Name the folder."""
        return f"Comparison({str(self.path)!r})"

    @cached_property
    def table(self) -> pd.DataFrame:
        """The tidy table of all measures."""
        return read_parquet(self.path / COMPARISON)

    @cached_property
    def record(self) -> dict[str, Any]:
        """The verdict file: settings and an entry a checkpoint."""
        return read_json(self.path / VERDICT)

    @property
    def verdicts(self) -> dict[str, str]:
        """The verdict's name by checkpoint."""
        return {entry["checkpoint"]: entry["verdict"] for entry in self.record["checkpoints"]}

    def entry(self, checkpoint: str) -> dict[str, Any]:
        """Return a checkpoint's entry.

        Raises:
            GeomrlError: it was not compared.
        """
        for entry in self.record["checkpoints"]:
            if entry["checkpoint"] == checkpoint:
                return entry
        raise GeomrlError(
            f"{self.path}: no checkpoint '{checkpoint}' (there is: {', '.join(self.verdicts)})"
        )


def open_comparison(path: Path | str) -> Comparison:
    """Open a comparison's folder.

    Raises:
        GeomrlError: it is none.
    """
    return Comparison(path)


def part_folder(out: Path, base: str, checkpoint: str) -> Path:
    """Return where finished places of one checkpoint are kept."""
    return out / "parts" / f"{base}--{checkpoint}"
