"""Small real models and tokenizers, made on the spot: nothing is downloaded."""

import os

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def quiet():
    from geomrl.models import quiet_transformers

    quiet_transformers()
