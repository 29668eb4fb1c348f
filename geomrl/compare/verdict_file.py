"""Verdicts in JSON's types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from geomrl.compare.rows import BOTH, CHANGE, Place, Row
from geomrl.compare.verdict import COMPONENTS, Finding, Verdict


def verdict_entry(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict with its tests as they are written (NaN becomes null)."""
    return {
        "verdict": verdict.name,
        "components": list(verdict.components),
        "tests": [_test(finding) for finding in verdict.findings],
        "remarks": list(verdict.remarks),
    }


def elsewhere_entry(layer: str, anchor: str, verdict: Verdict) -> dict[str, Any]:
    """Return what the encoders' comparison says at another place; the policy is the same there."""
    found = [name for name in COMPONENTS if name in verdict.components and name != "policy"]
    return {"layer": layer, "anchor": anchor, "components": found}


def drawn_together(
    rows: Sequence[Row], place: Place, components: Sequence[str], margin: float
) -> str | None:
    """Return a remark where all states drew together and no component says so; None elsewhere.

    The common share cannot rise by much where it is near 1 already: where problems hardly differ at
    the anchor, there is nothing of theirs to lose. The raw floor shows it then: it rises by the margin
    or more, and the raw cosine of correct rollouts by no more than that beyond it.

    Args:
        rows: a checkpoint's rows.
        place: the verdict's.
        components: what the verdict found.
        margin: of cosines.
    """
    found = {
        row["cell"]: row
        for row in rows
        if (row["measure"], row["policy"], row["encoder"]) == ("cosine", BOTH, CHANGE)
        and (row["layer"], row["anchor"], row["space"]) == (place.layer, place.anchor, "raw")
    }
    if "collapse" in components or not {"CC", "floor"} <= found.keys():
        return None
    floor, correct = found["floor"], found["CC"]
    beyond = correct["value"] - floor["value"]
    if not (floor["low"] > 0 and floor["value"] >= margin and beyond < margin):
        return None
    return (
        f"all states drew together: the raw cosine of different problems rises by {floor['value']:.3f} "
        f"(95 % {floor['low']:.3f} to {floor['high']:.3f}), that of correct rollouts of one problem by "
        f"{correct['value']:.3f}. The common share does not show it, since problems hardly differed here "
        "before; it is no alignment of correct rollouts"
    )


def clean(number: float) -> float | None:
    """Return a number as JSON knows it: six digits, null for NaN."""
    return None if number != number else float(f"{number:.6g}")


def _test(finding: Finding) -> dict[str, Any]:
    effect = asdict(finding.effect)
    numbers = {name: clean(effect[name]) for name in ("value", "low", "high")}
    return {
        "test": finding.test,
        "component": finding.component,
        **numbers,
        "p": clean(finding.p),
        "p_holm": clean(finding.p_holm),
        "margin": clean(finding.margin),
        "detectable": clean(finding.detectable),
        "n_problems": finding.effect.n_problems,
        "shown": finding.shown,
    }
