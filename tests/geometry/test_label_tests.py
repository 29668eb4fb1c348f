import itertools

import numpy as np
import pytest
import scipy.stats
from worlds import build_world

from geomrl.geometry.groups import group_rows
from geomrl.geometry.label_tests import (
    answer_statistics,
    draw_answers,
    draw_verdicts,
    studentised,
    verdict_statistics,
)
from geomrl.geometry.spaces import build_space
from geomrl.stats.permutation import permutation_p


def grams_of(rows, states):
    groups = group_rows(rows)
    space = build_space("raw", states[groups.order], groups)
    return groups, [space.within(p) for p in range(groups.n_problems)]


def mean_pairs(gram, members):
    pairs = list(itertools.combinations(np.flatnonzero(members), 2))
    return sum(gram[i, j] for i, j in pairs), len(pairs)


def t_statistic(gaps):
    return scipy.stats.ttest_1samp(gaps, 0.0).statistic


def p_values(rows, states, seed, n_perm=99):
    groups, grams = grams_of(rows, states)
    verdicts = verdict_statistics(grams, draw_verdicts(groups, n_perm, seed=seed))
    answers = answer_statistics(grams, draw_answers(groups, n_perm, seed=seed))
    return permutation_p(verdicts[0], verdicts[1:]), permutation_p(answers[0], answers[1:])


@pytest.fixture(scope="module")
def world():
    return build_world(5, problems=9, samples=9, answer=1.0, uneven=True)


def test_verdict_statistics_equal_a_naive_loop(world):
    groups, grams = grams_of(*world)
    draws = draw_verdicts(groups, 20, seed=1)
    wrong = groups.sizes - groups.n_correct
    assert draws.problems.tolist() == [
        p for p in range(9) if groups.n_correct[p] > 1 and wrong[p] > 1
    ]
    found = verdict_statistics(grams, draws)
    for row in range(21):
        gaps = []
        for p, masks in zip(draws.problems, draws.masks, strict=True):
            assert masks[row].sum() == groups.n_correct[p]
            (cc, n), (ii, m) = mean_pairs(grams[p], masks[row]), mean_pairs(grams[p], ~masks[row])
            gaps.append(cc / n - ii / m)
        assert found[row] == pytest.approx(t_statistic(gaps), rel=1e-4)
    true = [groups.correct[groups.rows(p)] for p in draws.problems]
    assert all((masks[0] == t).all() for masks, t in zip(draws.masks, true, strict=True))


def test_answer_statistics_equal_a_naive_loop(world):
    groups, grams = grams_of(*world)
    draws = draw_answers(groups, 20, seed=1)
    assert len(draws.problems) > 2
    found = answer_statistics(grams, draws)
    for row in range(21):
        gaps = []
        for k, p in enumerate(draws.problems):
            classes = draws.members[k]
            called = draws.chosen[row, k]
            own, n = mean_pairs(grams[p], classes[called])
            rest = [mean_pairs(grams[p], c) for i, c in enumerate(classes) if i != called]
            gaps.append(own / n - sum(s for s, _ in rest) / sum(m for _, m in rest))
        assert found[row] == pytest.approx(t_statistic(gaps), rel=1e-6)
    assert (draws.chosen[0] == 0).all()
    for k, p in enumerate(draws.problems):
        assert (draws.members[k][0] == groups.correct[groups.rows(p)]).all()
        assert set(draws.chosen[1:, k]) == set(range(len(draws.members[k])))


def test_a_problems_draws_do_not_depend_on_the_others(world):
    rows, _ = world
    some = rows[rows["problem_id"] >= "p004"]
    full, part = group_rows(rows), group_rows(some)
    one, two = draw_verdicts(full, 30, seed=2), draw_verdicts(part, 30, seed=2)
    by_name = {full.problem_ids[p]: m for p, m in zip(one.problems, one.masks, strict=True)}
    assert len(two.problems)
    for p, masks in zip(two.problems, two.masks, strict=True):
        np.testing.assert_array_equal(masks, by_name[part.problem_ids[p]])


def test_studentised_ends():
    assert studentised(np.zeros((3, 4))).tolist() == [0.0, 0.0, 0.0]
    assert np.isnan(studentised(np.ones((2, 1)))).all()
    assert studentised(np.ones((1, 4)))[0] > 1e6
    np.testing.assert_allclose(studentised(np.array([[1.0, 2.0, 6.0]])), t_statistic([1, 2, 6]))


def test_nothing_to_permute_gives_nan():
    rows, states = build_world(0, accuracy=(1000.0, 0.001))
    groups, grams = grams_of(rows, states)
    assert np.isnan(verdict_statistics(grams, draw_verdicts(groups, 9, seed=0))).all()
    assert np.isnan(answer_statistics(grams, draw_answers(groups, 9, seed=0))).all()


def rejections(seeds, **structure):
    found = [
        p_values(*build_world(s, problems=20, samples=12, hidden=8, shared=0.0, **structure), s)
        for s in seeds
    ]
    return (np.array(found) <= 0.05).sum(axis=0)


def test_both_tests_hold_their_level_without_effect():
    most = scipy.stats.binom.ppf(0.999, 150, 0.05)
    verdicts, answers = rejections(range(150))
    assert verdicts <= most
    assert answers <= most


@pytest.mark.parametrize("law", [{"accuracy": (4.0, 2.0)}, {"wrong_answers": 8, "zipf": 0.5}])
def test_agreeing_on_an_answer_fools_the_verdict_test_and_not_the_answer_test(law):
    # CC - II with relabelled classes would reject most of these worlds: see the module's account.
    verdicts, answers = rejections(range(80), problem=0.5, answer=1.0, **law)
    assert verdicts >= 60
    assert answers <= scipy.stats.binom.ppf(0.999, 80, 0.05)


def test_both_tests_find_cohesion_of_the_correct_ones():
    verdicts, answers = rejections(range(20), problem=0.5, answer=1.0, correct=3.0)
    assert verdicts == 20
    assert answers >= 18
