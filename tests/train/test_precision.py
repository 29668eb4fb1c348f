"""bfloat16 under DeepSpeed: gradients are summed in float32, and a run resumes to the bit."""

import pytest
import torch
from ranks_precision import STAGES
from training import run_ranks

from geomrl.train.world import PATIENCE


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("precision")
    run_ranks("ranks_precision.py", 2, folder)
    return torch.load(folder / "found.pt")


@pytest.mark.slow
@pytest.mark.parametrize("zero", STAGES)
def test_gradients_of_many_micro_batches_are_summed_in_float32(found, zero):
    got, want = found["gradient"][zero], found["wide"]
    # ZeRO-2 and 3 send each micro-batch's gradient between ranks in bfloat16; ZeRO-1 sends the sum.
    bound = 1e-5 if zero == 1 else 3e-3
    assert (got - want).norm() <= bound * want.norm()


@pytest.mark.slow
@pytest.mark.parametrize("zero", STAGES)
def test_a_run_in_bfloat16_resumes_to_the_bit(found, zero):
    whole, resumed = found["resumed"][zero]
    assert torch.equal(whole, resumed)


@pytest.mark.slow
def test_deepspeed_waits_for_another_rank_as_long_as_geomrl_does(found):
    assert found["patience"] == PATIENCE.total_seconds()
