"""Micro-batches: nothing is lost, the budget holds, and groups stay whole where they fit."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from geomrl.train.planning import cut_groups, groups_fit, lockstep_tokens, plan_micro_batches

rollouts = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), max_size=40)
budgets = st.integers(1, 200)
worlds = st.integers(1, 4)
packings = st.sampled_from(["by_length", "balanced"])


def plan_of(rows, budget, keep, world, packing="by_length"):
    lengths, groups = [n for n, _ in rows], [g for _, g in rows]
    plan = plan_micro_batches(
        lengths, groups, budget=budget, keep_groups=keep, world=world, packing=packing
    )
    return lengths, groups, plan


def fitting_groups(lengths, groups, budget):
    """The rollouts of each group that fits into a micro-batch."""
    members = {g: [i for i, other in enumerate(groups) if other == g] for g in set(groups)}
    return [m for m in members.values() if len(m) * max(lengths[i] for i in m) <= budget]


@given(rollouts, budgets, st.booleans(), worlds, packings)
@settings(max_examples=120, deadline=None)
def test_every_rollout_is_placed_once(rows, budget, keep, world, packing):
    *_, plan = plan_of(rows, budget, keep, world, packing)
    assert sorted(i for batches in plan for batch in batches for i in batch) == list(
        range(len(rows))
    )


@given(rollouts, budgets, st.booleans(), worlds, packings)
@example([(10, 0), (3, 1), (3, 1)], 10, True, 1, "by_length")  # behind one that fills the budget
@settings(max_examples=120, deadline=None)
def test_the_budget_holds(rows, budget, keep, world, packing):
    """But for a rollout that is longer than it, which is alone."""
    lengths, _, plan = plan_of(rows, budget, keep, world, packing)
    for batches in plan:
        for batch in batches:
            padded = len(batch) * max((lengths[i] for i in batch), default=0)
            assert padded <= budget or len(batch) == 1


@given(rollouts, budgets, st.booleans(), worlds)
@settings(max_examples=120, deadline=None)
def test_ranks_have_equally_many_and_about_equal_tokens(rows, budget, keep, world):
    lengths, groups, plan = plan_of(rows, budget, keep, world)
    assert len(plan) == world
    assert len({len(batches) for batches in plan}) == 1
    assert not rows or all(any(column) for column in zip(*plan, strict=True))  # no idle round
    loads = [sum(lengths[i] for batch in batches for i in batch) for batches in plan]
    placed = [[i] for i in range(len(rows))]
    if keep:
        placed += fitting_groups(lengths, groups, budget)
    largest = max((sum(lengths[i] for i in unit) for unit in placed), default=0)
    assert max(loads) - min(loads) <= largest


@given(rollouts, budgets, worlds, packings)
@settings(max_examples=120, deadline=None)
def test_groups_that_fit_stay_whole(rows, budget, world, packing):
    lengths, groups, plan = plan_of(rows, budget, True, world, packing)
    batches = [set(batch) for share in plan for batch in share]
    for unit in fitting_groups(lengths, groups, budget):
        assert any(set(unit) <= batch for batch in batches)


@given(rollouts, budgets, st.booleans(), worlds)
@settings(max_examples=120, deadline=None)
def test_cut_groups_tells_the_truth(rows, budget, keep, world):
    _, groups, plan = plan_of(rows, budget, keep, world)
    batches = [batch for share in plan for batch in share]
    counted = {i: g for i, g in enumerate(groups) if i % 3}

    def homes(group):
        return [batch for batch in batches if any(counted.get(i) == group for i in batch)]

    assert cut_groups(plan, counted) == {g for g in groups if len(homes(g)) > 1}


@given(rollouts, budgets)
@settings(max_examples=120, deadline=None)
def test_groups_fit_says_what_the_plan_will_do(rows, budget):
    lengths, groups, plan = plan_of(rows, budget, True, 1)
    fits = groups_fit(lengths, groups, budget)
    assert fits == (len(fitting_groups(lengths, groups, budget)) == len(set(groups)))
    assert not fits or not cut_groups(plan, dict(enumerate(groups)))


def test_cut_groups_sees_ranks_apart():
    """Equally numbered micro-batches of two ranks are not one."""
    assert cut_groups([[[0, 1]], [[2]]], {0: 5, 1: 5, 2: 6}) == set()
    assert cut_groups([[[0]], [[1]]], {0: 5, 1: 5}) == {5}
    assert cut_groups([[[0], [1]]], {0: 5, 1: 5}) == {5}


@given(rollouts, budgets, st.booleans(), worlds)
@settings(max_examples=120, deadline=None)
def test_a_balanced_plan_is_never_slower_in_lockstep(rows, budget, keep, world):
    lengths, _, plain = plan_of(rows, budget, keep, world)
    *_, balanced = plan_of(rows, budget, keep, world, "balanced")
    assert len({len(batches) for batches in balanced}) == 1
    assert lockstep_tokens(balanced, lengths) <= lockstep_tokens(plain, lengths)


def test_whole_groups_pack_nearly_as_well_as_single_rollouts_where_they_are_balanced():
    """Eight ranks, groups of ten, lengths log-normal: computed in lockstep for each real token."""
    draw, lengths, groups = np.random.default_rng(0), [], []
    for group in range(64):
        middle = np.log(1200) + 0.5 * draw.standard_normal()
        own = np.exp(middle + 0.45 * draw.standard_normal(10))
        lengths += [int(n) + 150 for n in own]
        groups += [group] * 10

    def cost(keep, packing):
        plan = plan_micro_batches(
            lengths, groups, budget=16384, keep_groups=keep, world=8, packing=packing
        )
        return 8 * lockstep_tokens(plan, lengths) / sum(lengths)

    assert cost(True, "by_length") > 1.3
    assert cost(False, "by_length") > 1.15
    assert cost(True, "balanced") < 1.15
    assert cost(False, "balanced") < 1.10


def test_similar_lengths_run_together():
    """Else most of what is computed would be padding."""
    lengths = [100, 10, 100, 10, 100, 10, 100, 10]
    plan = plan_micro_batches(lengths, range(8), budget=400, keep_groups=False)
    assert plan == [[[0, 2, 4, 6], [1, 3, 5, 7]]]
