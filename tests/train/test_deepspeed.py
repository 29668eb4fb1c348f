"""Under every ZeRO stage, on one rank and two, DeepSpeed makes the plain reference's updates.

SGD without clipping, because Adam's first step hides a wrong scale.
"""

import pytest
import torch
from ranks_deepspeed import RATE, STEPS, WEIGHT, build_case, build_step, cases
from training import build_policy, flat_gradient, reference_loss, run_ranks

from geomrl.train.planning import plan_micro_batches

TOLERANCE = 1e-5
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference():
    """Three steps of plain torch in float64: gradient norms and weights after each."""
    config = build_case(0)
    policy = build_policy(torch.float64)
    norms, weights = [], []
    for step in range(STEPS):
        policy.zero_grad()
        reference_loss(policy, build_step(step, config), config, WEIGHT).backward()
        norms.append(float(flat_gradient(policy).norm()))
        with torch.no_grad():
            for weight in policy.parameters():
                weight -= RATE * weight.grad
        weights.append({k: v.detach().clone() for k, v in policy.model.named_parameters()})
    return norms, weights


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def found(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("deepspeed") / "found.pt"
    run_ranks("ranks_deepspeed.py", request.param, path)
    return torch.load(path)


@pytest.mark.parametrize("name", cases())
def test_updates_are_those_of_plain_torch(found, reference, name):
    norms, weights = reference
    start = dict(build_policy(torch.float64).model.named_parameters())
    assert found[name]["norms"] == pytest.approx(norms, rel=TOLERANCE)
    for step in range(STEPS):
        ours, theirs = found[name]["weights"][step], weights[step]
        assert set(ours) == set(theirs)
        difference = torch.cat([(ours[k].double() - theirs[k]).flatten() for k in theirs])
        moved = torch.cat([(theirs[k] - start[k]).flatten() for k in theirs])
        whole = torch.cat([theirs[k].flatten() for k in theirs])
        assert difference.norm() <= TOLERANCE * whole.norm()
        # The weights hardly move, so the bound above alone would let a wrong update pass.
        assert difference.norm() <= 1e-3 * moved.norm()


def test_a_save_adds_less_than_a_layer_to_every_rank_but_the_first(found):
    """Under ZeRO-3 too, where all ranks gather what one of them writes."""
    for name in cases():
        saving = found[name]["saving"]
        assert saving["held"][0] >= saving["all"]
        assert all(held < saving["layer"] for held in saving["held"][1:]), (name, saving)


def test_the_plan_is_the_hard_case():
    config = build_case(0)
    for step in range(STEPS):
        batch = build_step(step, config)
        groups = [s.group for s in batch.samples]
        plan = plan_micro_batches(
            batch.lengths, groups, budget=config.micro_batch.tokens, keep_groups=True, world=2
        )
        assert len(plan[0]) >= 3  # gradients accumulate
        assert len({len(b) for batches in plan for b in batches}) > 1 or step == 1  # ragged
        eligible = {g for g in groups if sum(s.correct for s in batch.samples if s.group == g) > 1}
        homes = [{groups[i] for b in batches for i in b} & eligible for batches in plan]
        assert all(homes) or step == 1
        assert not all(homes) or step != 1  # one rank has no eligible group
