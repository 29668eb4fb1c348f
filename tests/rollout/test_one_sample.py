"""Evaluations with one sample a problem, as greedy ones are, and what their shares say."""

import os
import subprocess
import sys

import numpy as np
import pytest
from commands import geomrl
from evaluations import build_rollouts
from hypothesis import given
from hypothesis import strategies as st
from small_runs import write_lines

from geomrl.evaluate.evaluation import open_evaluation
from geomrl.problems import training_data
from geomrl.problems.problem import Problem
from geomrl.runs.rollouts import write_rollouts


def test_the_greedy_preset_with_one_model_as_typed(tmp_path):
    words = (
        "eval reasoner --preset greedy --max-tokens 96 --problems arithmetic --limit 6 --out RUN"
    )
    done = subprocess.run(
        [sys.executable, "-m", "geomrl.cli", *words.split()], cwd=tmp_path, capture_output=True,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "6 x 1" in done.stdout
    assert [path.stem for path in (tmp_path / "RUN" / "figures").glob("*.png")] == ["pass_at_1"]


@pytest.mark.parametrize("models", [1, 2])
def test_one_sample_in_every_form(models, tmp_path):
    for i in range(models):
        write_rollouts(
            tmp_path / f"m{i}" / "rollouts.parquet",
            build_rollouts({"aa": [1, 0, 1, 1 - i, 0], "bb": [0, 1, 0, 1, i]}, 1),
        )
    out = tmp_path / "out"
    runs = [tmp_path / f"m{i}" for i in range(models)]
    done = geomrl("eval", "--rollouts", *runs, "--out", out, "--boot", 200)
    assert done.exit_code == 0, done.stderr
    found = open_evaluation(out)
    assert found.accuracy.query("measure == 'pass'")["k"].eq(1).all()
    assert len(found.differences) == 4 * 3 * (
        models - 1
    )  # pass@1 and three shares, twice and averaged
    assert list((out / "figures").glob("*.png"))
    for command in (["figures", out], ["report", out, "--out", tmp_path / "report.html"]):
        again = geomrl(*command)
        assert again.exit_code == 0, again.stderr


def test_truncated_counts_what_has_no_answer(tmp_path):
    cut = "It looks like \\boxed{4} but I should verify this once more, since"
    lines = [
        {
            "problem": "2+2?",
            "gold": "4",
            "response": "It is $\\boxed{4}$.",
            "finish_reason": "stop",
        },
        {"problem": "2+2?", "gold": "4", "response": cut, "finish_reason": "length"},
        {"problem": "3+1?", "gold": "4", "response": "I do not know.", "finish_reason": "stop"},
        {"problem": "3+1?", "gold": "4", "response": "Let me see, 3", "finish_reason": "length"},
    ]
    path = write_lines(tmp_path / "r.jsonl", lines)
    done = geomrl(
        "eval", "--rollouts", path, "--out", tmp_path / "out", "--boot", 200, "--no-figures"
    )
    assert done.exit_code == 0, done.stderr
    problems = open_evaluation(tmp_path / "out").problems.set_index("problem_id")
    np.testing.assert_allclose(problems["pass@1"], [1, 0])
    np.testing.assert_allclose(problems["truncated"], [0, 0.5])
    assert (problems["truncated"] <= problems["no_answer"]).all()
    assert "25.0 % cut off before an answer" in " ".join(done.stdout.split())


@given(st.lists(st.sampled_from(["a b", "ab", "a  b", "b a", "c"]), max_size=12))
def test_repeats_are_those_of_every_pair(texts):
    problems = [Problem(f"p{i}", "aa", text, "") for i, text in enumerate(texts)]
    expected = [
        (two.problem_id, one.problem_id)
        for i, two in enumerate(problems)
        for one in problems[:i]
        if "".join(one.statement.split()) == "".join(two.statement.split())
    ]
    found = training_data.find_repeats(problems)
    assert [(o.problem_id, o.benchmark_id) for o in found] == expected
    assert {o.kind for o in found} <= {"exact"}
