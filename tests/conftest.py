"""Small real models and tokenizers, made on the spot: nothing is downloaded."""

import os

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from hypothesis import settings

torch.set_num_threads(1)
# On CI the same examples every time; elsewhere new ones, so that developers' runs keep searching.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(scope="session", autouse=True)
def quiet():
    from geomrl.models import quiet_transformers

    quiet_transformers()
