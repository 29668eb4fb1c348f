"""One place of a comparison, a layer and an anchor, kept as soon as it is finished: rows and evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.compare.comparison import part_folder
from geomrl.compare.config import CompareConfig
from geomrl.compare.corners import Corners
from geomrl.compare.encoder_change import GeometryEvidence, geometry_evidence
from geomrl.compare.measures.measure import Compared, PlaceSettings
from geomrl.compare.place import own_rows, place_rows
from geomrl.compare.rows import Place, Row
from geomrl.errors import GeomrlError
from geomrl.files import user_code_hash
from geomrl.runs.manifest import versions
from geomrl.runs.parts import Parts, parts_key
from geomrl.stats.effect import Effect

Found = tuple[list[Row], GeometryEvidence | None]
"""Rows and evidence of a place; none of either where too few rollouts reach the anchor."""


@dataclass(frozen=True, kw_only=True)
class PlaceParts:
    """Where the places of one checkpoint's comparison are kept, and all that decides them.

    Attributes:
        out: the comparison's folder.
        base: the base model's key.
        rl: the checkpoint's key.
        config: draws, where probes are fitted, and measures of the user's.
        measures: these measures, each with its file's hash.
        decisive: what decides the content of a place, in JSON's types.
    """

    out: Path
    base: str
    rl: str
    config: CompareConfig
    measures: Mapping[str, str]
    decisive: Mapping[str, Any]

    def heavy(self, anchor: str) -> bool:
        """Say whether probes are fitted at an anchor, and RSA's permutation test is run."""
        return anchor in self.config.probe_anchors

    def of(self, anchor: str, **also: Any) -> Parts:
        """Return where an anchor's places are kept; `also` decides their content too."""
        key = parts_key(**self.decisive, heavy=self.heavy(anchor), **also)
        return Parts(part_folder(self.out, self.base, self.rl), key)


def place_parts(corners: Corners, config: CompareConfig) -> PlaceParts:
    """Return where the places of a checkpoint's comparison are kept."""
    return PlaceParts(
        out=corners.out,
        base=corners.base,
        rl=corners.rl,
        config=config,
        measures={spec: user_code_hash(spec) for spec in config.measures},
        decisive={
            "corners": corners.contents, "layers": corners.layers, "seed": config.seed,
            "n_boot": config.n_boot, "n_perm": config.n_perm, "geomrl": versions()["geomrl"],
        },
    )  # fmt: skip


def read_place(parts: PlaceParts, layer: str, anchor: str) -> Found | None:
    """Return a place that is finished, with the rows of the user's measures; None where it is not."""
    found = _read(parts, layer, anchor)
    if found is None or found[1] is None:
        return found
    rows, evidence = found
    for spec, content in parts.measures.items():
        own = parts.of(anchor, measure=[spec, content]).read_frame(anchor, layer, spec)
        if own is None:
            return None
        rows = [*rows, *_records(own)]
    return rows, evidence


def begin_places(parts: PlaceParts) -> Callable[[str, str], None]:
    """Open the corners, whose tables are read once for all places, and return what finishes one."""
    return partial(_finish_place, parts, Corners(parts.out, parts.base, parts.rl))


def _finish_place(parts: PlaceParts, corners: Corners, layer: str, anchor: str) -> None:
    """Compute what is not finished at one place: geomrl's rows and evidence, then the user's measures.

    A measure of the user's is a part by itself: a changed file alone is run again.

    Raises:
        GeomrlError: the file of a measure has changed since the comparison began.
    """
    place = Place(layer, anchor)
    found, at = _read(parts, layer, anchor), None
    if found is None:
        at = _compared(corners, place, parts)
        rows = list(place_rows(at)) if at else []
        found = rows, at.evidence if at else None
        _write(parts, layer, anchor=anchor, found=found)
    for spec, content in parts.measures.items() if found[1] is not None else ():
        kept = parts.of(anchor, measure=[spec, content])
        if kept.read_frame(anchor, layer, spec) is not None:
            continue
        if user_code_hash(spec) != content:
            raise GeomrlError(
                f"{spec}: the file has changed since this comparison began; run the same command again"
            )
        at = at or _compared(corners, place, parts, found[1])
        assert at is not None  # there is evidence
        kept.write_frame(pd.DataFrame(own_rows(spec, at)), anchor, layer, spec)


def _compared(
    corners: Corners, place: Place, parts: PlaceParts, evidence: GeometryEvidence | None = None
) -> Compared | None:
    """Return what is compared at one place; None where too few rollouts reach it.

    The evidence is computed where it is not given.
    """
    sets = corners.paired(place.layer, place.anchor)
    if min(paired.groups.n_problems for paired in sets.values()) < 2:
        return None
    config, heavy = parts.config, parts.heavy(place.anchor)
    return Compared(
        place=place,
        sets=sets,
        evidence=evidence
        or geometry_evidence(list(sets.values()), seed=config.seed, n_boot=config.n_boot),
        lens=corners.lens(place.layer, place.anchor),
        settings=PlaceSettings(
            seed=config.seed,
            n_boot=config.n_boot,
            n_perm=config.n_perm if heavy else 0,
            probes=heavy,
        ),
    )


def _read(parts: PlaceParts, layer: str, anchor: str) -> Found | None:
    """Return the rows and evidence of geomrl's own measures, if they are finished."""
    kept = parts.of(anchor)
    evidence, rows = kept.read(anchor, layer), kept.read_frame(anchor, layer)
    if evidence is None or rows is None:
        return None
    return _records(rows), _evidence(evidence) if evidence else None


def _write(parts: PlaceParts, layer: str, *, anchor: str, found: Found) -> None:
    """Keep a place's rows, then its evidence: with the evidence it is finished."""
    kept, (rows, evidence) = parts.of(anchor), found
    kept.write_frame(pd.DataFrame(rows), anchor, layer)
    kept.write({} if evidence is None else _plain(evidence), anchor, layer)


def _records(rows: pd.DataFrame) -> list[Row]:
    records: Any = rows.to_dict("records")
    return records


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
