"""Accuracy on variants of problems: the same problems asked in another form."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.problems.problem import Problem
from geomrl.runs.rollouts import problem_keys

ALL_KINDS = "all kinds"
"""The kind that stands for the mean over the kinds of variants."""


def problem_accuracy(rollouts: pd.DataFrame) -> pd.Series:
    """Return each problem's share of correct rollouts, by "benchmark/problem_id".

    A rollout without an answer or one whose grading timed out is not correct.
    """
    correct = (rollouts["verdict"] == "correct").to_numpy(float)
    return pd.Series(correct, index=problem_keys(rollouts).to_numpy()).groupby(level=0).mean()


def variant_accuracy(rollouts: pd.DataFrame, variants: Sequence[Problem]) -> pd.DataFrame:
    """Return the accuracy on each problem's variants: problem, kind, variant_accuracy.

    Each variant of a kind counts alike; `ALL_KINDS` is the mean over the kinds, of problems that
    have all of them, where there are several.

    Raises:
        GeomrlError: rollouts and variants are not of the same problems.
    """
    accuracy = problem_accuracy(rollouts)
    names = {f"{v.benchmark}/{v.problem_id}" for v in variants}
    strange = sorted(set(accuracy.index) - names)
    lacking = sorted(names - set(accuracy.index))
    if strange or lacking:
        what = f"'{(strange or lacking)[0]}' has {'rollouts' if strange else 'none'}"
        raise GeomrlError(
            f"rollouts on variants and the list of variants differ: {what}, and "
            f"{'is not listed' if strange else 'is listed'}; make the rollouts of the same file"
        )
    table = pd.DataFrame(
        {
            "problem": [v.meta["variant_of"] for v in variants],
            "kind": [v.meta["variant"] for v in variants],
            "variant_accuracy": [accuracy[f"{v.benchmark}/{v.problem_id}"] for v in variants],
        }
    )
    kinds = list(dict.fromkeys(table["kind"]))
    found = table.groupby(["kind", "problem"], sort=False)["variant_accuracy"].mean().reset_index()
    if len(kinds) > 1:
        whole = found.groupby("problem", sort=False)["variant_accuracy"].agg(["mean", "size"])
        whole = whole[whole["size"] == len(kinds)]
        pooled = pd.DataFrame(
            {"kind": ALL_KINDS, "problem": whole.index, "variant_accuracy": whole["mean"]}
        )
        found = pd.concat([pooled, found], ignore_index=True)
    return found[["problem", "kind", "variant_accuracy"]]
