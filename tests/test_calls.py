"""No call of the package is read by counting positions, and what takes many parameters says why."""

from pathlib import Path

import pytest
from calls import broken_rules

PACKAGE = Path(__file__).parents[1] / "geomrl"
MANY = ", ".join("abcdefghijk")


def test_calls_and_parameters_of_the_package():
    assert broken_rules(PACKAGE) == []


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("def f(a, b, c, d, e): ...\nf(1, 2, 3, 4, 5)", "5 arguments by position"),
        (
            "@dataclass(frozen=True)\nclass A:\n    a: int; b: int; c: int; d: int; e: int",
            "A takes",
        ),
        (f"def f({MANY}): ...", "gives no reason"),
        (f"def f(*, {MANY}):\n    'Does much.'", "gives no reason"),
    ],
)
def test_a_planted_one_is_named(tmp_path, source, rule):
    (tmp_path / "a.py").write_text(source)
    [broken] = broken_rules(tmp_path)
    assert rule in broken


@pytest.mark.parametrize(
    "source",
    [
        "def f(*words): ...\nf(1, 2, 3, 4, 5)",
        "print(1, 2, 3, 4, 5)",
        "@dataclass(kw_only=True)\nclass A:\n    a: int; b: int; c: int; d: int; e: int",
        "@dataclass\nclass A:\n    a: int\n    _: KW_ONLY\n    b: int; c: int; d: int; e: int",
        f"def f({MANY}):\n    'Does much. Its parameters are those of a page.'",
    ],
)
def test_what_is_allowed(tmp_path, source):
    (tmp_path / "a.py").write_text(source)
    assert broken_rules(tmp_path) == []
