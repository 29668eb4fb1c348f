"""What `geomrl compare` left in a folder, and its parts while it works.

OUT/comparison.parquet, .csv    one number a row: see `geomrl.compare.rows`
OUT/verdict.json                the verdict on each checkpoint, with its tests
OUT/parts/BASE--CHECKPOINT/     finished anchors, so that a killed comparison resumes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.compare.encoder_change import GeometryEvidence
from geomrl.compare.rows import Row
from geomrl.errors import GeomrlError
from geomrl.files import read_json, read_parquet, write_json, write_parquet
from geomrl.runs.layout import COMPARISON, VERDICT
from geomrl.stats.effect import Effect

Files = tuple[Path, Path]


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
    """Return where finished anchors of one checkpoint are kept."""
    return out / "parts" / f"{base}--{checkpoint}"


def part_files(out: Path, base: str, checkpoint: str, anchor: str) -> Files:
    """Return where the rows and the evidence of one anchor are kept; the second is written last."""
    stem = anchor.replace(":", "-")
    folder = part_folder(out, base, checkpoint)
    return folder / f"{stem}.parquet", folder / f"{stem}.json"


def write_part(
    files: Files,
    rows: Sequence[Row],
    evidence: Mapping[str, GeometryEvidence | None],
    key: str,
) -> None:
    """Write one anchor's rows, and the evidence of its layers, with the key of what decided them."""
    write_parquet(files[0], pd.DataFrame(rows))
    entries = {layer: None if e is None else _plain(e) for layer, e in evidence.items()}
    write_json(files[1], {"key": key, "evidence": entries})


def read_part(
    files: Files, key: str
) -> tuple[list[Row], dict[str, GeometryEvidence | None]] | None:
    """Read what `write_part` wrote; None where nothing is, or it was made of something else.

    A part without a key is an older geomrl's, which did not say what it was made of.
    """
    found = read_json(files[1]) if files[1].exists() else {}
    if found.get("key") != key:
        return None
    rows: Any = read_parquet(files[0]).to_dict("records")
    entries = found["evidence"]
    return rows, {layer: None if e is None else _evidence(e) for layer, e in entries.items()}


def _plain(evidence: GeometryEvidence) -> dict[str, Any]:
    """Return evidence in JSON's types, at full precision: the verdict is made from it."""
    return {
        name: {k: None if v != v else v for k, v in value.items()}
        if isinstance(value, dict)
        else value
        for name, value in asdict(evidence).items()
    }


def _evidence(entry: Mapping[str, Any]) -> GeometryEvidence:
    def number(value: float | None) -> float:
        return float("nan") if value is None else value

    found: dict[str, Any] = {}
    for field in fields(GeometryEvidence):
        value = entry[field.name]
        if isinstance(value, dict):
            numbers: Any = {k: number(v) for k, v in value.items()}
            value = Effect(**numbers)
        found[field.name] = value
    return GeometryEvidence(**found)
