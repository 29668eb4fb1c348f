"""A figure of the user's: one file, through the command line, drawn beside geomrl's own."""

import json

import pandas as pd
import pytest
from small_runs import rollout_lines, write_lines
from tiny import build_model, character_tokenizer
from typer.testing import CliRunner

from geomrl.cli.app import app
from geomrl.errors import GeomrlError
from geomrl.files import file_hash
from geomrl.probe.extraction import ExtractionConfig
from geomrl.probe.steps import probe_states
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.steps import import_rollouts
from geomrl.viz.folders import draw_folder
from geomrl.viz.probed import FIGURES, draw_figures

FIGURE = '''
"""How long the responses are, by verdict."""

from geomrl.viz import theme
from geomrl.viz.picture import Picture


def lengths(scene):
    frame = scene.rollouts.assign(length=scene.rollouts["response_ids"].map(len))
    frame = frame.groupby("verdict")["length"].mean().reset_index()
    figure = theme.new_figure(theme.SINGLE_COLUMN, 2.0, scene.source.footnote(scene.place))
    figure.subplots().bar(frame["verdict"], frame["length"])
    return Picture("response_length", figure, frame)


def nothing(scene):
    return None


def taken(scene):
    return Picture("pass_rate", theme.new_figure(2, 2, ""), scene.table)


def elsewhere(scene):
    return Picture("../response_length", theme.new_figure(2, 2, ""), scene.table)


word = "lengths"
'''


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probed")
    lines = rollout_lines(n_problems=4)
    texts = "".join(line["question"] + line["completion"] for line in lines)
    build_model().save_pretrained(folder / "model")
    character_tokenizer(sorted(set(texts))).save_pretrained(folder / "model")
    file = write_lines(folder / "r.jsonl", lines)
    model, config = str(folder / "model"), ImportConfig(template="plain")
    import_rollouts(file, model, folder / "run", config=config, show=False)
    places = ExtractionConfig(layers=("final",), anchors=("before_marker",))
    return probe_states(model, folder / "run", config=places, n_boot=100, n_perm=19, show=False)


def test_one_file_is_a_figure_with_its_csv(run, tmp_path, monkeypatch):
    (tmp_path / "lengths.py").write_text(FIGURE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("geomrl.viz.probed.FIGURES", FIGURES[:1])  # the others are slow to draw
    done = CliRunner().invoke(
        app,
        ["figures", str(run.path), "--figure", "lengths.py:lengths", "--no-umap", "--out", "out"],
    )
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    shown = pd.read_csv(out / "response_length.csv").set_index("verdict")["length"]
    rollouts = run.rollouts
    for verdict, length in shown.items():
        ids = rollouts.loc[rollouts["verdict"] == verdict, "response_ids"]
        assert length == pytest.approx(ids.map(len).mean(), rel=1e-5)
    assert set(shown.index) == set(rollouts["verdict"])
    assert (out / "response_length.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "response_length.pdf").exists()
    record = json.loads((out / "figures.json").read_text())
    assert record["user_code"] == {"lengths.py:lengths": file_hash(tmp_path / "lengths.py")}
    names = [name for name in record["pictures"] if name != "verdict_counts"]
    assert names == ["pass_rate", "response_length"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "gave NoneType; return geomrl.viz.picture's Picture"),
        ("taken", "figure 'pass_rate': two have this name"),
        ("elsewhere", "is no file's name"),
        ("word", "not a function"),
        ("absent", "has no 'absent'"),
    ],
)
def test_what_is_no_figure_is_named(run, tmp_path, monkeypatch, name, message):
    (tmp_path / "mine.py").write_text(FIGURE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("geomrl.viz.probed.FIGURES", FIGURES[:1])
    with pytest.raises(GeomrlError, match=message):
        draw_figures(run, tmp_path / "out", umap=False, formats=(), figures=[f"mine.py:{name}"])


def test_without_one_nothing_is_recorded_and_other_folders_refuse_it(run, tmp_path, monkeypatch):
    monkeypatch.setattr("geomrl.viz.probed.FIGURES", ())
    draw_figures(run, tmp_path, umap=False, formats=())
    assert "user_code" not in json.loads((tmp_path / "figures.json").read_text())
    (tmp_path / "comparison.parquet").touch()
    with pytest.raises(GeomrlError, match=r"another kind \(comparison\); leave --figure out"):
        draw_folder(tmp_path, figures=["mine.py:lengths"])
