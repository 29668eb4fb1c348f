"""The examples in docstrings print what they say."""

import doctest
import importlib
import pkgutil

import pytest

import geomrl
from geomrl.errors import MissingExtra

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(geomrl.__path__, "geomrl.")
    if not module.name.endswith("__main__")
)
FINDER = doctest.DocTestFinder(exclude_empty=True)


@pytest.fixture(scope="module")
def examples():
    """Every docstring with examples, by the module that it is in."""
    found = []
    for name in MODULES:
        try:
            found += FINDER.find(importlib.import_module(name))
        except MissingExtra:  # TRL is not among what `make test` installs
            assert name == "geomrl.integrations.trl"
    return found


def test_worked_examples_run(examples, capsys):
    failed = []
    for test in examples:
        with capsys.disabled():
            result = doctest.DocTestRunner(verbose=False).run(test, out=failed.append)
        assert result.attempted == len(test.examples)
    assert len(examples) > 50
    assert failed == []
