"""Accuracies of problems and on their variants."""

import pandas as pd
import pytest

from geomrl.errors import GeomrlError
from geomrl.evaluate.variants import ALL_KINDS, problem_accuracy, variant_accuracy
from geomrl.problems.problem import Problem


def rollouts(benchmark, verdicts):
    """A table of verdicts by problem."""
    rows = [
        {"benchmark": benchmark, "problem_id": name, "sample": s, "verdict": verdict}
        for name, own in verdicts.items()
        for s, verdict in enumerate(own)
    ]
    return pd.DataFrame(rows)


def test_accuracies_count_what_is_not_correct_and_each_variant_alike():
    table = rollouts(
        "v", {"a": ["correct", "no_answer"], "b": ["timeout", "wrong"], "c": ["correct"] * 2}
    )
    assert problem_accuracy(table).to_dict() == {"v/a": 0.5, "v/b": 0.0, "v/c": 1.0}
    meta = [("o/1", "x"), ("o/1", "x"), ("o/1", "y")]
    listed = [
        Problem(name, "v", "", "", meta={"variant_of": of, "variant": kind})
        for name, (of, kind) in zip("abc", meta, strict=True)
    ]
    found = variant_accuracy(table, listed).set_index("kind")["variant_accuracy"]
    assert found.to_dict() == {ALL_KINDS: 0.625, "x": 0.25, "y": 1.0}
    with pytest.raises(GeomrlError, match="'v/c' has rollouts, and is not listed"):
        variant_accuracy(table, listed[:2])
    with pytest.raises(GeomrlError, match="'v/c' has none, and is listed"):
        variant_accuracy(table[table["problem_id"] != "c"], listed)
