"""Verdicts in JSON's types."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from geomrl.evaluate.verdict import COMPONENTS, Finding, Verdict


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
