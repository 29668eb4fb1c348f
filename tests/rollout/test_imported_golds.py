"""Golds of other tools: the bare answer is graded, as of problem files, and an empty one by nobody."""

import pytest
from commands import geomrl
from hypothesis import given
from hypothesis import strategies as st
from small_runs import write_lines
from tiny import character_tokenizer

from geomrl.errors import GeomrlError
from geomrl.files import read_json, read_parquet, write_json
from geomrl.problems.golds import bare_gold
from geomrl.problems.load import load_problems
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.imports.table import import_rollouts, import_verdicts
from geomrl.runs.rollouts import read_rollouts, write_rollouts

SOLUTION = "Six sevens make <<6*7=42>>42.\n#### 42"
# gold, the answer in it, a wrong one that a careless reading would take
GOLDS = [
    (SOLUTION, "42", "6"),
    ("1000 + 2\n#### 1,002", "1002", "2"),
    ("$15$", "15", "1"),
    ("\\boxed{15}", "15", "1"),
    ("Adding up, we get $\\boxed{15}$.", "15", "1"),
    ("First 3.\n\nSo \\boxed{3}, and twice that is\n\\boxed{6}", "6", "3"),
    (42.0, "42", "420"),
    (["42"], "42", "2"),
    (["2", "3"], "2, 3", "2"),
    ("['2', '3']", "2, 3", "2"),
    ('["2", "3"]', "2, 3", "2"),
    ("[2, 3]", "[2, 3]", "(2, 3)"),  # an interval, no list of two
]
EMPTY = ["", "  ", [], [""], None, "We add.\n####", {"value": 4}]


def lines_of(golds):
    return [
        {"problem": f"question {i}", "gold": gold, "response": f"so \\boxed{{{answer}}}"}
        for i, (gold, right, wrong) in enumerate(golds)
        for answer in (right, wrong)
    ]


def test_a_gold_is_read_to_the_answer_in_it(tmp_path, verifier):
    path = write_lines(tmp_path / "r.jsonl", lines_of(GOLDS))
    for table in (
        import_verdicts(path, verifier, ImportConfig())["r"],
        import_rollouts(path, character_tokenizer(), verifier, ImportConfig(template="plain")),
    ):
        verdicts = dict(zip(map(str, lines_of(GOLDS)), table["verdict"], strict=True))
        assert verdicts == dict(
            zip(map(str, lines_of(GOLDS)), ["correct", "wrong"] * len(GOLDS), strict=True)
        )


def test_problem_files_and_rollouts_agree_on_every_gold(tmp_path, verifier):
    path = write_lines(tmp_path / "r.jsonl", lines_of(GOLDS))
    rollouts = import_verdicts(path, verifier, ImportConfig())["r"]
    problems = [{"problem": f"question {i}", "gold": gold} for i, (gold, *_) in enumerate(GOLDS)]
    read = load_problems(str(write_lines(tmp_path / "p.jsonl", problems)))
    assert [p.gold for p in read] == rollouts["gold"].tolist()[::2]


@pytest.mark.parametrize("gold", EMPTY, ids=repr)
def test_an_empty_gold_is_refused_by_its_row(gold, tmp_path, verifier):
    lines = lines_of([("4", "4", "5"), (gold, "east", "west")])
    path = write_lines(tmp_path / "r.jsonl", lines)
    with pytest.raises(GeomrlError, match=r"row 3: no gold answer .*2 of 4 rows"):
        import_verdicts(path, verifier, ImportConfig())


def test_a_worked_solution_alone_is_searched_for_its_answer(tmp_path, verifier):
    said = [
        {
            "question": "6*7?",
            "solution": "It is " + "very " * 99 + "\\boxed{42}",
            "output": "\\boxed{42}",
        }
    ]
    path = write_lines(tmp_path / "r.jsonl", said)
    assert import_verdicts(path, verifier, ImportConfig())["r"]["verdict"].tolist() == ["correct"]
    said[0]["solution"] = "It is " + "very " * 99 + "42"
    with pytest.raises(GeomrlError, match="row 1: no gold answer"):
        import_verdicts(write_lines(tmp_path / "s.jsonl", said), verifier, ImportConfig())


@pytest.mark.parametrize(
    "label", [float("nan"), [True, False], {"value": 1}, None], ids=["nan", "list", "dict", "null"]
)
def test_labels_that_say_nothing_are_refused_by_their_row(label, tmp_path, verifier):
    lines = [
        {"problem": "2+2?", "response": "\\boxed{4}", "label": each} for each in (1.0, label, 0.0)
    ]
    with pytest.raises(GeomrlError, match=r"row 2: label .* neither right"):
        import_verdicts(
            write_lines(tmp_path / "r.jsonl", lines), verifier, ImportConfig(keep_labels=True)
        )


def test_one_label_for_several_responses_is_refused(tmp_path, verifier):
    lines = [{"problem": "2+2?", "responses": ["\\boxed{4}", "\\boxed{5}"], "is_correct": True,
              "each": [True, False]}]  # fmt: skip
    path = write_lines(tmp_path / "r.jsonl", lines)
    with pytest.raises(
        GeomrlError, match=r"2 responses and one label .*lists of that length: .*each"
    ):
        import_verdicts(path, verifier, ImportConfig(keep_labels=True))
    kept = ImportConfig(columns={"label": "each"}, keep_labels=True)
    assert import_verdicts(path, verifier, kept)["r"]["verdict"].tolist() == ["correct", "wrong"]


def test_columns_whose_meaning_is_certain_are_guessed(tmp_path, verifier):
    right, wrong = "so \\boxed{4}", "so \\boxed{5}"
    files = {
        "code": {"question": "2+2?", "gt": "4", "answer": "n/a", "code": [right, wrong]},
        "generated": {"question": "2+2?", "gold_answer": "4", "generated_responses": [right, wrong]},
        "expected": {"problem": "2+2?", "expected_answer": 4.0, "generation": [right, wrong]},
        "nested": {"doc": {"question": "2+2?"}, "target": SOLUTION.replace("42", "4"),
                   "resps": [[right, wrong]]},
    }  # fmt: skip
    for name, line in files.items():
        found = import_verdicts(
            write_lines(tmp_path / f"{name}.jsonl", [line]), verifier, ImportConfig()
        )
        assert found[name]["verdict"].tolist() == ["correct", "wrong"], name
    own = {"problem": "2+2?", "generation": right, "symbolic_correct": False}
    path = write_lines(tmp_path / "own.jsonl", [own])
    kept = import_verdicts(path, verifier, ImportConfig(keep_labels=True))["own"]
    assert kept["verdict"].tolist() == ["wrong"]


def test_solutions_as_golds_from_the_command_line(tmp_path):
    lines = [
        {"doc_id": 0, "question": "6*7?", "target": SOLUTION, "resps": [["\\boxed{42}", "\\boxed{6}"]]},
        {"doc_id": 1, "question": "2*7?", "target": "#### 14", "resps": [["\\boxed{2}", "\\boxed{14}"]]},
    ]  # fmt: skip
    path = write_lines(tmp_path / "r.jsonl", lines)
    done = geomrl(
        "eval", "--rollouts", path, "--out", tmp_path / "out", "--no-figures", "--boot", 200
    )
    assert done.exit_code == 0, done.stderr
    table = read_parquet(tmp_path / "out" / "rollouts" / "r" / "rollouts.parquet")
    assert table["verdict"].tolist() == ["correct", "wrong", "wrong", "correct"]
    assert table["gold"].tolist() == ["42", "42", "14", "14"]


@given(
    st.text("#4 2,.\\n{}[]'\"\\\\boxed$", max_size=40)
    | st.sampled_from([str(g) for g, *_ in GOLDS])
)
def test_a_bare_gold_is_bare(text):
    bare = bare_gold(text)
    assert bare_gold(bare) == bare


def test_an_import_of_before_is_gone_on_with_where_its_golds_are_bare(tmp_path):
    """A manifest without the reader's version is one that an earlier geomrl left."""
    for name, gold, ok in (("bare", "42", True), ("solution", SOLUTION, False)):
        path = write_lines(tmp_path / f"{name}.jsonl", lines_of([(gold, "42", "6")]))
        out = tmp_path / name
        command = ["eval", "--rollouts", path, "--out", out, "--no-figures", "--boot", 200]
        assert geomrl(*command).exit_code == 0
        folder = out / "rollouts" / name
        manifest = read_json(folder / "manifest.json")
        del manifest["rollouts"]["settings"]["reader"]
        write_json(folder / "manifest.json", manifest)
        table = read_rollouts(folder / "rollouts.parquet")
        write_rollouts(folder / "rollouts.parquet", table.assign(gold=gold))
        again = geomrl(*command)
        assert (again.exit_code == 0) == ok
        assert ok or "earlier version of geomrl, and its gold answer" in again.stderr
