"""Micro-batches: which rollouts run together, on which rank, under a budget of padded tokens.

Nothing here changes the gradient: every loss is normalised over the whole optimiser step. The plan
only decides how much padding is computed and whether a group's rollouts are met together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

Packing = Literal["by_length", "balanced"]
MicroBatches = list[list[int]]
"""One rank's micro-batches, each a list of rollouts by their index; an empty one only keeps step
with the other ranks."""


def plan_micro_batches(
    lengths: Sequence[int],
    groups: Sequence[int],
    *,
    budget: int,
    keep_groups: bool,
    world: int = 1,
    packing: Packing = "by_length",
) -> list[MicroBatches]:
    """Return each rank's micro-batches; all ranks have equally many.

    "by_length": ranks get about equal numbers of tokens, and each packs sequences of similar length.
    "balanced": of that plan and some others (`_dealt`) the one in which ranks that wait for each other
    after every micro-batch are done first. A group that fits the budget stays whole with `keep_groups`;
    a rollout longer than the budget runs alone.

    >>> plan_micro_batches([3, 9, 2, 8], [0, 1, 0, 1], budget=18, keep_groups=True)
    [[[1, 3], [0, 2]]]
    >>> plan_micro_batches([3, 9, 2], [0, 1, 0], budget=9, keep_groups=False, world=2)
    [[[1]], [[0, 2]]]

    Args:
        lengths: tokens of each rollout, prompt included.
        groups: each rollout's group.
        budget: rows times longest sequence of a micro-batch, at most.
        keep_groups: keep rollouts of one group together where they fit.
        world: number of ranks.
        packing: see above.
    """
    units = _units(lengths, groups, budget, keep_groups)
    units.sort(key=lambda unit: (-max(lengths[i] for i in unit), unit))
    plan = _shared_out(units, lengths, budget, world)
    if packing == "by_length":
        return plan
    budgets = [budget * tenths // 10 for tenths in range(10, 4, -1)]
    plans = [plan, *(_dealt(units, lengths, limit, world) for limit in budgets)]
    return min(plans, key=lambda plan: (lockstep_tokens(plan, lengths), len(plan[0])))


def lockstep_tokens(plan: Sequence[MicroBatches], lengths: Sequence[int]) -> int:
    """Return the padded tokens of a rank where each micro-batch takes as long as the largest beside it.

    >>> lockstep_tokens([[[0, 1], [3]], [[2], []]], [3, 1, 4, 2])
    8
    """
    return sum(
        max(len(batch) * max((lengths[i] for i in batch), default=0) for batch in beside)
        for beside in zip(*plan, strict=True)
    )


def _shared_out(
    units: Sequence[list[int]], lengths: Sequence[int], budget: int, world: int
) -> list[MicroBatches]:
    """Share units out to ranks, and let each pack its own."""
    shares: list[list[list[int]]] = [[] for _ in range(world)]
    loads = [0] * world
    for unit in units:  # longest first, to the rank with the least so far
        rank = loads.index(min(loads))
        shares[rank].append(unit)
        loads[rank] += sum(lengths[i] for i in unit)
    return _even([_pack(share, lengths, budget) for share in shares])


def _dealt(
    units: Sequence[list[int]], lengths: Sequence[int], budget: int, world: int
) -> list[MicroBatches]:
    """Pack units of falling length for all ranks at once (first fit), and deal out by falling cost."""
    batches: MicroBatches = []
    longest: list[int] = []
    for unit in units:
        fits = (
            n for n, rows in enumerate(batches) if (len(rows) + len(unit)) * longest[n] <= budget
        )
        place = next(fits, None)
        if place is None:
            batches.append(list(unit))
            longest.append(max(lengths[i] for i in unit))
        else:
            batches[place] += unit
    costs = [len(rows) * tokens for rows, tokens in zip(batches, longest, strict=True)]
    order = sorted(range(len(batches)), key=lambda n: (-costs[n], n))
    return _even([[batches[n] for n in order[rank::world]] for rank in range(world)])


def _even(plan: list[MicroBatches]) -> list[MicroBatches]:
    """Give all ranks equally many micro-batches, the last ones empty."""
    most = max(len(batches) for batches in plan)
    return [batches + [[] for _ in range(most - len(batches))] for batches in plan]


def group_members(groups: Sequence[int]) -> list[list[int]]:
    """Return each group's rollouts, groups by their first one.

    >>> group_members([7, 3, 7])
    [[0, 2], [1]]
    """
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    return list(members.values())


def _units(
    lengths: Sequence[int], groups: Sequence[int], budget: int, keep_groups: bool
) -> list[list[int]]:
    """Return what is placed as one: whole groups that fit, and single rollouts."""
    if not keep_groups:
        return [[i] for i in range(len(lengths))]
    units = []
    for rows in group_members(groups):
        units += [rows] if _fits(rows, lengths, budget) else [[i] for i in rows]
    return units


def _fits(rows: Sequence[int], lengths: Sequence[int], budget: int) -> bool:
    return len(rows) * max(lengths[i] for i in rows) <= budget


def groups_fit(lengths: Sequence[int], groups: Sequence[int], budget: int) -> bool:
    """Say whether every group fits into a micro-batch, so that `keep_groups` keeps all of them."""
    return all(_fits(rows, lengths, budget) for rows in group_members(groups))


def _pack(units: Sequence[list[int]], lengths: Sequence[int], budget: int) -> MicroBatches:
    """Fill micro-batches with units in falling order of length."""
    batches: MicroBatches = []
    longest = 0
    for unit in units:
        if batches and (len(batches[-1]) + len(unit)) * longest <= budget:
            batches[-1] += unit
        else:
            batches.append(list(unit))
            longest = max(lengths[i] for i in unit)
    return batches


def most_tokens(plan: Sequence[MicroBatches], tokens: Sequence[int]) -> list[int]:
    """Return, for each micro-batch's number, the most that any rank has to score in it.

    Args:
        plan: every rank's micro-batches.
        tokens: scored tokens of each rollout.
    """
    return [
        max(sum(tokens[i] for i in batch) for batch in same) for same in zip(*plan, strict=True)
    ]


def padded_share(plan: Sequence[MicroBatches], lengths: Sequence[int]) -> float:
    """Return which share of all computed tokens is padding.

    >>> padded_share([[[0, 1]], [[2]]], [3, 1, 2])
    0.25
    """
    batches = [[lengths[i] for i in batch] for batches in plan for batch in batches if batch]
    return 1 - sum(map(sum, batches)) / sum(len(batch) * max(batch) for batch in batches)


def cut_groups(plan: Sequence[MicroBatches], groups: Mapping[int, int]) -> set[int]:
    """Return the groups whose rollouts lie in more than one micro-batch.

    Args:
        plan: every rank's micro-batches.
        groups: the group of each rollout that counts; others may lie anywhere.
    """
    homes: dict[int, set[tuple[int, int]]] = {}
    for rank, batches in enumerate(plan):
        for number, batch in enumerate(batches):
            for rollout in batch:
                if rollout in groups:
                    homes.setdefault(groups[rollout], set()).add((rank, number))
    return {group for group, found in homes.items() if len(found) > 1}
