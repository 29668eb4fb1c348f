"""Analyses of tables: the claim on two arms, controls, collapse, agreement on the answer."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from ablations import CONTROLS, FACTORS, make_ablation
from answer_agreement import agreement_of
from collapse import collapse
from controls import controls
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import PlantedRun, assert_legible, make_rollouts
from settle import settle, settle_finding

from geomrl.ablate.ablation import write_ablation
from geomrl.ablate.collapse import BEYOND, judged_movements, movements
from geomrl.ablate.control_tests import control_comparisons, shared_effects
from geomrl.errors import GeomrlError
from geomrl.geometry.agreement import agreement, agreement_at
from geomrl.reproduce import Arms
from geomrl.reproduce.finding import write_finding
from geomrl.reproduce.trainings import read_trainings
from geomrl.stats.ratio import ratio_of_means

PLACE = "eval/before_marker/final"
_START = {
    "eval/pass@1": 0.4, "eval/n_problems": 100, f"{PLACE}/CC-II": 0.02,
    f"{PLACE}/CC-II_low": -0.01, f"{PLACE}/CC-II_high": 0.05,
}  # fmt: skip


# Two arms of trainings


def write_training(folder, seed, last, *, step=90, evaluation=None):
    """A training's folder with an evaluation before it and one at its end."""
    folder.mkdir(parents=True)
    settings = {
        "seed": seed, "model": {"name": "reasoner"},
        "evaluation": {"problems": "arithmetic", "samples": 8, "every": 30, **(evaluation or {})},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps({"train": {"settings": settings}}))
    lines = [{"step": 0, **_START}, {"step": 45, "loss": 1.0}, {"step": step, **last}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_arms(root, *, gain=0.0, convergence=0.0, floor=0.0, centred=0.0, seeds=range(5), **more):
    rng = np.random.default_rng(0)
    arms = ([], [])
    for seed in seeds:
        shared = rng.normal(0, 0.05)  # what a seed is worth, in both arms
        for aligned, runs in enumerate(arms):
            noise = rng.normal(0, 0.004, 6)
            last = {
                "eval/pass@1": 0.6 + shared + aligned * gain + noise[0],
                f"{PLACE}/CC-II": convergence + noise[1],
                f"{PLACE}/CC-II_same_answer": noise[2],
                f"{PLACE}/CC": 0.7 + aligned * floor + noise[3],
                f"{PLACE}/floor": 0.65 + aligned * floor + noise[3],
                f"{PLACE}/CC_centred": 0.1 + aligned * centred + noise[4],
                f"{PLACE}/effective_rank": 20 - 40 * aligned * floor + noise[5],
            }
            runs.append(write_training(root / f"{aligned}-{seed}", seed, last, **more))
    return Arms(*map(tuple, arms))


@pytest.mark.parametrize(
    ("gain", "convergence", "words"),
    [
        (0.06, 0.1, ("supported", "supported", "supported")),
        (0.0, 0.1, ("not supported", "supported", "not supported")),
        (0.06, 0.0, ("supported", "not supported", "not supported")),
    ],
)
def test_the_claim_follows_its_two_criteria(tmp_path, gain, convergence, words):
    found = settle(read_trainings(write_arms(tmp_path, gain=gain, convergence=convergence)))
    assert (found.gain.word, found.convergence.word, found.word) == words
    assert found.criteria["decides"].value_counts()["yes"] == 2


def test_a_small_sure_gain_is_supported_and_its_size_is_said(tmp_path):
    finding = settle_finding(write_arms(tmp_path, gain=0.02, convergence=0.1))
    assert "**The claim is supported here**" in finding.says[0]
    assert "smaller than the smallest effect that matters" in finding.says[2]


def test_two_seeds_are_undecided(tmp_path):
    finding = settle_finding(write_arms(tmp_path, gain=0.2, convergence=0.3, seeds=range(2)))
    assert "**The claim is undecided here**: two arms of 2 seeds" in finding.says[0]
    assert "seeds an arm would have been needed" in finding.says[2]


@pytest.mark.parametrize(
    ("floor", "centred", "words"),
    [
        (0.2, 0.0, "all states move together"),
        (0.0, 0.2, "correct move together"),
        (0.2, 0.2, "correct move together, but the floor rises too"),
        (0.0, 0.0, "neither the floor nor the centred cosine is shown to rise"),
    ],
)
def test_gauges_tell_collapse_from_alignment(tmp_path, floor, centred, words):
    finding = settle_finding(write_arms(tmp_path, floor=floor, centred=centred))
    assert finding.says[-2].endswith(f"By pointwise intervals: {words}.")


def test_the_pages_are_the_same_bytes_twice_and_the_picture_is_legible(tmp_path):
    arms = write_arms(tmp_path / "runs", gain=0.01)
    pages = []
    for name in ("one", "two"):
        finding = settle_finding(arms)
        files = write_finding(finding, tmp_path / name, title="?", inputs=[], command="x")
        pages.append({file.name: file.read_bytes() for file in files})
    assert pages[0] == pages[1]
    assert_legible(finding.pictures[0])


def test_runs_that_were_not_evaluated_alike_are_refused(tmp_path):
    arms = write_arms(tmp_path / "a")
    shorter = write_training(tmp_path / "s", 0, {"eval/pass@1": 0.5, f"{PLACE}/CC-II": 0}, step=60)
    with pytest.raises(GeomrlError, match="last evaluation at step: 60 and 90"):
        read_trainings(replace(arms, without=(shorter, *arms.without[1:])))
    fewer = write_training(tmp_path / "f", 0, {"eval/pass@1": 0.5}, evaluation={"samples": 4})
    with pytest.raises(GeomrlError, match="samples: 4 and 8"):
        read_trainings(replace(arms, without=(fewer, *arms.without[1:])))


def test_runs_without_what_is_judged_are_refused(tmp_path):
    arms = write_arms(tmp_path / "a")
    (arms.aligned[2] / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    with pytest.raises(GeomrlError, match="no evaluation in its metrics"):
        read_trainings(arms)
    other = write_arms(tmp_path / "b")
    with pytest.raises(GeomrlError, match=r"no eval/marker_end/final/CC-II .*before_marker/final"):
        settle_finding(other, "marker_end/final")


# Ablations


def effects(arms, cell, size):
    return {(arm, cell): size for arm in arms}


DEFAULT_AND_CONTROLS = ["default", *(f"control={name}" for name in CONTROLS)]


def test_a_controls_effect_of_the_same_size_is_shared(tmp_path):
    planted = effects(["default", "control=wrong"], "CC", 0.3)
    planted |= effects(["control=shuffled_groups"], "CC", 0.15)
    planted |= effects(["control=random_position"], "CC", -0.3)
    table = control_comparisons(make_ablation(tmp_path, effects=planted))
    found = shared_effects(table).set_index(["measure", "control"])["shared"]
    assert found["CC", "control=wrong"] == "yes"
    assert found["CC", "control=shuffled_groups"] == "in part"
    assert found["CC", "control=shuffled_correct"] == "no"
    assert found["CC", "control=random_position"] == "no"
    assert set(found["pass@1"]) == {"no effect"}


def test_p_is_adjusted_over_the_arms_in_question_alone(tmp_path):
    ablation = make_ablation(tmp_path)
    table = control_comparisons(ablation)
    against = table[table["reference"] == "baseline"]
    assert set(against["arm"]) == set(DEFAULT_AND_CONTROLS)
    for _, rows in against.groupby("measure"):
        assert (rows["n_comparisons"] == 5).all()
        smallest = rows.sort_values("p").iloc[0]
        assert smallest["p_holm"] == pytest.approx(min(5 * smallest["p"], 1))
    rest = table[table["reference"] != "baseline"]
    assert (rest["n_comparisons"] == 4).all()
    assert (table["detectable_corrected"] > table["detectable"]).all()


def test_an_ablation_without_controls_names_the_cure(tmp_path):
    factors = {k: v for k, v in FACTORS.items() if k != "control"}
    with pytest.raises(GeomrlError, match=r"no negative controls; add `control:"):
        control_comparisons(make_ablation(tmp_path, factors))


def test_beyond_the_floor_is_the_difference_of_two_changes(tmp_path):
    planted = effects(["default", "weight=1"], "floor", 0.2) | effects(["default"], "CC", 0.5)
    planted |= effects(["weight=1"], "CC", 0.2) | effects(["default"], "CC_centred", 0.3)
    ablation = make_ablation(tmp_path, effects=planted)
    table = movements(ablation).set_index(["arm", "measure"])
    for arm in ("default", "weight=1", "loss=mse"):
        expected = table.loc[(arm, "CC"), "difference"] - table.loc[(arm, "floor"), "difference"]
        assert table.loc[(arm, BEYOND), "difference"] == pytest.approx(expected)
    words = judged_movements(ablation).set_index("arm")
    assert words.loc["default"].tolist() == ["correct move together", "more than others"]
    assert words.loc["weight=1", "geometry"] == "all states move together"


def test_findings_of_an_ablation(tmp_path):
    moved = [*DEFAULT_AND_CONTROLS, "loss=mse"]
    planted = effects(moved, "CC", 0.3) | effects(moved, "floor", 0.3)
    planted |= effects(["weight=1"], "CC_centred", 0.4) | effects(["weight=1"], "pass@1", -0.3)
    write_ablation(make_ablation(tmp_path, effects=planted))
    shared, moved_together = controls(tmp_path), collapse(tmp_path)
    assert shared.says[0].startswith("**What the default does (CC, floor), these controls do too")
    assert "no effect to share" in shared.says[1]
    first = moved_together.says[0]
    assert "2 move all states together" in first
    assert "1 raises the centred cosine of correct rollouts (weight 1)" in first
    assert "pass@1 -.296" in first
    assert "Null result: in none is CC shown to rise beyond the floor" in first
    for finding in (shared, moved_together):
        assert_legible(finding.pictures[0])


def test_an_ablation_in_which_nothing_happens_says_so(tmp_path):
    write_ablation(make_ablation(tmp_path))
    assert controls(tmp_path).says[0].startswith("**Null result")


def test_an_ablation_without_geometry_or_variants_is_refused(tmp_path):
    with pytest.raises(GeomrlError, match="evaluated no geometry"):
        movements(replace(make_ablation(tmp_path), place=None))
    write_ablation(make_ablation(tmp_path, {"anchor": FACTORS["anchor"]}))
    with pytest.raises(GeomrlError, match="no arm of this ablation varies the loss"):
        collapse(tmp_path)


# Agreement on the answer

values = st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=12)


@settings(deadline=None)
@given(values, st.floats(0.3, 3), st.integers(0, 99))
def test_fiellers_bounds_are_where_students_t_test_just_rejects(a, mean, seed):
    rng = np.random.default_rng(seed)
    a = np.array(a) + rng.normal(0, 0.01, len(a))
    b = mean + rng.normal(0, 0.1, len(a))
    found = ratio_of_means(a, b)
    if np.isnan(found.low):
        assert scipy.stats.ttest_1samp(b, 0).pvalue >= 0.05 - 1e-9
        return
    for bound in (found.low, found.high):
        assert scipy.stats.ttest_1samp(a - bound * b, 0).pvalue == pytest.approx(0.05, abs=1e-6)
    assert found.low <= found.value <= found.high


def test_a_ratio_over_nothing_has_no_interval():
    found = ratio_of_means(np.array([1.0, 2.0, 3.0]), np.array([-1.0, 0.5, 1.0]))
    assert np.isnan(found.low)
    assert "not told apart from 0" in found.warning


def test_fiellers_interval_covers():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        b = rng.exponential(1.0, 60) + 0.5
        found = ratio_of_means(0.3 * b + rng.normal(0, 0.5, 60), b)
        covered += found.low <= 0.3 <= found.high
    assert 930 <= covered <= 970


@given(st.integers(0, 50))
@settings(deadline=None, max_examples=20)
def test_the_gap_is_agreement_plus_what_survives(seed):
    rng = np.random.default_rng(seed)
    cc, ii, same = rng.uniform(-1, 1, (3, 12))
    ii[0], same[3] = np.nan, np.nan
    found = agreement(cc, ii, same, n_boot=50)
    assert found.gap.value == pytest.approx(found.agreement.value + found.surviving.value)
    assert found.gap.n_clusters == found.share.n_clusters == 10
    assert found.share.value == pytest.approx(found.surviving.value / found.gap.value)


def planted_states(rows, *, by):
    """States around one direction a problem and value of `by`."""
    rng = np.random.default_rng(5)
    keys = list(zip(rows["problem_id"], rows[by], strict=True))
    centres = {key: 3 * rng.normal(size=16) for key in dict.fromkeys(keys)}
    return np.stack([centres[key] + rng.normal(size=16) for key in keys])


def test_where_states_tell_the_answer_nothing_survives_agreement():
    rows = make_rollouts(60, 12)
    rows = rows[rows["verdict"] != "no_answer"].reset_index(drop=True)
    answers = agreement_at(rows, planted_states(rows, by="answer_class"), "raw")
    assert answers.gap.low > 0.2
    assert abs(answers.share.value) < 0.05
    assert answers.share.low < 0 < answers.share.high


def test_where_only_correct_rollouts_agree_all_of_the_gap_survives():
    rows = make_rollouts(60, 12)
    rows = rows[rows["verdict"] != "no_answer"].reset_index(drop=True)
    alone = np.arange(len(rows)) + 10  # a wrong rollout has a direction of its own
    key = pd.Series(np.where(rows["verdict"] == "correct", 0, alone))
    found = agreement_at(rows, planted_states(rows.assign(key=key), by="key"), "raw")
    assert found.gap.low > 0.2
    assert found.share.low < 1 < found.share.high


def test_rows_of_two_benchmarks_are_refused():
    rows = make_rollouts(6, 4, benchmarks=("a", "b"))
    with pytest.raises(GeomrlError, match="2 benchmarks"):
        agreement_at(rows, np.zeros((len(rows), 3)), "raw")


def test_the_finding_on_a_run_in_which_states_tell_answers(tmp_path):
    anchors = ("before_marker", "marker_end")
    run = PlantedRun(tmp_path, make_rollouts(30, 12), ("final",), anchors)
    for anchor in anchors:
        rows, _ = run.states("final", anchor)
        told = planted_states(
            rows.assign(answer_class=rows["answer_class"].astype(int)), by="answer_class"
        )
        run.planted["final", anchor] = told.astype(np.float32)
    finding = agreement_of(run)
    assert finding.says[0].startswith("**At `before_marker` correct rollouts are closer")
    assert "nothing of it is shown to survive" in finding.says[0]
    shares = finding.tables["shares"]
    assert set(shares["anchor"]) == set(anchors)
    total = shares["agreement"] + shares["surviving"]
    assert np.allclose(total, shares["CC-II"])
    assert_legible(finding.pictures[0])


def test_the_finding_on_a_run_without_structure_is_a_null_result(tmp_path):
    run = PlantedRun(tmp_path, make_rollouts(30, 12), ("final",), ("before_marker",))
    shape = run.states("final", "before_marker")[1].shape
    noise = np.random.default_rng(0).normal(size=shape)
    run.planted["final", "before_marker"] = noise.astype(np.float32)
    finding = agreement_of(run)
    assert "null result" in finding.says[0]
    assert finding.tables["shares"]["share"].isna().all()


def test_a_run_of_two_benchmarks_is_refused(tmp_path):
    run = PlantedRun(tmp_path, make_rollouts(benchmarks=("a", "b")), ("final",), ("before_marker",))
    with pytest.raises(GeomrlError, match=r"2 benchmarks \(a, b\)"):
        agreement_of(run)
