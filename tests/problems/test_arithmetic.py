"""The bundled task: problems, their split, and the solutions written for them."""

import itertools
import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomrl.errors import GeomrlError
from geomrl.problems.arithmetic import (
    CLOSINGS,
    CYCLE,
    LARGEST_ANSWER,
    MOST_HELDOUT,
    TRAINING_SHARES,
    Step,
    Term,
    canonical_key,
    draw_terms,
    expression_text,
    heldout_problems,
    is_heldout,
    make_problem,
    operation_path,
    solution_steps,
    solution_text,
    terms_of,
    training_problems,
    written_steps,
)

seeds = st.integers(0, 2**32)
levels = st.sampled_from(list(TRAINING_SHARES))


def evaluate(expression: str) -> int:
    """An independent reading of the statement, by Python's own parser."""
    assert re.fullmatch(r"[\d+×-]+", expression)
    return eval(expression.replace("×", "*"))


def holds(step: Step) -> bool:
    return evaluate(f"{step.left}{step.op}{step.right}") == step.result


@given(seed=seeds, level=levels)
def test_a_problem_states_what_its_gold_answers(seed, level):
    terms = draw_terms(level, random.Random(seed))
    problem = make_problem("p", terms, wording=seed % 4)
    (expression,) = re.findall(r"\d[\d+×-]*", problem.statement)
    assert str(evaluate(expression)) == problem.gold
    assert 1 <= int(problem.gold) <= LARGEST_ANSWER
    assert terms_of(problem) == terms
    assert len(terms) == level.n_terms


@given(seed=seeds, level=levels)
def test_written_solutions_are_right_and_parse_to_their_steps(seed, level):
    rng = random.Random(seed)
    problem = make_problem("p", draw_terms(level, rng))
    state = rng.getstate()
    steps = solution_steps(terms_of(problem), rng)
    rng.setstate(state)
    # The same draws make the steps first and only then their words.
    text = solution_text(problem, rng)
    assert written_steps(text) == steps
    assert all(holds(step) and step.result >= 0 for step in steps)
    assert steps[-1].result == int(problem.gold)
    assert text.endswith(rf" \boxed{{{problem.gold}}}")
    assert text.count(r"\boxed") == 1


def test_every_order_and_split_of_the_terms_is_drawn():
    rng = random.Random(0)
    terms = [Term(1, (4,)), Term(1, (5,)), Term(-1, (12,)), Term(1, (9,))]
    drawn = {tuple(solution_steps(terms, rng)) for _ in range(4000)}
    # 12 is subtracted at once, tens first or units first, once there is enough to take it from.
    orders = [
        p for p in itertools.permutations((4, 5, -12, 9)) if min(itertools.accumulate(p)) >= 0
    ]
    assert len(drawn) == 3 * len(orders)


def test_a_path_ignores_wording_and_the_order_of_operands():
    one = operation_path(r"First 12+5=17, then 17 less 3 leaves 14. Next, 2 times 9 is 18. Thus")
    two = operation_path(r"I take 5 and 12 make 17; now 17-3=14, and 9×2=18, making")
    assert one == two == (Step("+", 5, 12, 17), Step("-", 17, 3, 14), Step("×", 2, 9, 18))


def test_a_path_keeps_order_and_mistakes():
    assert operation_path("First 1+2=3, then 4+5=8") != operation_path("First 4+5=8, then 1+2=3")
    assert operation_path("First 4+5=8") != operation_path("First 4+5=9")
    assert operation_path("Thus") == ()


@settings(deadline=None, max_examples=30)
@given(seed=seeds, level=levels)
def test_the_split_does_not_see_the_order_of_terms_or_factors(seed, level):
    rng = random.Random(seed)
    terms = draw_terms(level, rng)
    for order in itertools.islice(itertools.permutations(terms), 24):
        turned = [Term(term.sign, term.factors[::-1]) for term in order]
        assert canonical_key(turned) == canonical_key(terms)
        assert is_heldout(turned) == is_heldout(terms)


def test_different_problems_have_different_keys():
    keys = [
        canonical_key(terms)
        for terms in (
            [Term(1, (2,)), Term(1, (3,))],
            [Term(1, (2,)), Term(-1, (3,))],
            [Term(-1, (2,)), Term(1, (3,))],
            [Term(1, (2, 3))],
            [Term(1, (23,))],
            [Term(1, (2,)), Term(1, (3,)), Term(1, (3,))],
        )
    ]
    assert len(set(keys)) == len(keys)


def test_training_and_heldout_problems_are_disjoint_for_different_seeds():
    heldout = {canonical_key(terms_of(p)) for s in (0, 7) for p in heldout_problems(300, seed=s)}
    for seed in (0, 1, 7):
        seen = itertools.islice(training_problems(seed), 3000)
        assert not heldout & {canonical_key(terms_of(problem)) for problem in seen}


def test_heldout_problems_are_stable_and_distinct():
    problems = heldout_problems(200)
    assert problems[:50] == heldout_problems(50)
    assert [p.problem_id for p in problems[:2]] == ["arith-000", "arith-001"]
    assert len({p.problem_id for p in problems}) == len(problems)
    assert len({canonical_key(terms_of(p)) for p in problems}) == len(problems)
    assert all(is_heldout(terms_of(p)) for p in problems)
    assert heldout_problems(50, seed=1) != problems[:50]
    shares = Counter(p.meta["level"] for p in problems)
    assert shares == {
        name: 10 * count for name, count in Counter(level.name for level in CYCLE).items()
    }
    assert max(Counter(p.gold for p in problems).values()) < 20  # no answer dominates


def test_too_many_heldout_problems_are_refused():
    with pytest.raises(GeomrlError, match=str(MOST_HELDOUT)):
        heldout_problems(MOST_HELDOUT + 1)


@pytest.mark.parametrize("terms", [[], [Term(1, (2,)), Term(-1, (3,))]])
def test_a_problem_that_no_solution_can_be_written_for_is_refused(terms):
    with pytest.raises(GeomrlError, match="variant-1"):
        make_problem("variant-1", terms)


def test_one_problem_has_many_paths():
    rng = random.Random(0)
    shares = []
    for problem in heldout_problems(40):
        paths = [operation_path(solution_text(problem, rng)) for _ in range(12)]
        shares.append(len(set(paths)) / len(paths))
    assert sum(shares) / len(shares) > 0.9


def test_every_closing_ends_in_a_word_of_its_own():
    ends = Counter(closing.split(" ")[-1] for closing in CLOSINGS)
    assert set(ends.values()) == {1}


def test_expressions():
    terms = [Term(1, (12,)), Term(-1, (3, 4)), Term(1, (5,))]
    assert expression_text(terms) == "12-3×4+5"
