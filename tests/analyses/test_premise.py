"""The analysis of the premise, on a small bundled run and on planted shares and accuracies."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from premise_residual_variance import ANALYSIS, removal_table, residual_noise

from geomrl import open_run
from geomrl.errors import GeomrlError
from geomrl.evaluate.residual_shares import share_correlations
from geomrl.evaluate.variants import ALL_KINDS
from geomrl.files import read_parquet
from geomrl.probe.intervention import arm_contrast
from geomrl.probe.steps import replace_anchor
from geomrl.problems.load import load_variants
from geomrl.problems.problem import Problem
from geomrl.report.collect import collect
from geomrl.report.probed import probed_view
from geomrl.reproduce.runs import ANCHORS, BundledRuns, Scale
from geomrl.runs.replacement import replaced_anchors

REPOSITORY = Path(__file__).parents[2]
SCALE = Scale(problems=24, samples=6, n_boot=50, n_perm=20)


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    runs = BundledRuns(
        tmp_path_factory.mktemp("bundled"), REPOSITORY / "configs", scale=SCALE, show=False
    )
    return runs, runs.make("probed"), runs.make("variants")


@pytest.fixture
def copy(bundled, tmp_path):
    """The runs again, to be spoilt."""
    shutil.copytree(bundled[0].root, tmp_path / "copy")
    return tmp_path / "copy/probed", tmp_path / "copy/variants"


def test_the_script_answers_on_a_small_run_and_twice_alike(bundled, tmp_path):
    _, probed, variants = bundled
    for name in ("one", "two"):
        written = ANALYSIS.write(
            "premise", tmp_path / name, {"probed": probed, "variants": variants}
        )
    names = sorted(path.name for path in written)
    assert {"correlations.csv", "reliability.csv", "removal.csv", "shares.csv", "README.md"} <= set(
        names
    )
    for name in names:
        one, two = (tmp_path / each / "premise" / name for each in ("one", "two"))
        assert one.read_bytes() == two.read_bytes(), name
    table = pd.read_csv(written[0].parent / "correlations.csv")
    assert set(table["anchor"]) == set(ANCHORS)
    assert set(table["kind"]) == {ALL_KINDS, "reworded", "reordered", "renumbered"}
    assert table["value"].between(-1, 1).all()
    assert (table["p_holm"] >= table["p"]).all()
    assert table["n_problems"].nunique() == 1
    text = (written[0].parent / "README.md").read_text()
    # No problem of six samples has eight correct ones, and the page says so.
    assert "unknown (too few problems have 8 correct rollouts)" in text
    assert "sign" in text


def test_the_picture_shows_what_the_rollouts_say(bundled):
    _, probed, variants = bundled
    run = open_run(probed)
    found = residual_noise(probed, variants)
    data = found.pictures[0].data
    row = data.iloc[0]
    again = open_run(variants / "again").rollouts
    own = again[again["problem_id"] == row["problem"].split("/")[1]]
    assert row["accuracy"] == pytest.approx((own["verdict"] == "correct").mean())
    varied = open_run(variants / "variants").rollouts
    theirs = varied[varied["problem_id"].str.startswith(row["problem"].split("/")[1])]
    assert len(theirs) == 18
    assert row["variant_accuracy"] == pytest.approx((theirs["verdict"] == "correct").mean())
    counts = (run.rollouts["verdict"] == "correct").groupby(run.rollouts["problem_id"]).sum()
    assert len(data[data["anchor"] == "before_marker"]) == (counts >= 4).sum()


def test_both_anchors_are_replaced_once_and_their_rows_kept(bundled, copy):
    runs, probed, _ = bundled
    run = open_run(probed)
    assert set(run.replacement["anchor"]) == set(ANCHORS)
    before = (probed / "replacement.parquet").stat().st_mtime_ns
    assert runs.make("probed") == probed
    assert (probed / "replacement.parquet").stat().st_mtime_ns == before

    run = open_run(copy[0])
    encoder = run.store().path.name
    replace_anchor("reasoner", copy[0], anchor="marker_end", layers=["1"], n_boot=50, show=False)
    for name in ("replacement", "replacement_rollouts"):
        old, new = (read_parquet(folder / f"{name}.parquet") for folder in (probed, copy[0]))
        kept = [t[t["anchor"] == "before_marker"].reset_index(drop=True) for t in (old, new)]
        pd.testing.assert_frame_equal(*kept)
        again = new[new["anchor"] == "marker_end"]
        assert set(again["layer"]) == {"1"}
        assert not again.duplicated(
            ["layer", "arm", "rollout_id" if "rollout_id" in again else "verdict"]
        ).any()
    assert replaced_anchors(copy[0], encoder) == set(ANCHORS)
    assert replaced_anchors(copy[0], "another") == set()


def test_a_table_that_does_not_say_whose_states_is_refused(copy):
    path = copy[0] / "replacement_rollouts.parquet"
    read_parquet(path).drop(columns="encoder").to_parquet(path)
    with pytest.raises(GeomrlError, match="delete the replacement files"):
        replace_anchor("reasoner", copy[0], layers=["1"], n_boot=50, show=False)


def test_the_report_has_a_chart_for_each_anchor_and_verdict(bundled):
    view = probed_view(collect(bundled[1]))
    titles = [chart.title for chart in view.charts if "replaced" in chart.title]
    assert len(titles) == len(set(titles)) == 4


def test_the_difference_of_two_arms_is_paired_by_rollout(bundled):
    trials = read_parquet(bundled[1] / "replacement_rollouts.parquet")
    found = arm_contrast(trials, n_boot=50).set_index(["anchor", "layer"])
    chosen = trials[
        trials["correct"] & (trials["anchor"] == "marker_end") & (trials["layer"] == "2")
    ]
    means = []
    for _, group in chosen.groupby("problem"):
        arms = {arm: rows.set_index("rollout_id")["change"] for arm, rows in group.groupby("arm")}
        means.append((arms["correct_mean"] - arms["random_residual"]).mean())
    row = found.loc[("marker_end", "2")]
    assert row["value"] == pytest.approx(np.mean(means), abs=1e-9)
    assert row["n_problems"] == len(means)
    table = removal_table(open_run(bundled[1]))
    assert (table["untouched"] < 0).all()
    most = table.loc[table["arm"] == "correct_mean", "value"].max()
    assert most <= -table["untouched"].min()


def test_too_few_problems_are_refused_with_the_cure(bundled):
    _, probed, variants = bundled
    run, again = open_run(probed), open_run(variants / "again").rollouts
    originals = [
        Problem(row["problem_id"], row["benchmark"], "", "")
        for row in run.rollouts.drop_duplicates("problem_id").to_dict("records")
    ]
    listed = load_variants(str(variants / "variants.jsonl"), originals)
    varied = open_run(variants / "variants").rollouts.assign(benchmark="variants")
    with pytest.raises(GeomrlError, match=r"problems have 7 correct rollouts.*sample more"):
        share_correlations(run, again, varied, listed, anchors=("before_marker",), k=7)
    few = again[again["problem_id"].isin(sorted(set(again["problem_id"]))[:4])]
    with pytest.raises(GeomrlError, match="at least 5 are needed"):
        share_correlations(run, few, varied, listed, anchors=("before_marker",))
    with pytest.raises(GeomrlError, match="are the probed ones"):
        share_correlations(run, run.rollouts, varied, listed, anchors=("before_marker",))
    with pytest.raises(GeomrlError, match="another policy"):
        share_correlations(
            run, again.assign(policy_hash="x"), varied, listed, anchors=("before_marker",)
        )
    with pytest.raises(GeomrlError, match="single rollout"):
        share_correlations(
            run, again[again["sample"] == 0], varied, listed, anchors=("before_marker",)
        )


def test_a_folder_without_its_list_or_replacement_is_refused(copy):
    probed, variants = copy
    (probed / "replacement_rollouts.parquet").unlink()
    with pytest.raises(GeomrlError, match="--replace"):
        residual_noise(probed, variants)
    (variants / "variants.jsonl").unlink()
    with pytest.raises(GeomrlError, match=r"no variants\.jsonl"):
        residual_noise(probed, variants)
