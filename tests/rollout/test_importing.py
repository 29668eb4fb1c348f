"""Rollouts of other tools: every shape in, one table out, every bad row named."""

import json

import pandas as pd
import pytest
from small_runs import rollout_lines, write_lines
from tiny import byte_level_tokenizer, character_tokenizer

from geomrl.errors import GeomrlError
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.imports.table import import_rollouts
from geomrl.runs.rollouts import COLUMNS, read_rollouts, write_rollouts

TOKENIZER = character_tokenizer(sorted({chr(c) for c in range(32, 127)} | {"\n"}))


def read(path, verifier, **config):
    return import_rollouts(path, TOKENIZER, verifier, ImportConfig(template="plain", **config))


def test_graded_again_and_with_own_labels_agree(tmp_path, verifier):
    path = write_lines(tmp_path / "r.jsonl", rollout_lines())
    graded, kept = read(path, verifier), read(path, verifier, keep_labels=True)
    assert list(graded["verdict"]) == list(kept["verdict"])
    assert graded["verdict"].value_counts().to_dict() == {
        "correct": 12,
        "wrong": 11,
        "no_answer": 1,
    }
    assert list(graded["answer_class"].fillna(-1)) == list(kept["answer_class"].fillna(-1))
    first = graded[graded["problem_id"] == graded["problem_id"].iloc[6]]
    assert first["answer_class"].tolist() == [0, 0, 0, 1, 1, 2]
    assert graded["token_source"].eq("re-tokenised").all()
    said = [TOKENIZER.decode(ids) for ids in graded["response_ids"]]
    assert said == graded["response"].tolist()


def test_written_table_reads_back(tmp_path, verifier):
    table = read(write_lines(tmp_path / "r.jsonl", rollout_lines()), verifier)
    write_rollouts(tmp_path / "rollouts.parquet", table)
    back = read_rollouts(tmp_path / "rollouts.parquet")
    assert tuple(back.columns) == COLUMNS
    assert back["rollout_id"].is_unique
    # And comes in again as a foreign file, with its ids.
    again = read(tmp_path / "rollouts.parquet", verifier)
    assert again["token_source"].eq("given").all()
    assert again["rollout_id"].tolist() == table["rollout_id"].tolist()
    assert again["verdict"].tolist() == table["verdict"].tolist()


def test_lists_of_responses_unfold(tmp_path, verifier):
    lines = [
        {
            "doc_id": "a",
            "question": "1+1?",
            "target": 2,
            "resps": [["so \\boxed{2}", "\\boxed{3}"]],
        },
        {"doc_id": "b", "question": "1+2?", "target": 3, "resps": [["\\boxed{3}", "no"]]},
    ]
    table = read(write_lines(tmp_path / "r.jsonl", lines), verifier)
    assert table["rollout_id"].tolist() == ["r/a/0", "r/a/1", "r/b/0", "r/b/1"]
    assert table["verdict"].tolist() == ["correct", "wrong", "correct", "no_answer"]


def test_parquet_with_lists_and_chat_messages(tmp_path, verifier):
    tokenizer = character_tokenizer(sorted({chr(c) for c in range(32, 127)}))
    tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    frame = pd.DataFrame(
        {
            "prompt": [[{"role": "user", "content": "1+1?"}]],
            "completions": [["\\boxed{2}", "\\boxed{2}"]],
            "ground_truth": ["2"],
        }
    )
    frame.to_parquet(tmp_path / "r.parquet")
    table = import_rollouts(tmp_path / "r.parquet", tokenizer, verifier, ImportConfig())
    assert table["prompt"].tolist() == ["[1+1?]"] * 2
    assert table["prompt_kind"].eq("messages").all()


def test_row_numbers_do_not_split_groups(tmp_path, verifier):
    lines = [{"id": i, **line} for i, line in enumerate(rollout_lines())]
    assert read(write_lines(tmp_path / "r.jsonl", lines), verifier)["problem_id"].nunique() == 4


def test_two_policies_need_a_choice(tmp_path, verifier):
    lines = [{"model": m, **line} for m in ("one", "two") for line in rollout_lines()]
    path = write_lines(tmp_path / "r.jsonl", lines)
    with pytest.raises(GeomrlError, match=r"2 policies \(one, two\).*--where model='one'"):
        read(path, verifier)
    assert len(read(path, verifier, where={"model": "two"})) == 24


def test_ids_of_another_tokenizer_are_refused(tmp_path, verifier):
    other = byte_level_tokenizer(corpus=["so \\boxed{7}"], vocab_size=262)
    lines = [
        {"prompt": "1+1?", "response": "so \\boxed{2}", "gold": "2",
         "prompt_ids": other("1+1?")["input_ids"], "response_ids": other("so \\boxed{2}")["input_ids"]}
    ]  # fmt: skip
    path = write_lines(tmp_path / "r.jsonl", lines)
    with pytest.raises(GeomrlError, match=r"rollout r/problem-0000/0 .*--retokenize"):
        read(path, verifier)
    assert read(path, verifier, retokenize=True)["token_source"].tolist() == ["re-tokenised"]


BAD = {
    "no such file": (None, "no such file"),
    "torn line": ('{"question": "a", "completion": "b", "gold": "1"}\n{"quest', "line 2: not valid"),
    "empty": ("\n", "holds no rollouts"),
    "no response": ('{"question": "a", "gold": "1"}', "no column with the responses.*question, gold"),
    "no prompt": ('{"completion": "a", "gold": "1"}', "no column with the problem"),
    "no gold": ('{"question": "a", "completion": "b"}', "row 1: no gold answer.*--keep-labels"),
    "gold missing in row 2": (
        '{"question": "a", "completion": "b", "gold": "1"}\n'
        '{"question": "a", "completion": "b", "gold": null}', "row 2: no gold answer"),
    "response is no text": ('{"question": "a", "completion": 3, "gold": "1"}', "row 1: its response"),
    "same id, other problem": (
        '{"problem_id": "p", "question": "a", "completion": "b", "gold": "1"}\n'
        '{"problem_id": "p", "question": "c", "completion": "b", "gold": "1"}', "'p' stands for 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(name, tmp_path, verifier):
    content, message = BAD[name]
    path = tmp_path / "r.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(GeomrlError, match=message) as error:
        read(path, verifier)
    assert "r.jsonl" in str(error.value)


def test_bad_options_are_named(tmp_path, verifier):
    path = write_lines(tmp_path / "r.jsonl", rollout_lines())
    with pytest.raises(GeomrlError, match="--column names 'answers'; the file has"):
        read(path, verifier, columns={"gold": "answers"})
    with pytest.raises(GeomrlError, match="no row has gold = '77'"):
        read(path, verifier, where={"gold": "77"})
    strange = [json.loads(json.dumps(line | {"label": 0.5})) for line in rollout_lines()]
    with pytest.raises(GeomrlError, match=r"row 1: label 0.5 is neither right"):
        read(write_lines(tmp_path / "s.jsonl", strange), verifier, keep_labels=True)
