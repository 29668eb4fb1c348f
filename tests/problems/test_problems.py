"""Loading problems: local files in many shapes, errors that name the line, clean training sets."""

import json
import sys

import pandas as pd
import pytest

from geomrl.errors import GeomrlError, MissingExtra
from geomrl.problems.arithmetic import is_heldout, terms_of
from geomrl.problems.benchmarks import BENCHMARKS
from geomrl.problems.load import load_problems
from geomrl.problems.problem import Problem
from geomrl.problems.training_data import deduplicate, find_contamination


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(n, **extra):
    return [{"problem": f"What is {i}?", "answer": str(i), **extra} for i in range(n)]


def test_a_jsonl_file(tmp_path):
    rows = [{"id": "a", "problem": " What? ", "answer": "1", "level": 3}]
    (problem,) = load_problems(write_jsonl(tmp_path / "mine.jsonl", rows))
    assert problem == Problem("a", "mine", "What?", "1", meta={"level": 3})


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"question": "q", "gold": 4}, "4"),
        ({"Problem": "q", "Answer": "4"}, "4"),
        ({"statement": "q", "final_answer": ["$1$", "$2$"]}, "$1$, $2$"),
        ({"problem": "q", "target": 4.0}, "4"),
        ({"problem": "q", "answer": 0}, "0"),
        ({"question": "q", "answer": "3+4=7\n#### 1,234"}, "1234"),
        ({"problem": "q", "solution": r"So \boxed{1} no \boxed{\frac12}."}, r"\frac12"),
        ({"problem": "q", "solution": "34"}, "34"),
        ({"problem": "q", "answer": "5", "solution": r"\boxed{6}"}, "5"),
        (
            {"prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": "9"}},
            "9",
        ),
    ],
)
def test_common_columns_are_found(tmp_path, row, gold):
    for path in (tmp_path / "mine.jsonl", tmp_path / "mine.parquet"):
        if path.suffix == ".parquet":
            pd.DataFrame([row]).to_parquet(path)
        else:
            write_jsonl(path, [row])
        (problem,) = load_problems(str(path))
        assert (problem.statement, problem.gold, problem.problem_id) == ("q", gold, "mine-0")


def test_columns_can_be_named(tmp_path):
    row = {"task": {"text": "q"}, "label": "7", "key": 12, "problem": "not this", "answer": "8"}
    path = write_jsonl(tmp_path / "mine.jsonl", [row])
    columns = {"statement": "task.text", "gold": "label", "id": "key"}
    (problem,) = load_problems(path, columns=columns)
    assert (problem.statement, problem.gold, problem.problem_id) == ("q", "7", "12")
    with pytest.raises(GeomrlError, match="tried nope; found task, label"):
        load_problems(path, columns={"gold": "nope"})
    with pytest.raises(GeomrlError, match=r"\['answer'\] are not known"):
        load_problems(path, columns={"answer": "label"})


def test_the_wrapper_of_dapo_is_taken_off(tmp_path):
    from geomrl.problems.prompts import fill_template

    text = fill_template("dapo", "Find $x$.\n\nIt is {small}.")
    rows = [{"prompt": [{"role": "user", "content": text}], "answer": "1"}]
    (problem,) = load_problems(write_jsonl(tmp_path / "d.jsonl", rows))
    assert problem.statement == "Find $x$.\n\nIt is {small}."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"problem": "a", "answer": "1"}\n\n{"problem": "b", "ans', "line 3: not valid JSON"),
        (
            '{"problem": "a", "answer": "1"}\n{"problem": "b", "answer": " "}',
            "line 2: .* no answer",
        ),
        ('{"problem": "a", "answer": null}', "line 1: .* no answer"),
        ('{"problem": "a", "text": "1"}', "line 1: no column with the gold answer .*found problem"),
        ('{"text": "a", "answer": "1"}', "line 1: no column with the problem's text"),
        ('{"problem": "", "answer": "1"}', "line 1: the column 'problem' is empty"),
        ('{"problem": "a", "solution": "a long proof ' + "x" * 400 + '"}', "line 1: .* no answer"),
        ('{"id": 1, "problem": "a", "answer": "1"}\n' * 2, "line 2: the id '1' .* line 1"),
        ("[1]", "line 1: not a JSON object"),
        ("", "holds no rows"),
    ],
)
def test_faulty_lines_are_named(tmp_path, content, message):
    path = tmp_path / "mine.jsonl"
    path.write_text(content)
    with pytest.raises(GeomrlError, match=rf"mine\.jsonl.*{message}"):
        load_problems(str(path))


def test_faulty_parquet_files_are_named(tmp_path):
    whole = tmp_path / "whole.parquet"
    pd.DataFrame(rows_of(50)).to_parquet(whole)
    assert len(load_problems(str(whole))) == 50
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(whole.read_bytes()[:-20])
    empty = tmp_path / "empty.parquet"
    empty.write_bytes(b"")
    no_rows = tmp_path / "no_rows.parquet"
    pd.DataFrame(rows_of(1)).head(0).to_parquet(no_rows)
    hole = tmp_path / "hole.parquet"
    pd.DataFrame([*rows_of(2), {"problem": "x", "answer": None}]).to_parquet(hole)
    for path, message in [
        (torn, "not a whole parquet file"),
        (empty, "empty"),
        (no_rows, "holds no rows"),
        (hole, "row 2: .* no answer"),
        (tmp_path / "none.parquet", "no such file"),
    ]:
        with pytest.raises(GeomrlError, match=rf"{path.name}.*{message}"):
            load_problems(str(path))


def test_sources_are_joined_and_limited(tmp_path):
    one = write_jsonl(tmp_path / "one.jsonl", rows_of(5))
    two = write_jsonl(tmp_path / "two.jsonl", rows_of(3))
    problems = load_problems(f"{one}, {two}", limit=2)
    assert [p.problem_id for p in problems] == ["one-0", "one-1", "two-0", "two-1"]
    with pytest.raises(GeomrlError, match=r"'one' is in .* twice"):
        load_problems(f"{one},{one}")
    with pytest.raises(GeomrlError, match="limit 0"):
        load_problems(one, limit=0)


def test_the_bundled_task_needs_nothing():
    problems = load_problems("arithmetic")
    assert len(problems) == 200
    assert {p.benchmark for p in problems} == {"arithmetic"}
    assert problems == load_problems("arithmetic")


def test_the_bundled_training_problems_are_none_of_the_held_out_ones():
    problems = load_problems("arithmetic_train")
    assert len(problems) == 20_000
    assert {p.benchmark for p in problems} == {"arithmetic_train"}
    assert len({p.problem_id for p in problems}) == 20_000
    assert not any(is_heldout(terms_of(p)) for p in problems)
    assert load_problems("arithmetic_train,arithmetic", limit=3)[:3] == problems[:3]
    kept, report = deduplicate(problems)
    assert report.contradictory_groups == 0
    assert len(kept) > 19_000


@pytest.mark.parametrize("spec", ["", " , ", "aime42", "data.csv", "aime42=x.jsonl"])
def test_unknown_sources_are_named(spec):
    with pytest.raises(GeomrlError):
        load_problems(spec)


def test_a_local_copy_of_a_benchmark_must_have_its_size(tmp_path):
    right = write_jsonl(tmp_path / "right.jsonl", rows_of(30))
    assert {p.benchmark for p in load_problems(f"aime24={right}", limit=3)} == {"aime24"}
    wrong = write_jsonl(tmp_path / "wrong.jsonl", rows_of(29))
    with pytest.raises(GeomrlError, match="holds 29 problems, but aime24 has 30"):
        load_problems(f"aime24={wrong}")
    relay = write_jsonl(tmp_path / "relay.jsonl", rows_of(675))
    with pytest.raises(GeomrlError, match="675 holds 15 relay problems"):
        load_problems(f"olympiadbench={relay}")


def test_faults_of_olympiadbench_are_marked(tmp_path):
    rows = [{"id": f"olympiad-{i}", **row} for i, row in enumerate(rows_of(674), start=2400)]
    rows[0]["id"] = 2275
    problems = load_problems(f"olympiadbench={write_jsonl(tmp_path / 'o.jsonl', rows)}")
    faulty = {p.problem_id: p for p in problems if "fault" in p.meta}
    assert set(faulty) == {"2275", "olympiad-2655", "olympiad-2967"}  # 3095 is past the end
    assert faulty["2275"].gold == "4"
    assert "unanswerable" in faulty["olympiad-2655"].meta["fault"]


def test_the_table_of_benchmarks():
    counts = {name: benchmark.count for name, benchmark in BENCHMARKS.items()}
    assert counts == {
        "aime24": 30,
        "aime25": 30,
        "aime26": 30,
        "amc23": 40,
        "amc24": 45,
        "hmmt_feb25": 30,
        "math500": 500,
        "minerva": 272,
        "olympiadbench": 674,
        "gsm8k": 1319,
        "dapo17k": None,
    }


def test_without_the_hub_the_error_names_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"geomrl\[hub\]"):
        load_problems("aime24")


def test_an_unreachable_hub_names_the_cure(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(GeomrlError, match=r"could not be loaded .*pass 'aime24=FILE'"):
        load_problems("aime24")


# Training sets.


def problem(number, statement, gold="1", benchmark="train"):
    return Problem(f"{benchmark}-{number}", benchmark, statement, gold)


def test_duplicates_go_and_contradictions_go_entirely():
    problems = [
        problem(0, "Find $x + 1$."),
        problem(1, "Find  $x+1$.\n"),  # the same but for white space
        problem(2, "Find $X + 1$."),  # another variable
        problem(3, "Find y.", "1"),
        problem(4, "Find y.", "2"),
        problem(5, "Find y.", "1"),
        problem(6, "Find z."),
    ]
    kept, report = deduplicate(problems)
    assert [p.problem_id for p in kept] == ["train-0", "train-2", "train-6"]
    assert (report.rows, report.duplicates, report.contradictory_groups, report.kept) == (
        7,
        3,
        1,
        3,
    )


def test_the_named_training_set_is_deduplicated(tmp_path, caplog):
    rows = [*rows_of(3), *rows_of(2)]
    path = write_jsonl(tmp_path / "d.jsonl", rows)
    with caplog.at_level("INFO", logger="geomrl"):
        assert len(load_problems(f"dapo17k={path}")) == 3
    assert "5 problems; 2 repeat the text of another" in caplog.text
    assert len(load_problems(path)) == 5  # a file of one's own is taken as it is


def test_a_training_set_may_repeat_its_ids_with_its_rows(tmp_path, caplog, monkeypatch):
    def row(number, gold, wrapped=True):
        text = f"What is {number}?"
        if wrapped:
            text = (
                "Solve the following math problem step by step. Put the answer last.\n\n" + text
                + '\n\nRemember to put your answer on its own line after "Answer:".'
            )  # fmt: skip
        return {
            "prompt": [{"role": "user", "content": text}],
            "reward_model": {"ground_truth": gold, "style": "rule"},
            "extra_info": {"index": f"uuid-{number}"},
        }

    # Each row is there three times; the second problem also with another answer, the third also
    # without the wrapper.
    rows = [*3 * [row(0, "0"), row(1, "1"), row(2, "2")], row(1, "11"), row(2, "2", wrapped=False)]
    path = tmp_path / "dapo.parquet"
    pd.DataFrame(rows).to_parquet(path)
    problems = load_problems(f"dapo17k={path}")
    assert [(p.problem_id, p.gold) for p in problems] == [("uuid-0", "0"), ("uuid-2", "2")]
    said = "11 problems; 8 repeat the text of another; 1 texts have contradictory answers"
    assert [said in r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [True]
    # The hub's rows go the same way.
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **options: rows)
    assert load_problems("dapo17k") == problems
    # Two problems that share an id could not be told apart.
    pd.DataFrame([row(0, "0"), row(1, "1") | {"extra_info": {"index": "uuid-0"}}]).to_parquet(path)
    with pytest.raises(GeomrlError, match=r"the id 'uuid-0' belongs to two problems"):
        load_problems(f"dapo17k={path}")


def test_contamination_is_found():
    text = "Let a and b be positive integers such that a plus b equals ten; find the largest ab."
    held_out = [problem(0, text, benchmark="aime"), problem(1, "What is 1?", benchmark="aime")]
    training = [
        problem(0, text.replace(" ", "\n")),
        problem(1, "Here is one. " + text.replace("largest", "greatest")),
        problem(2, "What is 1?"),
        problem(
            3, "Let a and b be positive integers such that a divides b and nothing else holds."
        ),
        problem(4, "What is 2?"),
    ]
    found = {(o.problem_id, o.benchmark_id, o.kind) for o in find_contamination(training, held_out)}
    assert found == {
        ("train-0", "aime-0", "exact"),
        ("train-1", "aime-0", "near"),
        ("train-2", "aime-1", "exact"),
    }
