"""What several tests of imports need."""

import pytest

from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.imports.table import import_rollouts
from geomrl.verify.verifier import MathVerifier


@pytest.fixture(scope="module")
def verifier():
    with MathVerifier() as verifier:
        yield verifier


@pytest.fixture
def read(verifier):
    """Import what a path names; `said` collects what the user is shown."""
    from test_imported_prompts import TOKENIZER

    def read(path, said=None, **config):
        told = {} if said is None else {"say": said.append}
        return import_rollouts(path, TOKENIZER, verifier, ImportConfig(**config), **told)

    return read
