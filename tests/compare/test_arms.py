"""Two arms over seeds and problems: pairing, both intervals, averages, coverage."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from geomrl.compare.arms import (
    arm_differences,
    arm_values,
    need_arms,
    split_arm,
    with_arms,
)
from geomrl.errors import GeomrlError
from geomrl.evaluate.accuracy import AVERAGE


def scores(values, arm, benchmark="b"):
    """`values` is problems x seeds."""
    values = np.asarray(values, float)
    return pd.DataFrame(
        [
            {"arm": arm, "seed": s, "benchmark": benchmark, "problem_id": f"p{p}", "m": v}
            for p, row in enumerate(values)
            for s, v in enumerate(row)
        ]
    )


def drawn(rng, problems=20, seeds=5, effect=0.0, seed_spread=0.02, noise=0.05):
    of_problem = np.linspace(0.3, 0.6, problems)[:, None]  # the same problems for every arm
    of_seed = rng.normal(0, seed_spread, (1, seeds))
    return np.clip(of_problem + of_seed + effect + rng.normal(0, noise, (problems, seeds)), 0, 1)


def test_a_difference_is_paired_by_problem_and_by_seed():
    rng = np.random.default_rng(0)
    one, two = drawn(rng, effect=0.1), drawn(rng)
    both = pd.concat([scores(one, "x"), scores(two, "y")])
    found = arm_differences(both.sample(frac=1, random_state=1), ["m"], "x", "y").iloc[0]
    change = one - two
    reference = scipy.stats.ttest_1samp(change.mean(axis=0), 0)
    assert found["value"] == pytest.approx(change.mean())
    assert found["p"] == pytest.approx(reference.pvalue)
    interval = reference.confidence_interval(0.95)
    assert (found["seeds_low"], found["seeds_high"]) == pytest.approx((interval.low, interval.high))
    assert (found["n_problems"], found["n_seeds"]) == (20, 5)
    assert found["low"] < found["value"] < found["high"]


def test_a_model_without_seeds_stands_for_each_of_them():
    rng = np.random.default_rng(1)
    trained, base = drawn(rng, effect=0.1), drawn(rng, seeds=1)
    both = pd.concat([scores(trained, "x"), scores(base, "base")])
    found = arm_differences(both, ["m"], "x", "base").iloc[0]
    assert found["n_seeds"] == 5
    assert found["value"] == pytest.approx((trained - base).mean())


def test_a_pair_that_is_not_whole_is_left_out():
    rng = np.random.default_rng(2)
    one, two = drawn(rng), drawn(rng)
    one[3, :] = np.nan  # a problem that one arm lacks
    two[4, 2] = np.nan  # and one that lacks a seed
    both = pd.concat([scores(one, "x"), scores(two, "y")])
    found = arm_differences(both, ["m"], "x", "y").iloc[0]
    change = one - two
    assert found["n_problems"] == 19
    assert found["value"] == pytest.approx(np.nanmean(np.nanmean(np.delete(change, 3, 0), axis=1)))


def test_the_average_weighs_benchmarks_equally_and_is_not_corrected():
    rng = np.random.default_rng(3)
    sizes = {"small": 10, "large": 90}
    tables = {(a, b): drawn(rng, n) for b, n in sizes.items() for a in ("x", "y")}
    both = pd.concat([scores(table, a, b) for (a, b), table in tables.items()])
    found = arm_differences(both, ["m"], "x", "y", average=True).set_index("benchmark")
    parts = [(tables["x", b] - tables["y", b]).mean() for b in sizes]
    assert found.loc[AVERAGE, "value"] == pytest.approx(np.mean(parts))
    assert np.isnan(found.loc[AVERAGE, "p_holm"])
    assert (found["p_holm"].drop(AVERAGE) >= found["p"].drop(AVERAGE)).all()
    values = arm_values(both, ["m"], average=True)
    whole = values[(values["arm"] == "x") & (values["benchmark"] == AVERAGE)].iloc[0]
    assert whole["value"] == pytest.approx(np.mean([tables["x", b].mean() for b in sizes]))
    assert whole["n_problems"] == 100


def test_the_interval_over_seeds_covers_and_the_one_over_problems_does_not():
    """With spread between seeds, problems alone say nothing of other trainings."""
    rng = np.random.default_rng(4)
    hits = {"seeds": 0, "problems": 0}
    draws = 200
    for _ in range(draws):
        pair = [scores(drawn(rng, seed_spread=0.05, noise=0.02), arm) for arm in ("x", "y")]
        found = arm_differences(pd.concat(pair), ["m"], "x", "y", n_boot=200).iloc[0]
        hits["seeds"] += found["seeds_low"] <= 0 <= found["seeds_high"]
        hits["problems"] += found["low"] <= 0 <= found["high"]
    assert hits["seeds"] / draws > 0.91
    assert hits["problems"] / draws < 0.7


def test_names():
    assert split_arm("dapo-12") == ("dapo", 12)
    assert split_arm("Qwen3-4B") == ("Qwen3-4B", None)
    table = with_arms(pd.DataFrame({"model": ["dapo-0", "base"]}))
    assert table["arm"].tolist() == ["dapo", "base"]
    with pytest.raises(GeomrlError, match=r"no model of the arm 'aligned'.*ARM-SEED"):
        need_arms(table, ("dapo", "aligned"), "RUN")
