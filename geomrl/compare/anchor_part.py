"""One anchor of a comparison, all layers: rows and evidence, read where they were finished before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from geomrl.compare.comparison import part_files, part_folder, read_part, write_part
from geomrl.compare.config import CompareConfig
from geomrl.compare.corners import Corners
from geomrl.compare.encoder_change import GeometryEvidence, geometry_evidence
from geomrl.compare.measures.measure import Compared, PlaceSettings
from geomrl.compare.place import own_rows, place_rows
from geomrl.compare.rows import Place, Row
from geomrl.files import user_code_hash
from geomrl.runs.manifest import versions
from geomrl.runs.parts import Parts, parts_key

ByLayer = Mapping[str, GeometryEvidence | None]


def anchor_part(
    corners: Corners, anchor: str, config: CompareConfig, progress: Callable[[], None]
) -> tuple[list[Row], ByLayer]:
    """Return the rows of one anchor, and the verdict's evidence by layer.

    The evidence is None where too few rollouts reach the anchor.

    Args:
        corners: the base model and one checkpoint.
        anchor: which.
        config: draws, where probes are fitted, and measures of the user's.
        progress: called after each layer that is computed.
    """
    decisive = {
        "corners": corners.contents, "layers": corners.layers, "seed": config.seed,
        "n_boot": config.n_boot, "n_perm": config.n_perm, "geomrl": versions()["geomrl"],
        "heavy": anchor in config.probe_anchors,
    }  # fmt: skip
    files, key = part_files(corners.out, corners.base, corners.rl, anchor), parts_key(**decisive)
    part = read_part(files, key)
    if part is None:
        rows: list[Row] = []
        evidence: dict[str, GeometryEvidence | None] = {}
        for layer in corners.layers:
            at = _compared(corners, Place(layer, anchor), config)
            rows += place_rows(at) if at else []
            evidence[layer] = at.evidence if at else None
            progress()
        write_part(files, rows, evidence, key)
        part = rows, evidence
    return [
        *part[0],
        *_own_rows(corners, anchor, evidence=part[1], config=config, decisive=decisive),
    ], part[1]


def _compared(
    corners: Corners,
    place: Place,
    config: CompareConfig,
    evidence: GeometryEvidence | None = None,
) -> Compared | None:
    """Return what is compared at one place; None where too few rollouts reach it.

    The evidence is computed where it is not given.
    """
    sets = corners.paired(place.layer, place.anchor)
    if min(paired.groups.n_problems for paired in sets.values()) < 2:
        return None
    heavy = place.anchor in config.probe_anchors
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


def _own_rows(
    corners: Corners,
    anchor: str,
    evidence: ByLayer,
    config: CompareConfig,
    decisive: Mapping[str, Any],
) -> list[Row]:
    """Return the rows of the user's measures, each a part by itself: a changed file alone is run again."""
    folder = part_folder(corners.out, corners.base, corners.rl)
    rows: list[Row] = []
    for spec in config.measures:
        parts = Parts(folder, parts_key(**decisive, measure=[spec, user_code_hash(spec)]))
        found = parts.read_frame(anchor, spec)
        if found is None:
            places = (
                _compared(corners, Place(layer, anchor), config, known)
                for layer, known in evidence.items()
                if known is not None
            )
            found = pd.DataFrame([row for at in places if at for row in own_rows(spec, at)])
            parts.write_frame(found, anchor, spec)
        read: Any = found.to_dict("records")
        rows += read
    return rows
