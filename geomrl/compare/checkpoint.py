"""One checkpoint against the base model: its rows of the table, and its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from geomrl.compare.config import CompareConfig
from geomrl.compare.corners import POLICIES, Corners
from geomrl.compare.encoder_change import GeometryEvidence
from geomrl.compare.place_part import Found, begin_places, place_parts, read_place
from geomrl.compare.policy_change import PolicyEvidence, policy_evidence
from geomrl.compare.rows import CHANGE, Place, Row
from geomrl.compare.verdict import Evidence, decide
from geomrl.compare.verdict_file import drawn_together, elsewhere_entry, verdict_entry
from geomrl.errors import GeomrlError
from geomrl.evaluate.identical import identical
from geomrl.models.context import Context
from geomrl.progress import progress_bar
from geomrl.runs.pieces import Piece, finish_pieces
from geomrl.verify.marker import parse_marker
from geomrl.verify.verifier import MathVerifier


def compare_checkpoint(
    corners: Corners,
    label: str,
    *,
    config: CompareConfig,
    marker: str,
    notes: Sequence[str],
    context: Context,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return one checkpoint's rows, and its entry in the verdict file; `notes` are among its remarks.

    Raises:
        GeomrlError: the verdict's layer is not stored.
    """
    with MathVerifier(marker=parse_marker(marker)) as verifier:
        base, rl = corners.policy_tables(verifier)
    policy = policy_evidence(base, rl, seed=config.seed, n_boot=config.n_boot)
    if config.layer not in corners.layers:
        raise GeomrlError(
            f"layer {config.layer} of the verdict is not stored ({', '.join(corners.layers)})"
        )
    rows = _policy_rows(policy)
    geometry: dict[tuple[str, str], GeometryEvidence | None] = {}
    for where, (found, evidence) in _places(corners, config, context).items():
        rows += found
        geometry[where] = evidence
    verdict = decide(Evidence(policy, geometry[config.layer, config.anchor]), config.margins)
    place = Place(config.layer, config.anchor)
    together = drawn_together(rows, place, verdict.components, config.margins.cosine)
    if together is not None:
        verdict = replace(verdict, remarks=(*verdict.remarks, together))
    alike = identical(*(corners.runs[role].rollouts for role in POLICIES))
    remarks = (*([alike] if alike else []), *verdict.remarks, *notes)
    verdict = replace(verdict, remarks=remarks)
    for remark in verdict.remarks:
        context.say(f"note: {label}: {remark}")
    others = [
        elsewhere_entry(layer, anchor, decide(Evidence(policy, found), config.margins))
        for (layer, anchor), found in geometry.items()
        if found is not None and (layer, anchor) != (config.layer, config.anchor)
    ]
    entry = {"checkpoint": label, **verdict_entry(verdict), "elsewhere": others}
    return pd.DataFrame(rows).assign(checkpoint=label), entry


def _places(
    corners: Corners, config: CompareConfig, context: Context
) -> dict[tuple[str, str], Found]:
    """Return rows and evidence by layer and anchor; those that are not finished are computed."""
    parts = place_parts(corners, config)
    places = [(layer, anchor) for anchor in corners.anchors for layer in corners.layers]
    kept = {place: read_place(parts, *place) for place in places}
    todo = [
        Piece(place, kind="with probes" if parts.heavy(place[1]) else "")
        for place in places
        if kept[place] is None
    ]
    with progress_bar("comparing", "layer x anchor", show=context.show) as bar:
        bar.set(len(places) - len(todo), len(places))
        begin = partial(begin_places, parts)
        finish_pieces(todo, begin, jobs=context.jobs, advance=bar.advance, say=context.say)
    found: dict[tuple[str, str], Found] = {}
    for place in places:
        at = kept[place] or read_place(parts, *place)
        assert at is not None  # it has just been finished
        found[place] = at
    return found


def _policy_rows(policy: PolicyEvidence) -> list[Row]:
    place = Place("", "")
    return [
        place.row("pass@1", CHANGE, "", policy.pass_at_1),
        place.row("answer_distance", CHANGE, "", policy.answers),
        place.row("log_length", CHANGE, "", policy.log_length),
    ]
