"""Weights pushed under a checkpoint's names: each is one of its own, and a tied head comes along."""

import pytest
import torch

from geomrl.errors import GeomrlError
from geomrl.rollout.engines.pushed_weights import HEAD, checked_weights

SHAPES = {"model.embed_tokens.weight": (5, 3), "model.norm.weight": (3,)}
WEIGHTS = {name: torch.randn(shape) for name, shape in SHAPES.items()}


def pushed(named, tied=True):
    seen = set()
    found = dict(checked_weights(named.items(), SHAPES, seen, tied=tied, model="tiny"))
    assert seen == set(found)
    return found


def test_copies_arrive_and_a_tied_head_is_the_embedding():
    found = pushed(WEIGHTS)
    assert found.keys() == {*SHAPES, HEAD}
    for name, weight in WEIGHTS.items():
        torch.testing.assert_close(found[name], weight)
        assert found[name].data_ptr() != weight.data_ptr()
    torch.testing.assert_close(found[HEAD], WEIGHTS["model.embed_tokens.weight"])
    assert HEAD not in pushed(WEIGHTS, tied=False)


def test_a_head_that_is_pushed_too_is_not_pushed_again():
    head = torch.ones(5, 3)
    assert torch.equal(pushed({**WEIGHTS, HEAD: head})[HEAD], head)


def test_other_names_and_shapes_are_refused():
    with pytest.raises(
        GeomrlError, match=r"other, \[1\]: the checkpoint tiny has no weight of that"
    ):
        pushed({"other": torch.ones(1)})
    with pytest.raises(
        GeomrlError, match=r"norm.weight, \[4\]: the checkpoint tiny has a weight \[3"
    ):
        pushed({"model.norm.weight": torch.ones(4)})
    with pytest.raises(GeomrlError, match="has no weight of that name"):
        pushed({HEAD: torch.ones(5, 3)}, tied=False)
    with pytest.raises(GeomrlError, match="ties its head to an embedding of an unusual name"):
        pushed({"model.norm.weight": torch.ones(3)})
