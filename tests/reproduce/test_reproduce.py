"""`geomrl figures --all` at a tiny scale: from nothing, again, and what stands in the repository."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from geomrl.errors import GeomrlError
from geomrl.reproduce import Analysis, Arms, Finding
from geomrl.reproduce.everything import INDEX, load_analyses, reproduce
from geomrl.reproduce.finding import markdown_table, write_finding
from geomrl.reproduce.runs import KINDS, Scale
from geomrl.viz import picture
from geomrl.viz.ablation import draw_ablation

ROOT = Path(__file__).parents[2]
ONE = {
    "seeds": [0, 1],
    "match_gradient_norm": False,
    "default": {
        "steps": 1, "log.rollouts_every": 0, "log.show_rollouts": 0, "evaluation.every": 1,
        "checkpoint.every": 1,
    },
}  # fmt: skip
TINY = Scale(
    problems=24,
    samples=8,
    eval_samples=8,
    compared_problems=16,
    compared_anchors=("before_marker",),
    n_boot=100,
    n_perm=99,
    recipe={
        "data.limit": 200, "data.prompts_per_step": 4, "rollout.samples": 4,
        "evaluation.limit": 12, "evaluation.k": [1, 4], "evaluation.samples": 4,
        "evaluation.every": 1, "rollout.max_tokens": 100, "steps": 1,
        "deepspeed.processes": 1, "checkpoint.every": 1, "optimiser.warmup_updates": 1,
    },
    grids={
        "ablation": {
            **ONE, "default": {**ONE["default"], "evaluation.at_start": False},
            "factors": {
                "loss": ["cosine", "mse"], "anchor": ["before_marker", "marker_end"],
                "layer": ["1", "final"], "weight": [0, 0.01], "control": ["wrong"],
            },
        },
        "before_after": ONE,
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Everything at a tiny scale, and the pages again; that runs are the same again others test."""
    folder = tmp_path_factory.mktemp("reproduce")
    said = []
    with pytest.MonkeyPatch.context() as patch:  # PDFs are half of the time; others test them
        patch.setattr(picture.write_picture, "__defaults__", (("png",),))
        patch.setitem(draw_ablation.__kwdefaults__, "formats", ())  # test_ablate.py's
        first = reproduce(
            folder / "first", analyses=ROOT / "analyses", runs=folder / "runs", scale=TINY,
            show=False, say=said.append,
        )  # fmt: skip
        # Tables alone: that pictures repeat others test.
        patch.setattr(picture.write_picture, "__defaults__", ((),))
        reproduce(
            folder / "second", analyses=ROOT / "analyses", runs=folder / "runs", scale=TINY,
            show=False,
        )  # fmt: skip
    return folder, first, said


@pytest.mark.slow
def test_every_analysis_has_its_page_and_is_the_same_again(made):
    folder, first, said = made
    listed = json.loads((folder / "first" / INDEX).read_text())["files"]
    assert sorted(path.relative_to(folder / "first").as_posix() for path in first) == listed
    assert sorted(
        p.relative_to(folder / "first").as_posix() for p in (folder / "first").rglob("*.*")
    ) == listed  # fmt: skip
    assert {name.split("/")[0] for name in listed if "/" in name} == {
        script.stem for script in (ROOT / "analyses").glob("*.py")
    }
    differ = [
        name
        for name in listed
        if name.endswith((".csv", ".md"))
        and (folder / "first" / name).read_bytes() != (folder / "second" / name).read_bytes()
    ]
    assert not differ
    assert any(line.startswith("run 1 of") for line in said)


@pytest.mark.slow
def test_pages_name_settings_of_the_paper_and_assumptions(made):
    folder, _, _ = made
    for script in (ROOT / "analyses").glob("*.py"):
        page = (folder / "first" / script.stem / "README.md").read_text()
        assert "Our assumption: " in page, script
        assert "The paper's: " in page, script
        assert f"python analyses/{script.name}" in page


@pytest.mark.slow
def test_an_analysis_runs_alone_on_named_runs(made, tmp_path):
    folder, _, _ = made
    analysis = load_analyses(ROOT / "analyses")["convergence"]
    script = str(ROOT / "analyses" / "convergence.py")
    run = folder / "runs" / "probed"
    analysis.main(script, ["--probed", str(run), "--out", str(tmp_path)])
    for path in (tmp_path / "convergence").glob("*.csv"):
        assert path.read_bytes() == (folder / "first" / "convergence" / path.name).read_bytes()


def test_the_repository_holds_exactly_what_is_written():
    listed = json.loads((ROOT / "figures" / INDEX).read_text())["files"]
    there = [p.relative_to(ROOT / "figures").as_posix() for p in (ROOT / "figures").rglob("*")
             if p.is_file()]  # fmt: skip
    assert sorted(there) == listed
    scripts = {script.stem for script in (ROOT / "analyses").glob("*.py")}
    assert {name.split("/")[0] for name in listed if "/" in name} == scripts


def test_a_script_is_one_whole_file_and_says_what_it_needs():
    scripts = {path.stem: path.read_text() for path in (ROOT / "analyses").glob("*.py")}
    for name, analysis in load_analyses(ROOT / "analyses").items():
        assert analysis.question, name
        assert set(analysis.needs) <= set(KINDS), name
        assert len(scripts[name].splitlines()) < 400, name
        imported = re.findall(r"^(?:from|import) (\w+)", scripts[name], re.MULTILINE)
        assert not set(imported) & set(scripts), f"{name} needs another script"
        assert not re.search(r"^from geomrl.* import .*\b_\w", scripts[name], re.MULTILINE), name


def test_faults_are_named(tmp_path):
    with pytest.raises(GeomrlError, match="no analyses here; run this in a checkout"):
        load_analyses(tmp_path)
    (tmp_path / "x.py").write_text("ANALYSIS = 3\n")
    with pytest.raises(GeomrlError, match="has no ANALYSIS"):
        load_analyses(tmp_path)
    with pytest.raises(GeomrlError, match=r"0 runs without and 1 with.*pairs of one seed"):
        Arms((), (tmp_path,))
    with pytest.raises(GeomrlError, match="no training run"):
        Arms((tmp_path,), (tmp_path,))
    with pytest.raises(GeomrlError, match="no seed of the arms"):
        Arms.of_ablation(tmp_path)


def test_a_run_that_does_not_exist_is_named(tmp_path, capsys):
    analysis = Analysis("What?", ("probed",), lambda probed: Finding(["nothing"]))
    with pytest.raises(SystemExit, match="1"):
        analysis.main(str(ROOT / "analyses" / "x.py"), ["--probed", str(tmp_path / "no")])
    assert "no such folder; name a run of `geomrl probe" in capsys.readouterr().err


def test_tables_have_six_digits_and_no_dates(tmp_path):
    table = pd.DataFrame({"value": [1 / 3, float("nan")], "n": [5, 6], "words": ["a|b", None]})
    finding = Finding(["A third."], tables={"t": table})
    write_finding(finding, tmp_path, title="Q", inputs=["x"], command="c")
    assert (tmp_path / "t.csv").read_text() == "value,n,words\n0.333333,5,a|b\n,6,\n"
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("# Q\n\nA third.\n\n")
    assert "| .333 | 5 | a\\|b |" in page
    assert markdown_table(table).count("\n") == 3
