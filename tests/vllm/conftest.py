"""These tests run in the environment of `make test-vllm`, and say so anywhere else."""

from pathlib import Path

import pytest

from geomrl.errors import GeomrlError
from geomrl.rollout.engines.vllm import require_vllm


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents]
    try:
        if ours:
            require_vllm()
    except GeomrlError as error:
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=f"{error} (the tests: `make test-vllm`)"))
