"""Training prompts: what is rendered, and what is left out and reported."""

import pytest
from tiny import byte_level_tokenizer

from geomrl.errors import GeomrlError
from geomrl.problems.problem import Problem
from geomrl.train.dynamic_sampling import training_prompts
from geomrl.train.sections import DataConfig


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer()


def data_config(**overrides):
    return DataConfig(**{"problems": "arithmetic_train", "template": "plain", **overrides})


def test_prompts_are_rendered_and_what_is_left_out_is_reported(tokenizer):
    passage = "let a and b be whole numbers whose sum is ten and find the largest"
    problems = [
        Problem("p0", "train", "What is 1?", "1"),
        Problem("p1", "train", "What  is 1? ", "1"),  # repeats p0
        Problem("p2", "train", "What is 2?", "2"),
        Problem("p3", "train", "What is 2?", "3"),  # contradicts p2
        Problem("p4", "train", "x" * 300, "4"),
        Problem("p5", "train", "What is 5?", "5"),
        Problem("p6", "train", passage, "6"),
    ]
    held_out = [
        Problem("h0", "eval", "What is 5?", "5"),
        Problem("h1", "eval", passage + " product", "6"),
    ]
    prompts, report = training_prompts(
        problems, tokenizer, data_config(max_prompt_tokens=100), held_out
    )
    assert [(p.index, p.problem.problem_id) for p in prompts] == [(0, "p0"), (1, "p5"), (2, "p6")]
    for prompt in prompts:
        assert prompt.prompt == prompt.problem.statement
        assert prompt.prompt_kind == "raw"
        assert list(prompt.prompt_ids) == tokenizer(prompt.prompt)["input_ids"]
    assert (report.problems, report.kept, report.too_long) == (7, 3, ("p4",))
    assert (report.deduplication.duplicates, report.deduplication.contradictory_groups) == (2, 1)
    assert [(o.problem_id, o.kind) for o in report.contaminated] == [
        ("p5", "exact"),
        ("p6", "near"),
    ]
    assert str(report) == (
        "3 of 7 training problems; 2 repeated texts, 1 texts with contradictory answers;"
        " 1 with too long a prompt; kept, though the evaluation holds the same: 1 (first: p5),"
        " or shares long passages: 1"
    )


def test_repeated_problems_stay_where_asked(tokenizer):
    problems = [Problem(f"p{i}", "train", "What is 1?", "1") for i in range(3)]
    prompts, report = training_prompts(problems, tokenizer, data_config(deduplicate=False))
    assert [p.index for p in prompts] == [0, 1, 2]
    assert report.deduplication is None
    assert str(report) == "3 of 3 training problems; 0 with too long a prompt"


def test_the_prompt_limit_is_inclusive_and_leaves_an_error_behind(tokenizer):
    problem = Problem("p0", "train", "What is 1?", "1")
    length = len(tokenizer(problem.statement)["input_ids"])
    prompts, _ = training_prompts([problem], tokenizer, data_config(max_prompt_tokens=length))
    assert len(prompts[0].prompt_ids) == length
    with pytest.raises(GeomrlError, match="none of 1 training problems is left: 1 prompts exceed"):
        training_prompts([problem], tokenizer, data_config(max_prompt_tokens=length - 1))


def test_the_template_is_the_sources_own_unless_given(tokenizer):
    problems = [
        Problem("a", "arithmetic_train", "What is 1?", "1"),
        Problem("b", "mine", "What is 2?", "2"),
    ]
    plain, boxed = training_prompts(problems, tokenizer, data_config(template=None))[0]
    assert plain.prompt == "What is 1?"
    assert boxed.prompt.startswith("What is 2?\nPlease reason step by step")
