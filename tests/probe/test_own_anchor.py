"""An anchor from a file of the user's: `--anchors before_marker,FILE.py:FUNCTION`."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import geomrl
from hooked import hooked_states
from small_runs import rollout_lines, save_model, write_lines
from tiny import byte_level_tokenizer, character_tokenizer

from geomrl.errors import GeomrlError
from geomrl.files import file_hash
from geomrl.models.context import Context
from geomrl.models.loading import load_model
from geomrl.models.token_bytes import TokenBytes
from geomrl.probe.anchors import KINDS, anchor_order, before_the_answer, try_anchor
from geomrl.probe.extraction import ExtractionConfig
from geomrl.probe.response import lay_out
from geomrl.probe.steps import read_states, replace_anchor
from geomrl.runs.run import open_run
from geomrl.train.record_sections import EvaluationConfig
from geomrl.train.sections import AlignmentConfig
from geomrl.verify.marker import parse_marker
from geomrl.viz import profiles
from geomrl.viz.tables import anchor_label, ordered

TOY = Path(__file__).parents[1] / "toy_anchor.py"
OWN = "toy_anchor.py:first_digit"
BOX = parse_marker("\\boxed{")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the user's file, a model, and a run that was probed at the user's anchor."""
    path = tmp_path_factory.mktemp("own")
    shutil.copy(TOY, path)
    save_model(path / "model")
    write_lines(path / "r.jsonl", rollout_lines(n_problems=4))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        done = geomrl(
            "probe", "model", "--rollouts", "r.jsonl", "--out", "run", "--template", "plain",
            "--anchors", f"before_marker,{OWN}", "--layers", "2,final", "--boot", 100,
            "--permutations", 99,
        )  # fmt: skip
    assert done.exit_code == 0, done.output
    return path


def test_states_are_those_of_the_position_that_the_function_returns(folder):
    run = open_run(folder / "run")
    assert run.anchors == ("before_marker", "first_digit")
    model = load_model(str(folder / "model"), device="cpu").model
    rollouts = run.rollouts.set_index("rollout_id")
    for layer in ("2", "final"):
        rows, states = run.states(layer, "first_digit")
        assert len(rows) > 10
        for row, state in zip(rows.to_dict("records"), states, strict=True):
            rollout = rollouts.loc[row["rollout_id"]]
            index = re.search(r"\d", rollout["response"]).start()  # a token a character
            assert row["token_index"] == index
            ids = torch.tensor([[*rollout["prompt_ids"], *rollout["response_ids"]]])
            hooked = hooked_states(model, ids)[layer][0, len(rollout["prompt_ids"]) + index]
            np.testing.assert_allclose(state, hooked.numpy(), atol=1e-5)
    lacking = run.store().rows().query("anchor == 'first_digit' and token_index.isna()")
    assert set(lacking["reason"]) <= {"no_first_digit"}


def test_the_manifest_names_the_file_and_its_content(folder):
    manifest = json.loads((folder / "run" / "manifest.json").read_text())
    [step] = [entry for name, entry in manifest.items() if name.startswith("states/")]
    assert step["settings"]["user_code"] == {OWN: file_hash(folder / "toy_anchor.py")}


def test_figures_draw_it_without_the_file(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("geomrl.viz.probed.FIGURES", (profiles.make_by_position,))
    done = geomrl("figures", folder / "run", "--no-umap", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    [path] = [p for p in tmp_path.glob("*.csv") if "anchor" in pd.read_csv(p).columns]
    assert list(pd.read_csv(path)["anchor"].unique()) == ["before_marker", "first_digit"]
    assert anchor_label("first_digit") == anchor_label(OWN) == "first digit"
    assert ordered(["first_digit", "response_last", "fraction:0"], "anchor")[-1] == "first_digit"


def test_a_run_without_one_is_filed_as_before(folder, tmp_path, monkeypatch):
    shutil.copytree(folder / "run", tmp_path / "run", ignore=shutil.ignore_patterns("states"))
    places = ExtractionConfig(layers=("final",), anchors=("before_marker",))
    _, store = read_states(
        str(folder / "model"), tmp_path / "run", config=places, context=Context(show=False)
    )
    assert "user_code" not in json.loads((store.path / "store.json").read_text())
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert "user_code" not in manifest[f"states/{store.path.name}"]["settings"]


def test_an_edited_file_is_read_again_where_the_anchor_moved(folder, tmp_path, monkeypatch):
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "model").symlink_to(folder / "model")
    shutil.copy(TOY, tmp_path)
    monkeypatch.chdir(tmp_path)
    places = ExtractionConfig(layers=("2", "final"), anchors=("before_marker", OWN))

    def read():
        said = []
        run, _ = read_states(
            "model", "run", config=places, context=Context(show=False, say=said.append)
        )
        rows, _ = run.states("final", "first_digit")
        return [line for line in said if "again" in line], rows["token_index"]

    again, before = read()
    assert again == []
    source = Path("toy_anchor.py").read_text()
    Path("toy_anchor.py").write_text(f"{source}\n\n# the same positions\n")
    assert read()[0] == []
    Path("toy_anchor.py").write_text(source.replace("found.start())", "found.start()) + 1"))
    again, after = read()
    assert len(again) == 1
    assert after.tolist() == (before + 1).tolist()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return 10**6",
            r"returns 1000000 for the response 'so 3 \+ 4 = 7.*of 6 tokens; return the",
        ),
        ("return response.text", "returns 'so 3"),
        ("return -2", "returns -2"),
        ("return True", "returns True"),
        ("return response.nothing", "fails on the response .*AttributeError"),
        ("return response.marker_first", r"fails on the response 'no idea' .*no answer marker"),
    ],
)
def test_what_is_no_anchor_is_refused(tmp_path, body, message):
    (tmp_path / "own.py").write_text(f"def place(response):\n    {body}\n")
    with pytest.raises(GeomrlError, match=rf"own\.py:place: {message}"):
        try_anchor(f"{tmp_path}/own.py:place")


def test_names_that_would_be_taken_for_others_are_refused(tmp_path):
    (tmp_path / "own.py").write_text("place = 3\n\n\ndef marker_end(response):\n    return 0\n")
    with pytest.raises(GeomrlError, match="is one of geomrl's own: give the function another name"):
        try_anchor(f"{tmp_path}/own.py:marker_end")
    with pytest.raises(GeomrlError, match="is no function but int"):
        try_anchor(f"{tmp_path}/own.py:place")
    shutil.copy(TOY, tmp_path)
    with pytest.raises(GeomrlError, match="two would be stored as 'first_digit'"):
        ExtractionConfig(anchors=(f"{tmp_path}/toy_anchor.py:first_digit", f"{TOY}:first_digit"))
    with pytest.raises(GeomrlError, match="geomrl's own anchors only"):
        replace_anchor("model", tmp_path, anchor=f"{TOY}:first_digit")


def test_a_configuration_takes_it_and_does_not_load_it():
    assert AlignmentConfig(anchor="absent.py:place").anchor == "absent.py:place"
    with pytest.raises(ValueError, match="names something twice"):
        EvaluationConfig(problems="arithmetic", anchors=["a.py:place", "b.py:place"])


@pytest.mark.parametrize("tokenizer", [byte_level_tokenizer(), character_tokenizer()])
def test_token_at_is_the_token_that_contains_the_character(tokenizer):
    tokens, text = TokenBytes(tokenizer), "so 日本 é \\boxed{42} 7"
    pieces = [tokens[i] for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
    response = lay_out(pieces, BOX, None)
    owner = [number for number, piece in enumerate(pieces) for _ in piece]  # of each byte
    for character in range(len(response.text)):
        first_byte = len(response.text[:character].encode())
        assert response.token_at(character) == owner[first_byte]


def test_the_table_says_what_each_kind_is():
    docs = (Path(__file__).parents[2] / "docs" / "definitions.md").read_text()
    for kind in KINDS:
        assert f"| `{kind.stem}" in docs
    assert TOY.read_text().split("import re")[1].strip() in docs
    assert len({kind.order for kind in KINDS}) == len(KINDS)
    assert before_the_answer("fraction:0.5")
    assert not before_the_answer("first_digit")
    assert anchor_order("first_digit") > max(map(anchor_order, ("response_last", "think_end")))
