"""Weight 0, with states read and gauges logged, is no alignment at all: bit for bit, on two ranks."""

import pytest
import torch
from training import run_ranks


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zero")
    run_ranks("ranks_weight_zero.py", 2, folder)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("zero", [0, 2])
@pytest.mark.parametrize("rank", [0, 1])
def test_weight_zero_is_no_alignment(found, rank, zero):
    none, with_zero = found[rank][zero, "none"], found[rank][zero, "zero"]
    assert none["gauged"] == [None] * 10
    assert all(0 <= value <= 2 for value in with_zero["gauged"])  # states were read
    assert torch.equal(none["random"], with_zero["random"])
    assert len(none["moments"]) >= 2  # Adam's
    pairs = zip(none["moments"], with_zero["moments"], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert none["weights"].keys() == with_zero["weights"].keys()
    assert all(torch.equal(w, with_zero["weights"][k]) for k, w in none["weights"].items())


@pytest.mark.parametrize("zero", [0, 2])
def test_a_weight_changes_the_run(found, zero):
    none, some = found[0][zero, "none"], found[0][zero, "some"]
    assert any(not torch.equal(w, some["weights"][k]) for k, w in none["weights"].items())
