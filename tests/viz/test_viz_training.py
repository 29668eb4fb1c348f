"""Training curves and ablation pictures: their files, the numbers in them, and that they read well."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from ablations import make_ablation
from planted import assert_legible
from training_logs import make_log

from geomrl.ablate.ablation import write_ablation
from geomrl.cli import main
from geomrl.errors import GeomrlError
from geomrl.runs.layout import METRICS
from geomrl.viz.ablation import draw_ablation, draw_factor, factor_frame
from geomrl.viz.theme import Provenance
from geomrl.viz.training import draw_training, training_pictures

PICTURES = {
    "training_accuracy",
    "training_policy",
    "training_rollouts",
    "training_alignment",
    "training_pace",
}
GEOMETRY = {"heldout_geometry_before_marker_final", "heldout_geometry_fraction-0.5_final"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_log(tmp_path_factory.mktemp("training") / "run")


def test_every_picture_is_three_files_and_legible(run, tmp_path):
    seen = []
    files = draw_training(run, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert {path.stem for path in files} == PICTURES | GEOMETRY | {"figures"}
    assert len(files) == 3 * 7 + 1
    assert sorted(files) == sorted(tmp_path.iterdir())
    assert seen == [(i + 1, 7) for i in range(7)]
    for picture in training_pictures(run).values():
        assert picture is not None
        assert_legible(picture)


def test_a_picture_shows_what_the_log_says(run, tmp_path):
    draw_training(run, tmp_path, formats=())
    log = pd.DataFrame([json.loads(line) for line in (run / METRICS).read_text().splitlines()])
    shown = pd.read_csv(tmp_path / "training_accuracy.csv")
    for metric in ("reward/mean", "eval/pass@1", "eval/pass@8"):
        rows = shown[shown["metric"] == metric].reset_index(drop=True)
        known = log.dropna(subset=metric).reset_index(drop=True)
        np.testing.assert_allclose(rows["value"], known[metric], rtol=1e-5)
        assert rows["step"].tolist() == known["step"].tolist()
        if metric.startswith("eval"):
            np.testing.assert_allclose(rows["low"], known[f"{metric}_low"], rtol=1e-5)
        else:
            assert rows["low"].isna().all()
    picture = training_pictures(run)["training_alignment"]
    assert picture is not None
    raw = picture.figure.axes[0]
    line = next(x for x in raw.lines if x.get_marker() == "s")  # II, which has no value in step 3
    assert 3 not in line.get_xdata()
    assert len(line.get_xdata()) == 11
    note = picture.figure.texts[0].get_text()
    assert "reasoner" in note


def test_held_out_notes_say_what_was_measured(run):
    note = training_pictures(run)["training_accuracy"].figure.texts[0].get_text()
    assert "40\xa0problems" in note.replace(" ", "\xa0")
    assert "intervals" in note


def test_a_run_without_alignment_or_evaluation_leaves_those_out(tmp_path):
    run = make_log(tmp_path / "run", alignment=False, every=1000)
    record = draw_record(run)
    assert "skipped" in record["training_alignment"]
    assert "files" in record["training_accuracy"]
    assert set(record) == PICTURES | GEOMETRY  # evaluated before training


def draw_record(run):
    draw_training(run, formats=())
    return json.loads((run / "figures" / "figures.json").read_text())["pictures"]


@pytest.mark.parametrize("steps", [1, 500])
def test_one_step_and_very_many_stay_legible(tmp_path, steps):
    run = make_log(tmp_path / "run", steps, every=1 if steps == 1 else 50, long_name=True)
    for picture in training_pictures(run).values():
        assert picture is not None
        assert_legible(picture)


def test_a_folder_without_a_configuration_is_told(run, tmp_path):
    (tmp_path / METRICS).write_text((run / METRICS).read_text())
    with pytest.raises(GeomrlError, match=r"config\.yaml: no such file"):
        draw_training(tmp_path)


def test_drawing_imports_neither_torch_nor_pyplot():
    code = (
        "import sys, geomrl.viz.training, geomrl.viz.ablation, geomrl.viz.folders; "
        "print([m for m in ('matplotlib.pyplot', 'torch', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Ablations


def test_the_four_pictures_hold_levels_and_controls(tmp_path):
    ablation = make_ablation(tmp_path)
    files = draw_ablation(ablation, formats=("png",))
    names = {f"ablation_{factor}" for factor in ("loss", "anchor", "layer", "weight")}
    assert {path.stem for path in files} == names | {"figures"}
    for factor in ("loss", "anchor", "layer", "weight"):
        frame = factor_frame(ablation, factor)
        assert set(frame["factor"]) == {factor, "control"}
        assert_legible(draw_factor(frame, factor, Provenance("p", "p"), ablation.place))


def test_an_ablation_picture_shows_differences_by_seed_and_their_mean(tmp_path):
    ablation = make_ablation(tmp_path)
    frame = factor_frame(ablation, "loss")
    rows = frame[(frame["level"] == "mse") & (frame["metric"] == "eval/pass@1")]
    mean, seeds = rows[rows["seed"].isna()].iloc[0], rows[rows["seed"].notna()]
    assert seeds["difference"].mean() == pytest.approx(mean["difference"])
    values = ablation.results[ablation.results["metric"] == "eval/pass@1"]
    values = values.pivot(index="seed", columns="arm", values="value")
    expected = (values["loss=mse"] - values["baseline"]).tolist()
    assert seeds["difference"].tolist() == pytest.approx(expected)
    assert mean["low"] < mean["difference"] < mean["high"]
    default = frame[(frame["level"] == "cosine") & frame["seed"].isna()]
    assert set(default["arm"]) == {"default"}
    weight = factor_frame(ablation, "weight")
    assert "0" not in set(weight["level"])  # weight 0 is what the others are compared with


def test_a_factor_that_is_not_varied_has_no_picture(tmp_path):
    ablation = make_ablation(tmp_path, factors={"loss": ["cosine", "mse"]})
    draw_ablation(ablation, formats=())
    record = json.loads((tmp_path / "figures" / "figures.json").read_text())["pictures"]
    assert record["ablation_anchor"] == {"skipped": "no arm varies the anchor"}
    assert "files" in record["ablation_loss"]


def test_figures_chooses_by_what_the_folder_holds(run, tmp_path, monkeypatch):
    write_ablation(make_ablation(tmp_path / "ablation"))
    for folder, picture in ((run, "training_accuracy"), (tmp_path / "ablation", "ablation_loss")):
        monkeypatch.setattr(sys, "argv", ["geomrl", "figures", str(folder), "--out", str(tmp_path)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        assert (tmp_path / f"{picture}.png").exists()
