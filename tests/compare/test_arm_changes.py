"""A comparison's checkpoints by arm: means over seeds, paired differences, counts of verdicts."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from geomrl.compare.arm_changes import arm_changes, cells_by_layer, changes, verdicts_by_arm

COLUMNS = {"layer": "final", "anchor": "before_marker", "cell": "", "space": "", "low": 0.0,
           "high": 1.0, "p": np.nan, "n_problems": 30, "seed": 0}  # fmt: skip


def table(values):
    """`values`: (measure, policy, encoder, cell, space) -> {checkpoint: value}."""
    rows = [
        {**COLUMNS, "measure": m, "policy": p, "encoder": e, "cell": c, "space": s,
         "checkpoint": name, "value": v}
        for (m, p, e, c, s), of in values.items()
        for name, v in of.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def seeds(arm, values):
    return {f"{arm}-{seed}": value for seed, value in enumerate(values)}


def test_arms_are_means_over_seeds_and_differences_are_paired():
    rng = np.random.default_rng(0)
    of_seed = rng.normal(0, 0.1, 5)
    dapo, aligned = of_seed + rng.normal(0, 0.01, 5), of_seed + 0.05 + rng.normal(0, 0.01, 5)
    other = rng.normal(0, 0.1, (2, 5))
    found = table(
        {
            ("cosine", "both", "rl-base", "CC", "raw"): seeds("dapo", dapo)
            | seeds("aligned", aligned),
            ("cka", "both", "rl-base", "", ""): seeds("dapo", 1 + other[0])
            | seeds("aligned", 1 + other[1]),
            ("cosine", "base", "rl", "CC", "raw"): seeds("dapo", dapo),  # no change: left out
        }
    )
    rows = arm_changes(changes(found), ["dapo", "aligned"]).set_index(["measure", "arm"])
    reference = scipy.stats.ttest_rel(aligned, dapo)
    between = rows.loc[("CC, raw", "aligned - dapo")]
    assert between["value"] == pytest.approx((aligned - dapo).mean())
    assert between["p"] == pytest.approx(reference.pvalue)
    assert between["p_holm"] == pytest.approx(2 * reference.pvalue)  # the smaller of two
    assert rows.loc[("CC, raw", "dapo"), "value"] == pytest.approx(dapo.mean())
    assert np.isnan(rows.loc[("CKA with the base encoder", "dapo"), "p"])  # its null is 1, not 0
    assert len(rows) == 6


def test_cells_by_layer_take_each_model_on_its_own_rollouts():
    cosine = {
        ("cosine", "base", "base", "CC", "raw"): seeds("dapo", [0.6, 0.6]),
        ("cosine", "rl", "rl", "CC", "raw"): seeds("dapo", [0.7, 0.8]),
        ("cosine", "rl", "base", "CC", "raw"): seeds("dapo", [0.1, 0.1]),
    }
    found = cells_by_layer(table(cosine), "before_marker").set_index("series")
    assert found.loc["base", "value"] == 0.6
    assert found.loc["dapo", "value"] == pytest.approx(0.75)
    assert len(found) == 2
    assert cells_by_layer(table(cosine), "marker_end").empty


def test_verdicts_are_counted_by_arm():
    entries = [
        {"checkpoint": name, "verdict": verdict, "components": parts}
        for name, verdict, parts in (
            ("dapo-0", "policy", ["policy"]), ("dapo-1", "policy", ["policy"]),
            ("aligned-0", "mixed", ["policy", "other"]),
        )
    ]  # fmt: skip
    rows = verdicts_by_arm(entries).to_dict("records")
    assert rows == [
        {"arm": "aligned", "verdict": "mixed", "components": "policy + other", "checkpoints": 1},
        {"arm": "dapo", "verdict": "policy", "components": "policy", "checkpoints": 2},
    ]
