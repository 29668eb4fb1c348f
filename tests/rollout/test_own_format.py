"""A format of other tools' rollouts in a file of the user's, and which of geomrl's own reads a file."""

import pickle

import pandas as pd
import pytest
from commands import geomrl
from small_runs import rollout_lines, save_model, write_lines

from geomrl.errors import GeomrlError
from geomrl.files import user_code_hash
from geomrl.rollout.imports import by_column, lm_eval
from geomrl.rollout.imports.config import ImportConfig, import_settings
from geomrl.rollout.imports.files import column_names, read_rows
from geomrl.rollout.imports.formats import FORMATS, opened
from geomrl.runs.manifest import read_manifest
from geomrl.runs.rollouts import read_rollouts

PICKLED = '''
"""Rollouts that a script pickled: (question, gold, [(response, whether it is right), ...]) a problem."""

import pickle


def pickled(path, config, say):
    say("note: unpickled")
    for question, gold, samples in pickle.loads(path.read_bytes()):
        for response, right in samples:
            yield {"problem": question, "gold": gold, "response": response, "label": right}


def nothing(path, config, say):
    return []


def wrong(path, config, say):
    return ["a row"]


table = {}
'''


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A model, the user's format, a file that it reads, and the same rollouts as JSON lines."""
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "model")
    (tmp_path / "mine.py").write_text(PICKLED)
    lines = rollout_lines()
    write_lines(tmp_path / "r.jsonl", lines)
    problems = {line["question"]: (line["gold"], []) for line in lines}
    for line in lines:
        problems[line["question"]][1].append((line["completion"], line["label"]))
    whole = [(question, gold, samples) for question, (gold, samples) in problems.items()]
    (tmp_path / "r.pkl").write_bytes(pickle.dumps(whole))
    return tmp_path


def test_it_is_read_as_the_same_rollouts_in_a_usual_file(there):
    first = geomrl(
        "rollout", "model", "--import", "r.jsonl", "--out", "plain", "--template", "plain"
    )
    assert first.exit_code == 0, first.output
    command = (
        *("rollout", "model", "--import", "r.pkl", "--format", "mine.py:pickled"),
        *("--out", "own", "--template", "plain"),
    )
    done = geomrl(*command)
    assert done.exit_code == 0, done.output
    usual, own = (read_rollouts(there / run / "rollouts.parquet") for run in ("plain", "own"))
    pd.testing.assert_frame_equal(
        own.drop(columns=["benchmark", "rollout_id"]),
        usual.drop(columns=["benchmark", "rollout_id"]),
    )
    settings = read_manifest(there / "own")["rollouts"]["settings"]
    assert settings["format"] == "mine.py:pickled"
    assert settings["user_code"] == {"mine.py:pickled": user_code_hash("mine.py:pickled")}
    assert not {"format", "user_code"} & set(import_settings(ImportConfig()))

    assert geomrl(*command).exit_code == 0  # it resumes
    (there / "mine.py").write_text(PICKLED + "# changed")
    changed = geomrl(*command)
    assert changed.exit_code == 1
    assert "made with other settings (user_code.mine.py:pickled" in changed.stderr


def test_probe_and_eval_read_it_too(there):
    done = geomrl(
        *("probe", "model", "--rollouts", "r.pkl", "--format", "mine.py:pickled", "--out", "run"),
        *("--layers", "final", "--anchors", "before_marker", "--template", "plain"),
        *("--boot", 100, "--permutations", 99),
    )
    assert done.exit_code == 0, done.output
    done = geomrl(
        *("eval", "r.pkl", "--format", "mine.py:pickled", "--out", "out", "--boot", 200),
        *("--where", "problem=what is 1 + 0?", "--keep-labels", "--no-figures"),
    )
    assert done.exit_code == 0, done.output
    assert "1 x 6" in done.output
    step = read_manifest(there / "out" / "rollouts" / "r")["rollouts"]["settings"]
    assert step["user_code"] == {"mine.py:pickled": user_code_hash("mine.py:pickled")}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "r.pkl: mine.py:nothing returns no rollouts of it"),
        ("wrong", "mine.py:wrong: returns str where a row belongs"),
        ("table", "mine.py:table: is no function but dict"),
        ("absent", "mine.py has no 'absent'; name a rollout format"),
    ],
)
def test_a_format_that_is_none_is_named(there, name, said):
    with pytest.raises(GeomrlError) as caught:
        opened(there / "r.pkl", ImportConfig(format=f"mine.py:{name}"), print)
    assert said in str(caught.value)


# --- which format a file has -------------------------------------------------------------------

LM_EVAL = {
    "doc_id": 0,
    "doc": {"problem": "1+1?"},
    "target": "2",
    "filter": "none",
    "resps": [["2"]],
}
FILES = {"lm_eval": [LM_EVAL, LM_EVAL | {"filter": "strict"}], "by_column": rollout_lines(2)}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".json"])
def test_a_file_is_recognised_by_its_columns_in_every_container(name, suffix, tmp_path):
    path, rows = tmp_path / f"r{suffix}", pd.DataFrame(FILES[name])
    if suffix == ".parquet":
        rows.to_parquet(path)
    else:
        rows.to_json(path, orient="records", lines=suffix == ".jsonl")
    assert column_names(path) == set(read_rows(path))
    notes = []
    found = opened(path, ImportConfig(), notes.append)
    assert found.format is {"lm_eval": lm_eval, "by_column": by_column}[name].FORMAT
    assert len(found.rows) == (1 if name == "lm_eval" else len(rows))
    assert len(notes) == (name == "lm_eval")


def test_the_last_format_takes_every_file_and_a_torn_one_is_named_by_its_reader(tmp_path):
    assert FORMATS[-1].matches(())
    torn = tmp_path / "r.parquet"
    torn.write_bytes(b"PAR1")
    assert column_names(torn) == column_names(tmp_path / "absent.parquet") == frozenset()
    with pytest.raises(GeomrlError, match="not a whole parquet file"):
        opened(torn, ImportConfig(), print)
    (tmp_path / "r.pkl").write_bytes(b"")
    with pytest.raises(GeomrlError, match=r"as .jsonl, .json, .parquet or .eval, not '.pkl'"):
        opened(tmp_path / "r.pkl", ImportConfig(), print)
