"""Grading, apart from sampling: stored responses are graded again where what decides verdicts changed.

What decides them is in the manifest's step "grading": the gold answers, the answer marker and the
verifier. A run whose step differs, or has none (an older geomrl's), keeps its responses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.files import text_hash
from geomrl.runs.layout import GRADING
from geomrl.runs.manifest import read_manifest, record_step
from geomrl.runs.rollouts import grade_columns, problem_keys, with_answer_classes
from geomrl.verify.verifier import MathVerifier, Verifier
from geomrl.verify.version import grades_alike, verifier_version


def grading_settings(golds: Mapping[str, str], verifier: Verifier) -> dict[str, Any]:
    """Return what decides verdicts and answer classes, in JSON's types.

    Args:
        golds: by "benchmark/problem_id".
        verifier: geomrl's own is named by its version, another by its class.
    """
    kind = type(verifier)
    own = isinstance(verifier, MathVerifier)
    return {
        "golds": text_hash(*(f"{key} {gold}" for key, gold in sorted(golds.items()))),
        "marker": verifier.marker.spec,
        "verifier": verifier_version() if own else f"{kind.__module__}.{kind.__qualname__}",
    }


def why_grade_again(
    run: Path, table: pd.DataFrame, golds: Mapping[str, str], verifier: Verifier
) -> str | None:
    """Return what has changed since a run's rollouts were graded; None where nothing has.

    Golds are compared with those that the table contains, one a problem.
    """
    manifest = read_manifest(run)
    recorded = manifest.get(GRADING, {}).get("settings")
    changed = changed_golds(table, golds)
    if changed:
        return f"{changed} gold{'s' if changed > 1 else ''} changed"
    if recorded is None:
        recorded = {"marker": manifest.get("rollouts", {}).get("settings", {}).get("marker")}
    now = grading_settings(golds or golds_of(table), verifier)
    if recorded["marker"] != now["marker"]:
        return f"the marker was {recorded['marker']!r} and is {now['marker']!r}"
    before = recorded.get("verifier")
    if before != now["verifier"] and not (
        isinstance(verifier, MathVerifier) and grades_alike(before)
    ):
        return "it was graded by another version of the verifier"
    return None


def golds_of(table: pd.DataFrame) -> dict[str, str]:
    """Return the gold answer of each problem of a table, by "benchmark/problem_id"."""
    first = table.assign(key=problem_keys(table)).drop_duplicates("key")
    return dict(zip(first["key"], first["gold"].astype(str), strict=True))


def changed_golds(table: pd.DataFrame, golds: Mapping[str, str]) -> int:
    """Return how many problems have another gold than the table has for them."""
    gold = problem_keys(table).map(golds)
    other = gold.notna() & (gold != table["gold"].astype(str))
    return int(problem_keys(table)[other].nunique())


def grade_table(
    table: pd.DataFrame,
    golds: Mapping[str, str],
    verifier: Verifier,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Return the table with golds, verdicts and answer classes; its other columns are untouched.

    Args:
        table: rollouts.
        golds: by "benchmark/problem_id"; a problem that is not among them keeps the table's.
        verifier: the judge.
        progress: called with the number of responses graded so far.
    """
    own = problem_keys(table).map(golds)
    gold = own.where(own.notna(), table["gold"]).astype(str)
    grades = verifier.grade(table["response"].tolist(), gold.tolist(), progress)
    return with_answer_classes(table.assign(gold=gold, **grade_columns(grades)), verifier)


def record_grading(
    run: Path, golds: Mapping[str, str], verifier: Verifier, *, labels_changed: bool = False
) -> None:
    """Record what a run's rollouts were graded by, and whether a second grading changed labels."""
    before = read_manifest(run).get(GRADING, {}).get("settings", {})
    changed = labels_changed or before.get("labels_changed", False)
    settings = {**grading_settings(golds, verifier), "labels_changed": changed}
    record_step(run, GRADING, settings, begun=False)


def verdict_changes(before: pd.DataFrame, after: pd.DataFrame) -> int:
    """Return how many verdicts differ between two gradings of the same rollouts."""
    return int((before["verdict"].to_numpy() != after["verdict"].to_numpy()).sum())
