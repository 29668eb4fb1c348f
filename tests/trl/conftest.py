"""These tests run in the environment of `make test-trl`, and say so anywhere else."""

from pathlib import Path

import pytest
import trl_steps  # noqa: F401  before TRL is imported

from geomrl.errors import GeomrlError
from geomrl.integrations.trl_contract import require_trl


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents]
    try:
        if ours:
            require_trl()
    except GeomrlError as error:
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=f"{error} (the tests: `make test-trl`)"))
