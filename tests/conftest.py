"""Small real models and tokenizers, made on the spot: nothing is downloaded."""

import os

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Where it is set, as in many containers, each process that a test starts compiles the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
# A busy machine fails no test: examples have no deadline, and slow ones are no fault of a strategy.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# On CI the same examples every time; elsewhere new ones, so that developers' runs keep searching.
settings.register_profile("ci", settings.get_profile("patient"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "patient")


@pytest.fixture(scope="session", autouse=True)
def quiet():
    from geomrl.models.loading import quiet_transformers

    quiet_transformers()


@pytest.fixture(scope="module", autouse=True)
def quick_fonts(request):
    """Leave ligatures and kerning out of PDFs' fonts: tracing them is most of a PDF's time.

    The fonts of test_viz.py's PDFs are those that users get.
    """
    if request.module.__name__ == "test_viz":
        yield
        return
    from fontTools import subset

    class Quick(subset.Options):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.layout_closure = False
            self.drop_tables = [*self.drop_tables, "GSUB", "GPOS", "GDEF"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subset, "Options", Quick)
        yield
