"""`geomrl compare` from end to end, on exact edits of the bundled reasoner."""

import itertools
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from older_stores import write_as_before
from planted_models import Edit, edited, random_turn, rotated

from geomrl.cli.app import app
from geomrl.compare import place_part
from geomrl.compare.comparison import open_comparison
from geomrl.compare.config import CompareConfig, check_distinct
from geomrl.compare.corners import POLICIES, Corners
from geomrl.compare.encoder_change import geometry_evidence, pair_states
from geomrl.compare.measures.measure import Compared, PlaceSettings, shown_entry, shown_of
from geomrl.compare.place import MEASURES, own_rows, place_rows
from geomrl.compare.rows import COLUMNS, Place
from geomrl.compare.run import compare_models
from geomrl.errors import GeomrlError
from geomrl.files import file_hash
from geomrl.models.options import ModelOptions
from geomrl.probe.extraction import ExtractionConfig
from geomrl.problems.problem import Problem
from geomrl.report.page import write_report
from geomrl.rollout.engine import Sampling
from geomrl.rollout.generate import RolloutConfig
from geomrl.runs import pieces
from geomrl.runs.rollouts import read_rollouts, write_rollouts
from geomrl.verify.verifier import MathVerifier
from geomrl.viz import theme

SETTINGS = {
    "problems": "arithmetic",
    "limit": 24,
    "rollouts": RolloutConfig(n=4, chunk=200, sampling=Sampling(max_tokens=128)),
    "extraction": ExtractionConfig(layers=("2", "final"), anchors=("marker_end", "before_answer")),
    "config": CompareConfig(anchor="marker_end", probe_anchors=("marker_end",), n_boot=100),
    "options": ModelOptions("cpu"),
    "show": False,
}


def save(loaded, folder):
    loaded.model.config.tie_word_embeddings = False
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    reasoner = ModelOptions("cpu").load("reasoner")
    turn = random_turn(0, 0.6, 64)
    return (
        save(rotated(reasoner, np.eye(64)), folder / "folded"),
        save(rotated(reasoner, turn), folder / "turned"),
    )


@pytest.fixture(scope="module")
def comparison(checkpoints, tmp_path_factory):
    base, turned = checkpoints
    out = tmp_path_factory.mktemp("run") / "compare"
    return compare_models(base, [turned, base], out=out, **SETTINGS)


def test_a_rotation_of_the_residual_stream_is_named_and_the_same_model_is_not(comparison):
    assert comparison.verdicts == {"turned": "rotation", "folded": "none"}
    entry = comparison.entry("turned")
    tests = {test["test"]: test for test in entry["tests"]}
    assert tests["rotation explains"]["shown"]
    assert tests["pass@1"]["value"] == pytest.approx(0.0, abs=0.05)
    elsewhere = {(o["layer"], o["anchor"]): o["components"] for o in entry["elsewhere"]}
    assert elsewhere["2", "marker_end"] == ["rotation"]
    assert len(elsewhere) == 3


def test_the_table_is_tidy_and_its_measures_are_those_of_a_rotation(comparison):
    table = comparison.table
    assert tuple(table.columns) == COLUMNS
    keys = ["checkpoint", "measure", "policy", "encoder", "layer", "anchor", "cell", "space"]
    assert not table.duplicated(keys).any()
    here = table[
        (table["checkpoint"] == "turned")
        & (table["layer"] == "final")
        & (table["anchor"] == "marker_end")
    ].set_index(["measure", "policy", "encoder", "cell", "space"])["value"]
    assert here["cka", "both", "rl-base", "", ""] == pytest.approx(1.0, abs=1e-4)
    assert here["mutual_knn", "base", "rl-base", "k=10", ""] > 0.98
    assert here["log_norm_ratio", "base", "rl-base", "", ""] == pytest.approx(0.0, abs=1e-4)
    assert here["direction", "base", "rl-base", "", ""] < 0.95
    for encoder in ("base", "rl"):  # the lens reads the same through the turned head
        assert here["lens_gold_logprob", "base", encoder, "", ""] == pytest.approx(
            here["lens_gold_logprob", "base", "base", "", ""], abs=1e-2
        )
    assert here["auroc", "base", "rl", "states", "grouped"] == pytest.approx(
        here["auroc", "base", "base", "states", "grouped"], abs=0.2
    )
    pairs = table[(table["measure"] == "cosine") & (table["checkpoint"] == "turned")]
    assert {"CC", "floor", "CC-II"} <= set(pairs["cell"])
    assert set(pairs["policy"]) == {"base", "rl", "both", "rl-base"}


def test_the_same_command_makes_nothing_again_and_other_settings_are_refused(
    comparison, checkpoints
):
    before = (comparison.path / "comparison.csv").read_bytes()
    made = {p: p.stat().st_mtime_ns for p in comparison.path.rglob("*.safetensors")}
    (comparison.path / "verdict.json").unlink()
    names = {"base": checkpoints[0], "rl": [checkpoints[1], checkpoints[0]], "out": comparison.path}
    again = compare_models(**names, **SETTINGS)
    assert again.verdicts == comparison.verdicts
    assert (comparison.path / "comparison.csv").read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in comparison.path.rglob("*.safetensors")} == made
    with pytest.raises(GeomrlError, match="other settings"):
        compare_models(**names, **{**SETTINGS, "limit": 20})


@pytest.fixture
def compare_again(comparison, checkpoints, tmp_path):
    """What compares once more where no place of marker_end is finished; those of before_answer are."""
    out = shutil.copytree(comparison.path, tmp_path / "compare")
    for part in out.glob("parts/*/marker_end*"):
        part.unlink()

    def again(**options):
        names = {"base": checkpoints[0], "rl": [checkpoints[1], checkpoints[0]], "out": out}
        return compare_models(**names, **SETTINGS, **options).table

    return again


def test_a_killed_comparison_goes_on_from_the_places_that_are_finished(
    comparison, compare_again, monkeypatch
):
    done = []

    def rows(at, killed_at):
        done.append(at.place)
        if len(done) == killed_at:
            raise KeyboardInterrupt
        return place_rows(at)

    monkeypatch.setattr(place_part, "place_rows", lambda at: rows(at, killed_at=2))
    with pytest.raises(KeyboardInterrupt):
        compare_again()
    done.clear()
    monkeypatch.setattr(place_part, "place_rows", lambda at: rows(at, killed_at=0))
    pd.testing.assert_frame_equal(compare_again(), comparison.table)
    assert len(done) == 4 - 1  # two checkpoints at two layers of one anchor
    compare_again()
    assert len(done) == 4 - 1  # a finished comparison computes nothing


def test_places_shared_by_processes_are_the_same(comparison, compare_again, monkeypatch):
    monkeypatch.setattr(pieces, "_PAYS", 0.0)
    lines = []
    found = compare_again(jobs=2, say=lines.append)
    pd.testing.assert_frame_equal(found, comparison.table)
    assert [line for line in lines if "places left, about" in line]


def test_states_of_an_older_geomrl_are_compared_with_new_ones(comparison, tmp_path):
    out = shutil.copytree(comparison.path, tmp_path / "compare")
    base, rl = sorted(path.name for path in (out / "policies").iterdir())  # folded, turned
    new = Corners(comparison.path, base, rl)
    old = Corners(out, base, rl)
    for run in old.runs.values():
        write_as_before(run.store(base), [0])
    for layer, anchor in itertools.product(new.layers, new.anchors):
        there, here = new.paired(layer, anchor), old.paired(layer, anchor)
        for policy in POLICIES:
            assert here[policy].rows.equals(there[policy].rows)
            for mine, theirs in zip(here[policy].both, there[policy].both, strict=True):
                assert np.array_equal(mine, theirs)


def test_answers_of_both_policies_are_compared_once(comparison, tmp_path, monkeypatch):
    out = shutil.copytree(comparison.path, tmp_path / "compare")
    base, rl = sorted(path.name for path in (out / "policies").iterdir())  # folded, turned
    classes, asked = MathVerifier.answer_classes, []
    monkeypatch.setattr(
        MathVerifier, "answer_classes", lambda *given: asked.append(given) or classes(*given)
    )
    with MathVerifier() as verifier:
        kept = Corners(out, base, rl).policy_tables(verifier)
        assert not asked
        shutil.rmtree(out / "parts")
        made = Corners(out, base, rl).policy_tables(verifier)
        assert len(asked) == 24  # problems
        for mine, other in zip(kept, made, strict=True):
            pd.testing.assert_frame_equal(mine, other)
        file = out / "policies" / rl / "rollouts.parquet"
        table = read_rollouts(file)
        write_rollouts(
            file, table.assign(answer=table["answer"].replace({table["answer"][0]: "77"}))
        )
        Corners(out, base, rl).policy_tables(verifier)
        assert len(asked) == 48


MEASURE = """
import numpy as np

from geomrl.compare.measures.measure import Line, Measure, Panel
from geomrl.compare.rows import CHANGE


def rows(at):
    for policy, paired in at.sets.items():
        moved = np.linalg.norm(paired.rl - paired.base, axis=1)
        found = at.mean(moved, paired.groups, "shift")
        yield at.place.row("shift", policy, CHANGE, found)


MEASURE = Measure(
    rows=rows,
    labels={"shift": "Length of the shift"},
    panels=(
        Panel(
            picture="shift", name="shift", title="Length of the shift", unit="Norm",
            lines=(Line(series="shift", label="mean", measure="shift", encoder=CHANGE),),
        ),
    ),
)
TAKEN = Measure(rows=rows, labels={"cka": ""})
UNNAMED = Measure(rows=rows, labels={"moved": ""})
NUMBER = 3
"""


@pytest.fixture(scope="module")
def commanded(comparison, checkpoints, tmp_path_factory):
    """The same comparison by the command line, with a measure of the user's: (output, folder, file)."""
    out = tmp_path_factory.mktemp("command") / "compare"
    shutil.copytree(comparison.path, out)
    file = out.parent / "mine.py"
    file.write_text(MEASURE)
    arguments = [
        "compare", checkpoints[0], checkpoints[1], checkpoints[0], "--problems", "arithmetic",
        "--limit", "24", "-n", "4", "--chunk", "200", "--max-tokens", "128",
        "--layers", "2,final", "--anchors", "marker_end,before_answer",
        "--anchor", "marker_end", "--probe-anchors", "marker_end", "--boot", "100",
        "--device", "cpu", "--out", str(out), "--measure", f"{file}:MEASURE",
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.output, out, file


def test_command_line_prints_the_verdict_and_draws_what_the_table_says(comparison, commanded):
    output, out, _ = commanded
    assert "turned: rotation" in output
    assert "changes from" in output  # the trajectory
    folder = out / "figures"
    names = {path.name for path in folder.glob("*.png")}
    assert {f"compare_{n}_1.png" for n in ("cells", "relation", "auroc", "lens")} <= names
    cells = pd.read_csv(folder / "compare_cells_1.csv")
    table = comparison.table
    row = cells[(cells["series"] == "CC rl") & (cells["panel"] == "centred")].iloc[-1]
    same = table[
        (table["checkpoint"] == "turned") & (table["measure"] == "cosine")
        & (table["policy"] == "base") & (table["encoder"] == "rl") & (table["cell"] == "CC")
        & (table["space"] == "centred") & (table["layer"] == row["layer"])
        & (table["anchor"] == row["anchor"])
    ]  # fmt: skip
    assert row["value"] == pytest.approx(same["value"].iloc[0])


def test_an_edit_of_the_final_state_leaves_the_logits(checkpoints):
    import torch

    reasoner = ModelOptions("cpu").load("reasoner")
    rng = np.random.default_rng(0)
    edit = Edit(np.eye(64) + 0.1 * rng.normal(size=(64, 64)), rng.normal(size=64))
    ids = torch.randint(3, 400, (2, 12))
    for other in (edited(reasoner, edit), rotated(reasoner, random_turn(1, 0.5, 64))):
        torch.testing.assert_close(
            other.model(ids).logits, reasoner.model(ids).logits, atol=2e-3, rtol=1e-3
        )


def test_what_cannot_be_compared_is_refused(tmp_path):
    with pytest.raises(GeomrlError, match="not among those read"):
        compare_models(
            "reasoner", "reasoner", "arithmetic", tmp_path,
            extraction=ExtractionConfig(anchors=("marker_end",)),
        )  # fmt: skip
    with pytest.raises(GeomrlError, match="two a problem"):
        compare_models("reasoner", "reasoner", "arithmetic", tmp_path, rollouts=RolloutConfig(n=1))
    twice = [Problem("1", "a", "what is  2?", "2"), Problem("9", "b", "what is 2?", "2")]
    with pytest.raises(GeomrlError, match="same text"):
        check_distinct(twice)
    with pytest.raises(GeomrlError, match="no finished comparison"):
        open_comparison(tmp_path)


def test_a_measure_of_the_users_is_in_table_figure_and_page(comparison, commanded, tmp_path):
    _, out, file = commanded
    opened = open_comparison(out)
    own = opened.table[opened.table["measure"] == "shift"]
    assert len(own) == 2 * 2 * 2 * 2  # checkpoints, layers, anchors, policies
    assert (own.loc[own["checkpoint"] == "folded", "value"] == 0).all()
    assert (own.loc[own["checkpoint"] == "turned", "value"] > 0.1).all()
    others = opened.table[opened.table["measure"] != "shift"].reset_index(drop=True)
    pd.testing.assert_frame_equal(others, comparison.table)
    drawn = pd.read_csv(out / "figures" / "compare_shift_1.csv")
    shown = own[(own["checkpoint"] == "turned") & (own["policy"] == "base")]
    shown = shown[shown["anchor"] == "marker_end"]
    assert drawn["value"].tolist() == pytest.approx(shown["value"].tolist(), rel=1e-5)
    page = write_report(out, tmp_path / "report.html").read_text()
    assert "Length of the shift: marker end" in page
    recorded = json.loads((out / "manifest.json").read_text())["compare"]["changes"]
    assert recorded == [{f"user_code.{file}:MEASURE": file_hash(file)}]


def test_a_changed_measure_is_computed_again_and_nothing_else_is(
    comparison, checkpoints, commanded
):
    _, out, file = commanded
    kept = [
        path.relative_to(comparison.path)
        for path in comparison.path.glob("parts/*/*")
        if path.is_file()
    ]
    made = {path: (out / path).stat().st_mtime_ns for path in kept}
    before = open_comparison(out).table
    file.write_text(MEASURE.replace("moved, paired", "2 * moved, paired"))
    config = replace(SETTINGS["config"], measures=(f"{file}:MEASURE",))
    names = {"base": checkpoints[0], "rl": [checkpoints[1], checkpoints[0]], "out": out}
    again = compare_models(**names, **{**SETTINGS, "config": config}).table
    twice = again.loc[again["measure"] == "shift", "value"]
    once = before.loc[before["measure"] == "shift", "value"]
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-6)
    assert made == {path: (out / path).stat().st_mtime_ns for path in kept}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("TAKEN", "'cka' is a measure of geomrl's"),
        ("NUMBER", "is int; a measure is a geomrl"),
        ("absent", "has no 'absent'"),
    ],
)
def test_what_is_no_measure_is_named_before_a_model_is_loaded(tmp_path, name, message):
    (tmp_path / "mine.py").write_text(MEASURE)
    config = CompareConfig(measures=(f"{tmp_path / 'mine.py'}:{name}",))
    with pytest.raises(GeomrlError, match=message):
        compare_models("reasoner", "reasoner", "arithmetic", tmp_path / "out", config=config)


def test_a_row_that_no_label_names_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {"problem_id": ["a", "a", "b", "b"], "rollout_id": list("1234"), "verdict": "correct",
         "answer_class": 0, "gold": ["1", "1", "2", "2"]}
    )  # fmt: skip
    paired = pair_states(rows, *rng.normal(size=(2, 4, 8)))
    at = Compared(
        place=Place("final", "marker_end"), sets={"base": paired}, lens=pd.DataFrame(),
        evidence=geometry_evidence([paired], n_boot=100), settings=PlaceSettings(n_boot=100),
    )  # fmt: skip
    (tmp_path / "mine.py").write_text(MEASURE)
    with pytest.raises(GeomrlError, match=r"rows of 'shift', which is not among its labels"):
        own_rows(f"{tmp_path / 'mine.py'}:UNNAMED", at)
    [row] = own_rows(f"{tmp_path / 'mine.py'}:MEASURE", at)
    moved = np.linalg.norm(paired.rl - paired.base, axis=1)
    assert row["value"] == pytest.approx(moved.mean())


def test_every_row_of_the_table_is_of_a_measure_that_is_listed(comparison):
    named = {name for measure in MEASURES for name in measure.labels}
    policy = {"pass@1", "answer_distance", "log_length"}
    assert set(comparison.table["measure"]) <= named | policy
    lines = [line for m in MEASURES for panel in m.panels for line in panel.lines]
    assert {line.measure for line in lines} <= named
    for line in lines:
        if line.measure == "cosine":
            look = theme.CELL_LOOKS[line.cell]
            assert (line.colour, line.marker) == (look.colour, look.marker)


def test_how_a_measure_is_shown_survives_its_file():
    for measure in MEASURES:
        entry = json.loads(json.dumps(shown_entry(measure)))
        found = shown_of(entry)
        assert (dict(found.labels), found.panels) == (dict(measure.labels), measure.panels)
