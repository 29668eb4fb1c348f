"""The contract of imports holds, and a broken one is named."""

from pathlib import Path

import pytest
from contract import LEAVES, LEVEL, broken_rules

import geomrl

PACKAGE = Path(__file__).parents[1] / "geomrl"


def test_no_import_is_against_the_contract():
    assert broken_rules(PACKAGE) == []


def test_every_part_has_its_place():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders | LEAVES == set(LEVEL)
    assert {path.stem for path in PACKAGE.glob("*.py")} == LEAVES | {"__init__"}


@pytest.mark.parametrize(
    ("file", "source", "rule"),
    [
        ("stats/a.py", "from geomrl.probe.anchors import find_anchors", "not below"),
        ("probe/a.py", "def f():\n    from geomrl.rollout import engine", "not below"),
        ("probe/a.py", "import geomrl", "geomrl itself"),
        ("viz/a.py", "from geomrl import open_run", "geomrl itself"),
        ("probe/a.py", "from geomrl import train", "not below"),
        ("geometry/a.py", "def f():\n    import torch.nn", "arrays"),
        ("probe/a.py", "import nnsight", "extractor.py alone"),
        ("viz/a.py", "def f():\n    from rich.table import Table", "prints"),
        ("steps.py", "", "no place"),
    ],
)
def test_a_planted_import_is_named(tmp_path, file, source, rule):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(source)
    [broken] = broken_rules(tmp_path)
    assert file in broken
    assert rule in broken


def test_what_is_allowed(tmp_path):
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "a.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "from geomrl.models.names import resolve_model\n"
        "from geomrl.probe import anchors\n"
        "if TYPE_CHECKING:\n    from geomrl.cli.app import app\n"
    )
    assert broken_rules(tmp_path) == []


def test_every_name_of_the_facade_is_there():
    """Also those that no other test takes from it."""
    assert all(getattr(geomrl, name).__name__ == name for name in geomrl.__all__)
