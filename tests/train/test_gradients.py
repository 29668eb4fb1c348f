"""Both losses under every split give the gradient of one plain batch, to 1e-10."""

import pytest
import torch
from ranks_gradients import LONGEST, WEIGHT, build_case, cases
from training import build_policy, flat_gradient, reference_loss, run_ranks

from geomrl.train.planning import cut_groups, plan_micro_batches

TOLERANCE = 1e-10


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def found(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("gradients") / "found.pt"
    run_ranks("ranks_gradients.py", request.param, path)
    return torch.load(path)


@pytest.mark.parametrize("name", cases())
def test_gradient_is_that_of_one_plain_batch(found, name):
    config, batch = build_case(name)
    policy = build_policy(torch.float64)
    weight = 0.0 if name == "no eligible group" else WEIGHT
    loss = reference_loss(policy, batch, config, weight)
    loss.backward()
    expected = flat_gradient(policy)
    gradient, metrics = found[name]
    assert (gradient - expected).norm() <= TOLERANCE * expected.norm()
    assert metrics["grad_norm"] == pytest.approx(float(expected.norm()), rel=1e-9)
    total = metrics["loss/policy"] + weight * metrics["loss/align"]
    assert total == pytest.approx(float(loss.detach()), rel=1e-9)


def test_the_alignment_changes_these_gradients():
    """Else the test above would pass with an alignment loss that is never added."""
    config, batch = build_case("cosine/2 rows")
    gradients = []
    for weight in (0.0, WEIGHT):
        policy = build_policy(torch.float64)
        reference_loss(policy, batch, config, weight).backward()
        gradients.append(flat_gradient(policy))
    assert (gradients[1] - gradients[0]).norm() > 1e-3 * gradients[0].norm()


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_the_plans_are_what_the_cases_say(rows):
    _, batch = build_case(f"cosine/{rows} rows")
    groups = [s.group for s in batch.samples]
    plan = plan_micro_batches(
        batch.lengths, groups, budget=rows * LONGEST, keep_groups=False, world=2
    )
    assert len(set(batch.lengths)) > 1
    assert all(len(b) == rows for batches in plan for b in batches)
    homes = [{groups[i] for b in batches for i in b} for batches in plan]
    assert homes[0] & homes[1]  # groups are split over the ranks


def test_a_plan_keeps_some_groups_whole_and_cuts_others():
    config, batch = build_case("cosine/some groups cut")
    groups = dict(enumerate(s.group for s in batch.samples))
    for world in (1, 2):
        plan = plan_micro_batches(
            batch.lengths, list(groups.values()), budget=config.micro_batch.tokens,
            keep_groups=True, world=world,
        )  # fmt: skip
        eligible = {g for g in groups.values() if g != 3}  # the last has one correct rollout
        assert 0 < len(cut_groups(plan, groups) & eligible) < len(eligible)
