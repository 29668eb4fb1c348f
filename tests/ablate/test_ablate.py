"""Ablations: the arms of a grid, their comparison, and real runs that fail, stop and resume."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import scipy.stats
from ablations import CONTROLS, make_ablation, make_config, make_plan, make_results
from processes import gone, wait_until
from rich.console import Console

from geomrl.ablate.ablation import read_ablation, write_ablation
from geomrl.ablate.grid import Grid, load_grid, plan_arms
from geomrl.ablate.readings import honest_words, markdown, readings
from geomrl.ablate.run import ablate
from geomrl.ablate.table import compare, final_metrics, path_diversity
from geomrl.cli.ablation_tables import print_ablation
from geomrl.errors import GeomrlError
from geomrl.files import write_parquet
from geomrl.stats.paired import detectable_difference, paired_difference
from geomrl.train.config import load_config
from geomrl.viz.ablation import draw_ablation

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "configs" / "smoke.yaml"


# The grid and its arms


def test_one_factor_at_a_time_and_none_twice():
    plan = make_plan()
    names = [arm.name for arm in plan.arms]
    assert names == [
        "baseline", "default", "loss=mse", "loss=centred", "anchor=marker_end", "layer=1",
        "layer=1+final", "weight=1", "control=wrong", "control=shuffled_correct",
        "control=shuffled_groups", "control=random_position",
    ]  # fmt: skip
    shared = {(x.factor, x.level): x.arm for x in plan.levels}
    assert shared["loss", "cosine"] == shared["weight", "0.1"] == shared["layer", "final"]
    assert shared["weight", "0"] == "baseline"
    assert [arm.name for arm in plan.arms if arm.negative_control] == [
        f"control={name}" for name in CONTROLS
    ]


def test_each_arm_differs_from_the_default_in_one_setting():
    plan = make_plan()
    default = plan.arm("default").config.model_dump()["alignment"]
    changed = {}
    for arm in plan.arms:
        settings = arm.config.model_dump()["alignment"]
        changed[arm.name] = {k: v for k, v in settings.items() if v != default[k]}
    assert changed["baseline"] == {"weight": 0.0}
    assert changed["loss=mse"] == {"kind": "mse"}
    assert changed["layer=1+final"] == {"layers": ["1", "final"]}
    assert changed["control=wrong"] == {"rollouts": "wrong"}
    assert changed["control=random_position"] == {"anchor": "random"}
    assert all(len(found) == 1 for name, found in changed.items() if name != "default")


def test_a_weight_below_zero_pushes_apart_as_strongly():
    plan = make_plan({"weight": [-0.1, 0, 0.1, 1], "control": CONTROLS})
    levels = {x.level: x.arm for x in plan.levels if x.factor == "weight"}
    assert levels == {"-0.1": "weight=-0.1", "0": "baseline", "0.1": "default", "1": "weight=1"}
    away, here = (plan.arm(name).config.alignment for name in ("weight=-0.1", "default"))
    assert (away.kind, away.weight, here.kind, here.weight) == ("repel", 0.1, "cosine", 0.1)
    assert plan.arm("weight=-0.1").folder == "weight=-0.1"


@pytest.mark.parametrize("kind", ["repel", "l1_detached", "supcon", "soft_nn"])
def test_each_kind_may_be_the_default_under_all_four_controls(kind):
    plan = make_plan({"control": CONTROLS}, default={"alignment.kind": kind})
    controls = [arm for arm in plan.arms if arm.negative_control]
    assert [arm.kind for arm in controls] == [kind] * 4


def test_the_default_level_is_added_where_the_grid_leaves_it_out():
    plan = make_plan({"weight": [1.0, 0.01], "loss": ["mse"]})
    levels = [(x.factor, x.level) for x in plan.levels]
    assert levels == [
        ("loss", "cosine"), ("loss", "mse"),
        ("weight", "0.01"), ("weight", "0.1"), ("weight", "1"),
    ]  # fmt: skip


def test_a_full_grid_crosses_the_factors_and_leaves_controls_single():
    plan = make_plan(
        {"loss": ["cosine", "mse"], "weight": [0.1, 1.0], "control": ["wrong"]}, full=True
    )
    names = [arm.name for arm in plan.arms]
    assert names == ["baseline", "default", "loss=mse", "weight=1", "grid=mse,1", "control=wrong"]
    both = plan.arm("grid=mse,1").config.alignment
    assert (both.kind, both.weight) == ("mse", 1.0)


def test_changes_to_the_default_reach_every_arm():
    plan = make_plan(default={"alignment.anchor": "marker_end", "steps": 7})
    assert {arm.config.steps for arm in plan.arms} == {7}
    assert plan.arm("baseline").config.alignment.anchor == "marker_end"
    assert "anchor=before_marker" in [arm.name for arm in plan.arms]


def test_weight_and_seed_of_a_run():
    plan = make_plan()
    run = plan.arm("loss=mse").trained_with(3, 0.25)
    assert (run.seed, run.alignment.weight, run.alignment.kind) == (3, 0.025, "mse")


def test_a_baseline_without_the_section_works():
    plan = make_plan(baseline={"alignment": None})
    assert plan.arm("baseline").trained_with(1, 1.0).alignment is None
    assert plan.kinds == ("cosine", "mse", "centred")


def test_folders_are_distinct_and_plain():
    plan = make_plan({"anchor": ["fraction:0.5", "before_marker-1", "marker_end"]})
    folders = [arm.folder for arm in plan.arms]
    assert len(set(folders)) == len(folders)
    assert "anchor=fraction-0.5" in folders
    assert not any(c in folder for folder in folders for c in ':/\\ "')


def test_the_bundled_grid_has_about_twenty_arms_with_the_four_controls():
    grid = load_grid(ROOT / "configs" / "ablation.yaml")
    plan = plan_arms(load_config(ROOT / "configs" / "quickstart.yaml"), grid)
    assert 19 <= len(plan.arms) <= 23
    assert sum(arm.negative_control for arm in plan.arms) == 4
    assert len(grid.seeds) >= 5
    assert len(plan.kinds) == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: [0]\nfactors: {los: [mse]}", "factors.los: extra .*there is loss, anchor"),
        ("seeds: [0]\nfactors: {loss: [cosin]}", "factors.loss.0: input should be 'cosine'"),
        ("seeds: []\nfactors: {}", "seeds: list should have at least 1"),
        ("seeds: [1, 1]\nfactors: {}", "seeds: .*twice"),
        ("factors: {}", "seeds: field required"),
        ("seeds: [0]\nfactors: {anchor: [befor]}", "befor"),
        ("- 1", "holds no settings by name"),
    ],
)
def test_a_bad_grid_is_told(tmp_path, text, message):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(GeomrlError, match=message):
        load_grid(path)


@pytest.mark.parametrize(
    ("config", "grid", "message"),
    [
        ({"evaluation": None}, {}, "no section evaluation"),
        ({"alignment": None}, {}, "no section alignment"),
        ({"alignment": {"weight": 0.0}}, {}, "weight is 0 in the default"),
        ({}, {"baseline": {"alignment.weight": 0.1}}, "baseline equals the default"),
        ({}, {"default": {"alignment.wieght": 1}}, "grid, default: unknown key 'alignment.wieght'"),
        (
            {"alignment": {"rollouts": "wrong"}},
            {"factors": {"control": ["wrong"]}},
            "control=wrong is the arm 'default' itself",
        ),
        (
            {"alignment": {"table": "groups"}},
            {"factors": {"loss": ["centred"]}},
            "loss=centred: alignment: table 'groups'",
        ),
        (
            {"alignment": {"kind": "mse"}},
            {"factors": {"weight": [-1.0]}},
            "weight -1 stands for kind repel, which turns cosine round, but the default's kind is mse",
        ),
        ({}, {"full": True, "factors": {"weight": [-1.0]}}, "cannot be crossed with others"),
    ],
)
def test_what_does_not_fit_the_configuration_is_told(config, grid, message):
    with pytest.raises(GeomrlError, match=message):
        plan_arms(make_config(**config), Grid(**{"seeds": [0], "factors": {}, **grid}), "grid")


# Statistics


def test_the_interval_and_the_p_are_those_of_the_paired_t_test():
    rng = np.random.default_rng(1)
    for n in (2, 5, 9):
        one, two = rng.normal(0.1, 1, n), rng.normal(0, 1, n)
        found = paired_difference(one - two)
        known = scipy.stats.ttest_rel(one, two)
        interval = known.confidence_interval(0.95)
        assert (found.p, found.low, found.high) == pytest.approx(
            (known.pvalue, interval.low, interval.high)
        )
        assert found.n == n


def test_differences_that_allow_no_interval():
    one = paired_difference(np.array([0.2, np.nan]))
    assert (one.value, one.n) == (0.2, 1)
    assert np.isnan([one.low, one.high, one.p, one.sd]).all()
    equal = paired_difference(np.array([0.2, 0.2, 0.2]))
    assert np.isnan([equal.low, equal.high, equal.p]).all()
    assert np.isnan(paired_difference(np.array([])).value)


@pytest.mark.parametrize(("n", "level"), [(3, 0.05), (5, 0.05), (5, 0.0025), (40, 0.05)])
def test_the_detectable_difference_is_found_four_times_in_five(n, level):
    size = detectable_difference(2.0, n, level=level)
    rng = np.random.default_rng(0)
    draws = rng.normal(size, 2.0, (40_000, n))
    p = scipy.stats.ttest_1samp(draws, 0, axis=1).pvalue
    assert (p < level).mean() == pytest.approx(0.8, abs=0.01)


def test_no_detectable_difference_from_one_seed():
    assert np.isnan(detectable_difference(1.0, 1))
    assert np.isnan(detectable_difference(float("nan"), 5))


# The table


def test_planted_effects_are_found_and_the_others_are_not():
    plan = make_plan()
    effects = {("loss=mse", "pass@1"): 0.2, ("weight=1", "pass@1"): -0.2}
    table = compare(make_results(plan, effects), plan)
    rows = table[(table["metric"] == "eval/pass@1") & (table["reference"] == "baseline")]
    assert rows["n_comparisons"].unique().tolist() == [11]
    assert rows["n_seeds"].unique().tolist() == [5]
    sure = rows[rows["p_holm"] < 0.05].set_index("arm")["difference"]
    assert set(sure.index) == {"loss=mse", "weight=1"}
    assert sure["loss=mse"] == pytest.approx(0.2, abs=0.03)
    assert (rows["p_holm"] >= rows["p"]).all()
    assert (rows["detectable_corrected"] > rows["detectable"]).all()
    # Seeds differ by ten times the noise: only pairing by seed can see these.
    assert (rows["high"] - rows["low"]).max() < 0.1
    assert set(rows.loc[rows["negative_control"], "arm"]) == {f"control={c}" for c in CONTROLS}


def test_the_default_is_compared_with_each_control():
    plan = make_plan()
    table = compare(make_results(plan, {("default", "pass@1"): 0.2}), plan)
    rows = table[(table["metric"] == "eval/pass@1") & (table["reference"] != "baseline")]
    assert rows["reference"].tolist() == [f"control={c}" for c in CONTROLS]
    assert set(rows["arm"]) == {"default"}
    assert rows["n_comparisons"].unique().tolist() == [4]
    assert (rows["p_holm"] < 0.05).all()


def test_a_seed_that_failed_is_left_out_of_its_pairs_only():
    plan = make_plan()
    results = make_results(plan)
    lost = (results["arm"] == "loss=mse") & (results["seed"] == 3)
    lost |= results["arm"] == "weight=1"  # all its runs failed
    table = compare(results[~lost], plan)
    rows = table[table["metric"] == "eval/pass@1"].set_index("arm")
    assert rows.loc["loss=mse", "n_seeds"] == 4
    assert "weight=1" not in rows.index
    kept = results[(results["metric"] == "eval/pass@1") & (results["seed"] != 3)]
    wide = kept.pivot(index="seed", columns="arm", values="value")
    expected = (wide["loss=mse"] - wide["baseline"]).mean()
    assert rows.loc["loss=mse", "difference"] == pytest.approx(expected)


def test_arms_that_differ_in_nothing_claim_nothing(tmp_path):
    plan = make_plan({"weight": [1.0]})
    results = make_results(plan, spread=0.0)
    table = compare(results, plan)
    assert table["difference"].abs().max() < 1e-12
    assert table[["p", "p_holm", "detectable"]].isna().all(axis=None)
    assert (table["n_comparisons"] == 0).all()


def test_the_last_evaluation_counts(tmp_path):
    lines = [
        {"step": 1, "eval/pass@1": 0.1, "eval/a/final/CC": 0.1},
        {
            "step": 2, "reward/mean": 1.0, "eval/pass@1": 0.5, "eval/pass@1_low": 0.4,
            "eval/n_problems": 9, "eval/length": 60, "eval/a/final/CC": 0.9,
            "eval/a/final/CC_low": 0.8, "eval/a/final/CI": 0.8, "eval/a/final/effective_rank": None,
            "eval/sums/pass@1": 0.4,
        },
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert final_metrics(tmp_path, 2) == {
        "eval/pass@1": 0.5, "eval/length": 60.0, "eval/a/final/CC": 0.9, "eval/sums/pass@1": 0.4,
    }  # fmt: skip
    assert final_metrics(tmp_path, 3) == {}


def test_path_diversity_counts_pairs_of_different_paths(tmp_path):
    paths = ["1+2=3, then 3+4=7", "1+2=3. then 3+4=7", "2+4=6, then 6+1=7"]
    rows = [
        {"benchmark": "arithmetic", "problem_id": "a", "verdict": "correct", "response": p}
        for p in paths
    ]
    rows += [{**rows[0], "problem_id": "b"}, {**rows[2], "verdict": "wrong"}]
    write_parquet(tmp_path / "rollouts.parquet", pd.DataFrame(rows))
    assert path_diversity(tmp_path / "rollouts.parquet") == pytest.approx(2 / 3)
    assert path_diversity(tmp_path / "none.parquet") is None
    other = pd.DataFrame(rows).assign(benchmark="math500")
    write_parquet(tmp_path / "other.parquet", other)
    assert path_diversity(tmp_path / "other.parquet") is None


def test_what_is_written_reads_back(tmp_path):
    ablation = make_ablation(tmp_path)
    write_ablation(ablation)
    again = read_ablation(tmp_path)
    pd.testing.assert_frame_equal(again.table, ablation.table)
    pd.testing.assert_frame_equal(again.results, ablation.results)
    pd.testing.assert_frame_equal(again.levels, ablation.levels)
    assert (again.scales, again.place) == (ablation.scales, ablation.place)
    assert len(pd.read_csv(tmp_path / "ablation.csv")) == len(ablation.table)
    with pytest.raises(GeomrlError, match="no ablation"):
        read_ablation(tmp_path / "elsewhere")


def test_what_is_printed_is_honest(tmp_path):
    effects = {
        ("loss=mse", "pass@1"): 0.2, ("loss=mse", "CC_centred"): 0.3,
        ("weight=1", "pass@1"): -0.2, ("weight=1", "floor"): 0.1,
    }  # fmt: skip
    ablation = make_ablation(tmp_path, effects=effects)
    said = readings(ablation).set_index("arm")
    assert said.loc["loss=mse"].tolist() == ["higher", "correct move together"]
    assert said.loc["weight=1"].tolist() == ["lower", "all states move together"]
    assert (said.drop(["loss=mse", "weight=1"])["accuracy"] == "not told apart").all()
    words = " ".join(honest_words(ablation))
    assert "5 seeds" in words
    assert "11 comparisons" in words
    rows = ablation.table[ablation.table["metric"] == "eval/pass@1"]
    rows = rows[rows["reference"] == "baseline"]
    assert f"{rows['detectable_corrected'].median():.3f} among 11" in words
    assert "mse x0.25" in words
    written = io.StringIO()
    print_ablation(ablation, Console(file=written, width=200))
    assert written.getvalue().count("control=") == 8  # a row each, and one against the default each
    lines = markdown(ablation).splitlines()
    rows = {cells[1].strip(): cells for line in lines if len(cells := line.split("|")) > 4}
    assert len({len(cells) for cells in rows.values()}) == 1
    assert rows["loss=mse"][-3].strip() == "higher"
    assert set(said.index) < set(rows)


# Real runs


GRID = """
seeds: [0]
default: {evaluation.at_start: false, steps: 1}
factors: {loss: [cosine, mse], layer: [final, "9"], control: [wrong]}
"""


def metrics_times(out):
    return {path: path.stat().st_mtime_ns for path in sorted(out.glob("arms/*/*/metrics.jsonl"))}


@pytest.mark.slow
def test_an_arm_that_fails_does_not_stop_the_others(tmp_path):
    grid, out = tmp_path / "grid.yaml", tmp_path / "out"
    grid.write_text(GRID)
    config = load_config(SMOKE)
    with pytest.raises(GeomrlError, match=r"1 of 5 runs failed: layer=9, seed 0: .*layer '?9"):
        ablate(config, grid, out, show=False, finished=partial(draw_ablation, formats=("png",)))
    done = metrics_times(out)
    assert len(done) == 4
    assert not list(out.glob("arms/*/*/checkpoints"))  # not kept unless asked for
    ablation = read_ablation(out)
    assert set(ablation.results["arm"]) == {"baseline", "default", "loss=mse", "control=wrong"}
    norms = json.loads((out / "scales.json").read_text())["gradient_norms"]
    assert ablation.scales == {"cosine": 1.0, "mse": pytest.approx(norms["cosine"] / norms["mse"])}
    trained = ablation.results.groupby("arm")["weight"].first()
    assert trained["loss=mse"] == pytest.approx(0.1 * ablation.scales["mse"])
    assert trained["baseline"] == 0
    # Arms are paired: one seed's arms begin with the same rollouts, and so at the same reward.
    first = [json.loads(path.read_text().splitlines()[0]) for path in done]
    assert len({row["reward/mean"] for row in first}) == 1
    assert (out / "figures" / "ablation_loss.png").exists()
    # Again, without the arm that failed: nothing is trained anew, and a new seed is added. It needs
    # less memory, so that an ablation that ran out of it can resume.
    grid.write_text(GRID.replace(', "9"', "").replace("[0]", "[0, 1]"))
    smaller = load_config(SMOKE, ["micro_batch.tokens=1024", "rollout.chunk=16"])
    again = ablate(smaller, grid, out, jobs=2, show=False)
    assert metrics_times(out).items() >= done.items()
    assert sorted(again.results["seed"].unique()) == [0, 1]
    grid.write_text(GRID.replace("steps: 1", "steps: 2"))
    with pytest.raises(GeomrlError, match="made with other settings"):
        ablate(config, grid, out, show=False)


@pytest.mark.slow
def test_a_killed_ablation_leaves_no_process_and_goes_on(tmp_path):
    grid, out = tmp_path / "grid.yaml", tmp_path / "out"
    grid.write_text("seeds: [0]\nmatch_gradient_norm: false\ndefault: {steps: 2}\nfactors: {}\n")
    command = [
        sys.executable,
        "-m",
        "geomrl.cli",
        "ablate",
        str(SMOKE),
        "--grid",
        str(grid),
        "--out",
        str(out),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # In the midst of the first run.
    assert wait_until(lambda: metrics_times(out), process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert gone(children)
    ablation = ablate(load_config(SMOKE), grid, out, show=False)
    fresh = ablate(load_config(SMOKE), grid, tmp_path / "fresh", show=False)
    pd.testing.assert_frame_equal(ablation.results, fresh.results, check_exact=True)
