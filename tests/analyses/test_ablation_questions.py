"""Two questions to an ablation: what negative controls do too, and what moved together."""

from dataclasses import replace

import pytest
from ablations import CONTROLS, FACTORS, make_ablation
from collapse import collapse
from controls import controls
from planted import assert_legible

from geomrl.ablate.ablation import write_ablation
from geomrl.ablate.collapse import BEYOND, judged_movements, movements
from geomrl.ablate.control_tests import control_comparisons, shared_effects
from geomrl.errors import GeomrlError


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
