"""The data side of a training step: the order of prompts, and dynamic sampling."""

import collections
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import build_sample

from geomrl.errors import GeomrlError
from geomrl.problems.problem import Problem
from geomrl.seeds import derive_rng
from geomrl.train.dynamic_sampling import (
    PromptOrder,
    TrainingPrompt,
    collect_groups,
    group_outcome,
    groups_to_draw,
)
from geomrl.train.sections import DapoConfig

VERDICTS = ("correct", "wrong", "no_answer", "timeout")
MIXED, RIGHT, WRONG, SILENT = "cw", "cc", "wt", "nn"
"""Groups by their verdicts' first letters; `wt`: wrong and timed out, so none is correct."""
LETTERS = {verdict[0]: verdict for verdict in VERDICTS}


def build_prompts(n):
    problems = [Problem(f"train-{i}", "train", f"What is {i}?", str(i)) for i in range(n)]
    return [
        TrainingPrompt(
            index=i, problem=p, prompt=p.statement, prompt_kind="raw", prompt_ids=(5, 6, 7)
        )
        for i, p in enumerate(problems)
    ]


class Sampler:
    """Makes groups whose verdicts are decided by the prompt, and keeps what it was asked."""

    def __init__(self, kinds, step=1):
        self.kinds, self.step, self.rounds = kinds, step, []

    def __call__(self, prompts, number):
        assert number == len(self.rounds)
        self.rounds.append([prompt.index for prompt in prompts])
        return [
            [
                build_sample(prompt.index, LETTERS[letter], sample=i, policy_step=self.step)
                for i, letter in enumerate(self.kinds(prompt.index))
            ]
            for prompt in prompts
        ]

    @property
    def asked(self):
        return [index for asked in self.rounds for index in asked]


def collect(kinds, n=40, wanted=4, round_prompts=4, cursor=0, carried=(), step=1, seed=0, **dapo):
    """One step; returns what was collected and the sampler."""
    sampler = Sampler(kinds, step)
    order = PromptOrder(n, round_prompts, seed)
    found = collect_groups(
        sampler,
        build_prompts(n),
        order=order,
        cursor=cursor,
        carried=carried,
        wanted=wanted,
        dapo=DapoConfig(**dapo),
    )
    return found, sampler


def indices(groups):
    return [group[0].group for group in groups]


def carried_groups(*numbers, step=1):
    return [
        [build_sample(i, LETTERS[letter], policy_step=step) for letter in MIXED] for i in numbers
    ]


# The order of prompts.


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(0, 5), st.integers(0, 2**40))
def test_every_epoch_is_a_permutation_of_its_own(n, epochs, seed):
    order = PromptOrder(n, 1, seed)
    drawn = [[order.at(epoch * n + i) for i in range(n)] for epoch in range(epochs + 2)]
    for epoch in drawn:
        assert sorted(epoch) == list(range(n))
    if n >= 12:  # that two permutations of 12 agree has probability 1 in 479 million
        assert len({tuple(epoch) for epoch in drawn}) == len(drawn)
        assert drawn[0] != [PromptOrder(n, 1, seed + 1).at(i) for i in range(n)]


@settings(deadline=None)
@given(st.integers(1, 20), st.data())
def test_draws_are_a_pure_function_of_the_cursor(n, data):
    """Rounds across any number of epochs: whole, without repeats, resumable from any cursor."""
    size = data.draw(st.integers(1, n))
    order, cursor, log = PromptOrder(n, size, 0), 0, []
    for _ in range(12):
        drawn, after = order.draw(cursor)
        assert len(set(drawn)) == len(drawn) == size
        assert after >= cursor + size
        log.append((cursor, drawn))
        cursor = after
    for start, drawn in reversed(log):  # a resumed run makes the order anew
        assert PromptOrder(n, size, 0).draw(start)[0] == drawn
    by_epoch = collections.Counter()
    for start, drawn in log:
        place = start
        for index in drawn:
            while order.at(place) != index:
                place += 1
            by_epoch[place // n, index] += 1
            place += 1
    assert max(by_epoch.values()) == 1  # no prompt twice within an epoch


def test_a_round_over_an_epochs_end_holds_no_prompt_twice():
    """Seven prompts in rounds of five: the second round must pass over some."""
    met = False
    for seed in range(20):
        order = PromptOrder(7, 5, seed)
        first, cursor = order.draw(0)
        assert cursor == 5
        second, after = order.draw(cursor)
        assert second[:2] == [order.at(5), order.at(6)]  # the epoch's rest comes first
        assert set(first) | set(second[:2]) == set(range(7))
        assert len(set(second)) == 5
        met |= after > cursor + 5
    assert met


def test_what_was_seen_is_passed_over_until_nothing_is_left():
    order = PromptOrder(6, 4, 0)
    drawn, cursor = order.draw(0, seen={order.at(0), order.at(2)})
    assert drawn == [order.at(i) for i in (1, 3, 4, 5)]
    assert cursor == 6
    assert order.draw(3, seen=range(6)) == ([], 3)
    assert order.draw(0, seen=set(range(6)) - {order.at(5)}) == ([order.at(5)], 6)


def test_too_few_prompts_for_a_round_are_refused():
    PromptOrder(4, 4, 0)
    with pytest.raises(GeomrlError, match=r"3 training prompts, but a round .* draws 4 different"):
        PromptOrder(3, 4, 0)


# Dynamic sampling.


@pytest.mark.parametrize(
    ("letters", "outcome"),
    [
        ("cw", "mixed"),
        ("cn", "mixed"),
        ("tc", "mixed"),
        ("ccc", "all_correct"),
        ("ww", "all_wrong"),
        ("wn", "all_wrong"),
        ("tt", "all_wrong"),
        ("nn", "all_no_answer"),
    ],
)
def test_outcomes_ask_the_verdict_and_never_the_reward(letters, outcome):
    group = [build_sample(0, LETTERS[x], reward=i * 0.1) for i, x in enumerate(letters)]
    assert group_outcome(group) == outcome


def test_one_round_is_enough_where_every_group_is_mixed():
    found, sampler = collect(lambda i: MIXED)
    assert (
        indices(found.groups)
        == sampler.rounds[0]
        == [PromptOrder(40, 4, 0).at(i) for i in range(4)]
    )
    assert (found.cursor, found.carried, found.all_correct) == (4, [], [])
    assert found.counts == {
        "rounds": 1,
        "groups/sampled": 4,
        "groups/all_correct": 0,
        "groups/all_wrong": 0,
        "groups/all_no_answer": 0,
        "groups/carried": 0,
        "groups/kept": 4,
        "groups/surplus": 0,
        "groups/short": 0,
    }


def test_dropped_groups_are_counted_by_reason_and_rounds_go_on():
    kinds = [MIXED, RIGHT, WRONG, SILENT]
    place = {PromptOrder(40, 4, 0).at(i): i for i in range(40)}
    found, sampler = collect(lambda i: kinds[place[i] % 4])  # one of each in a round
    assert len(sampler.rounds) == found.counts["rounds"] == 4
    assert [place[i] for i in indices(found.groups)] == [0, 4, 8, 12]
    assert [place[i] for i in indices(found.all_correct)] == [1, 5, 9, 13]
    assert found.cursor == 16
    assert {k: v for k, v in found.counts.items() if v} == {
        "rounds": 4,
        "groups/sampled": 16,
        "groups/all_correct": 4,
        "groups/all_wrong": 8,
        "groups/all_no_answer": 4,
        "groups/kept": 4,
    }


def test_a_step_that_falls_short_goes_on_and_says_so():
    first = PromptOrder(40, 4, 0).at(0)
    found, _ = collect(lambda i: MIXED if i == first else WRONG, max_rounds=3)
    assert indices(found.groups) == [first]
    assert (found.counts["rounds"], found.counts["groups/short"]) == (3, 3)
    assert found.cursor == 12


@pytest.mark.parametrize(
    ("kinds", "cure"),
    [
        (RIGHT, "too easy"),
        (WRONG, "too hard"),
        (SILENT, "data.marker"),
    ],
)
def test_a_step_without_a_group_stops_with_counts_and_a_cure(kinds, cure):
    right, silent = 8 * (kinds == RIGHT), 8 * (kinds == SILENT)
    message = (
        f"of 8 sampled in 2 rounds, {right} were all correct and {8 - right} had none correct"
        rf" \({silent} of these .*{cure}"
    )
    with pytest.raises(GeomrlError, match=message):
        collect(lambda i: kinds, max_rounds=2)


def test_without_filtering_every_group_is_kept():
    place = {PromptOrder(40, 4, 0).at(i): i for i in range(40)}
    kinds = [MIXED, RIGHT, WRONG, SILENT]
    found, _ = collect(lambda i: kinds[place[i]], filter_groups=False)
    assert [place[i] for i in indices(found.groups)] == [0, 1, 2, 3]
    assert found.all_correct == []  # none was dropped
    assert (found.counts["groups/all_correct"], found.counts["groups/all_wrong"]) == (1, 2)


def test_a_prompt_comes_once_a_step_even_over_an_epochs_end():
    """Six prompts in rounds of four, all but two too hard: the second round is what is left."""
    order = PromptOrder(6, 4, 0)
    good = {order.at(1), order.at(5)}
    found, sampler = collect(lambda i: MIXED if i in good else WRONG, n=6)
    assert [len(asked) for asked in sampler.rounds] == [4, 2]
    assert sorted(sampler.asked) == list(range(6))
    assert set(indices(found.groups)) == good
    assert found.counts["groups/short"] == 2
    following, later = collect(lambda i: MIXED, n=6, cursor=found.cursor)
    assert later.asked == [order.at(6 + i) for i in range(4)]
    assert len(following.groups) == 4


# The size of a round.


@given(st.integers(1, 200), st.integers(0, 300), st.integers(0, 300))
def test_so_many_groups_are_drawn_that_they_mostly_suffice(missing, kept, others):
    """By the binomial law itself, at the share that was assumed."""
    n = groups_to_draw(missing, kept=kept, sampled=kept + others)
    share = (kept + 1) / (kept + others + 2)
    at_least = [binomial_tail(size, share, missing) for size in (n, max(n // 2, 1))]
    assert at_least[0] > 0.9
    assert n >= missing
    if missing >= 10:
        assert at_least[1] < 0.9  # and not many more than that


def binomial_tail(n, p, least):
    """The chance of `least` or more of n, term by term."""
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        + k * math.log(p) + (n - k) * math.log1p(-p)
        for k in range(least, n + 1)
    ]  # fmt: skip
    return math.fsum(map(math.exp, logs))


def test_a_last_round_is_as_large_as_what_is_missing_asks_for():
    full, plain = collect(lambda i: MIXED if i % 4 else WRONG, n=400, wanted=40, round_prompts=40)
    needed, sized = collect(
        lambda i: MIXED if i % 4 else WRONG, n=400, wanted=40, round_prompts=40,
        round_size="needed", surplus="carry",
    )  # fmt: skip
    assert [len(asked) for asked in plain.rounds] == [40, 40]
    first, last = (len(asked) for asked in sized.rounds)
    assert (first, needed.counts["groups/short"]) == (40, 0)
    assert last < 25
    assert needed.groups == full.groups  # of the same prompts, in the same order
    assert needed.cursor == first + last
    following, later = collect(
        lambda i: MIXED, n=400, wanted=40, round_prompts=40, cursor=needed.cursor,
        carried=carried_groups(*range(300, 330)), round_size="needed",
    )  # fmt: skip
    assert 10 <= len(later.asked) < 40  # the first round too, where groups were carried
    assert len(following.groups) == 40


# Surplus groups.


def test_surplus_is_discarded_by_default_and_carried_when_asked():
    discarded, _ = collect(lambda i: MIXED, wanted=3)
    assert (discarded.carried, discarded.counts["groups/surplus"]) == ([], 1)
    found, sampler = collect(lambda i: MIXED, wanted=3, surplus="carry")
    assert found.groups == discarded.groups
    assert indices(found.carried) == sampler.asked[3:]
    assert found.counts["groups/surplus"] == 1


def test_carried_groups_come_first_and_as_they_were():
    old = carried_groups(30, 31, step=1)
    found, sampler = collect(lambda i: MIXED, carried=old, step=2, surplus="carry")
    assert found.groups[:2] == old
    assert [group[0].policy_step for group in found.groups] == [1, 1, 2, 2]
    assert indices(found.carried) == sampler.asked[2:]
    assert {group[0].policy_step for group in found.carried} == {2}
    assert (found.counts["groups/carried"], found.counts["groups/kept"]) == (2, 4)
    assert found.counts["groups/surplus"] == 2
    assert not {30, 31} & set(sampler.asked)


def test_enough_carried_groups_need_no_generation():
    old = carried_groups(1, 2, 3, 4, 5, 6)
    found, sampler = collect(lambda i: MIXED, cursor=7, carried=old, surplus="carry")
    assert sampler.rounds == []
    assert (found.groups, found.carried) == (old[:4], old[4:])
    assert found.cursor == 7
    assert found.counts["rounds"] == found.counts["groups/sampled"] == 0


def test_a_carried_group_saves_a_step_without_any_other():
    old = carried_groups(1)
    found, _ = collect(lambda i: WRONG, carried=old, max_rounds=1)
    assert found.groups == old
    assert found.counts["groups/short"] == 3


@settings(deadline=None)
@given(st.integers(1, 30), st.data())
def test_a_run_of_steps_against_a_plain_walk(n, data):
    """Any data set, rounds and verdicts: what is trained on, step by step, by a plain loop."""
    size = data.draw(st.integers(1, n), "round")
    wanted, most = data.draw(st.integers(1, 8), "wanted"), data.draw(st.integers(1, 4), "rounds")
    carry = data.draw(st.sampled_from(["discard", "carry"]), "surplus")
    pattern = st.sampled_from([MIXED, MIXED, RIGHT, WRONG, SILENT])
    kinds = data.draw(st.lists(pattern, min_size=n, max_size=n), "kinds")
    cursor, carried = 0, []
    for step in range(1, 5):
        pool, place = indices(carried), cursor
        passed, asked = set(pool), []
        while len(pool) < wanted and len(asked) < most and len(passed) < n:
            now = []
            while len(now) < size and len(passed) < n:
                order = derive_rng(5, "prompt order", place // n).permutation(n)
                index = int(order[place % n])
                place += 1
                if index not in passed:
                    passed.add(index)
                    now.append(index)
            asked.append(now)
            pool += [i for i in now if kinds[i] == MIXED]
        options = {
            **{"n": n, "wanted": wanted, "round_prompts": size, "cursor": cursor, "seed": 5},
            **{"carried": carried, "step": step, "max_rounds": most, "surplus": carry},
        }
        if not pool:
            with pytest.raises(GeomrlError, match="no group is left to train on"):
                collect(lambda i: kinds[i], **options)
            return
        found, sampler = collect(lambda i: kinds[i], **options)
        assert sampler.rounds == asked
        assert indices(found.groups) == pool[:wanted]
        assert indices(found.carried) == (pool[wanted:] if carry == "carry" else [])
        assert found.cursor == place
        counts, seen = found.counts, collections.Counter(kinds[i] for i in sampler.asked)
        assert counts["groups/all_correct"] == seen[RIGHT] == len(found.all_correct)
        assert counts["groups/all_wrong"] == seen[WRONG] + seen[SILENT]
        assert counts["groups/all_no_answer"] == seen[SILENT]
        assert counts["groups/sampled"] == len(sampler.asked)
        assert counts["groups/kept"] + counts["groups/short"] == wanted
        assert (
            counts["groups/carried"] + seen[MIXED]
            == counts["groups/kept"] + counts["groups/surplus"]
        )
        cursor, carried = found.cursor, found.carried
