"""The verdict names what was planted, and says so where it cannot judge."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from planted_states import Design, build_world, draw_rollouts, encode, planted_evidence

from geomrl.compare.encoder_change import geometry_evidence, pair_states
from geomrl.compare.measures.cells import similarity_rows
from geomrl.compare.policy_change import PolicyEvidence
from geomrl.compare.rows import Place
from geomrl.compare.verdict import Evidence, Margins, decide
from geomrl.compare.verdict_file import drawn_together, verdict_entry
from geomrl.errors import GeomrlError
from geomrl.stats.effect import Effect, jackknife_effect, mean_effect, unknown
from geomrl.stats.intervals import Interval

SIZES = Design(problems=40, samples=8)


def effect(value, se=0.005, n=40):
    return Effect(
        value,
        value - 2 * se,
        value + 2 * se,
        p=0.5 if not value else 1e-6,
        se=se,
        df=n - 1,
        n_problems=n,
    )


def evidence(pass_at_1=0.0, **geometry):
    still = {
        name: effect(0.0)
        for name in (
            "cc", "cc_over_ii", "cc_over_ci", "cc_over_floor", "raw_cc", "raw_floor",
            "common_share", "log_rank", "gain",
        )
    }  # fmt: skip
    same = {name: effect(1.0) for name in ("cka", "unrotated", "rotated")}
    from geomrl.compare.encoder_change import GeometryEvidence

    found = GeometryEvidence(**{**still, **same, **geometry}, n_directions=8)
    policy = PolicyEvidence(effect(pass_at_1), effect(0.0), effect(0.0), 8)
    return Evidence(policy, found)


RISE = {name: effect(0.2) for name in ("cc", "cc_over_ii", "cc_over_ci", "cc_over_floor")}


@pytest.mark.parametrize(
    ("given", "components"),
    [
        ({}, ()),
        ({"pass_at_1": 0.1}, ("policy",)),
        ({"gain": effect(0.3)}, ("rotation",)),
        ({"gain": effect(0.03)}, ()),  # surely a rotation, and below the margin
        ({"gain": effect(0.3, se=0.2)}, ()),  # above the margin, and not sure
        ({"common_share": effect(0.2)}, ("collapse",)),
        ({"common_share": effect(-0.2)}, ()),
        ({"log_rank": effect(-0.3)}, ("collapse",)),
        (RISE, ("alignment",)),
        ({**RISE, "log_rank": effect(-0.3)}, ("alignment",)),  # the noise that went had a rank
        ({**RISE, "common_share": effect(0.2)}, ("collapse", "alignment")),
        ({**RISE, "cka": effect(0.7)}, ("alignment",)),
        ({**RISE, "cc_over_ci": effect(0.0)}, ("other",)),  # all rollouts of a problem alike
        ({"cc": effect(-0.2)}, ("other",)),
        ({"cka": effect(0.7)}, ("other",)),
        ({"cka": effect(0.96)}, ()),
        ({"pass_at_1": 0.1, "gain": effect(0.3)}, ("policy", "rotation")),
    ],
)  # fmt: skip
def test_components_follow_their_definitions(given, components):
    verdict = decide(evidence(**given))
    assert verdict.components == components
    single = len(components) == 1 and components != ("other",)
    assert verdict.name == (components[0] if single else "mixed" if components else "none")


def test_margins_are_the_callers():
    weak = evidence(gain=effect(0.03))
    assert decide(weak, Margins(similarity=0.02)).name == "rotation"


def test_a_finding_above_its_detectable_effect_is_found():
    for finding in decide(evidence()).findings:
        assert finding.margin <= finding.detectable < 0.2
    (rotation,) = (f for f in decide(evidence()).findings if f.test == "rotation explains")
    found = decide(evidence(gain=effect(rotation.detectable)))
    assert found.name == "rotation"


def test_what_could_not_be_tested_is_said():
    verdict = decide(evidence(cc_over_ii=unknown()))
    assert verdict.name == "none"
    assert "correct rollouts align" in verdict.remarks[0]
    policy_only = dataclasses.replace(evidence(pass_at_1=0.2), geometry=None)
    assert decide(policy_only).components == ("policy",)
    assert "policy alone" in decide(policy_only).remarks[0]
    entry = verdict_entry(verdict)
    assert next(t for t in entry["tests"] if t["component"] == "alignment")["p"] is None


@pytest.mark.parametrize(
    ("changes", "components"),
    [
        ([("policy", 1.2)], {"policy"}),
        ([("rotation", 0.5)], {"rotation"}),
        ([("collapse: shift", 0.3)], {"collapse"}),
        ([("collapse: shrink", 0.4)], {"collapse"}),
        ([("collapse: problems", 0.5)], {"collapse"}),
        ([("collapse: rank", 0.3)], {"collapse"}),
        ([("alignment: shrink", 0.6)], {"alignment"}),
        ([("alignment: push", 0.7)], {"alignment"}),
        ([("rotation", 0.5), ("alignment: push", 0.7)], {"rotation", "alignment"}),
        ([("collapse: shift", 0.3), ("alignment: shrink", 0.6)], {"collapse", "alignment"}),
    ],
)
def test_planted_changes_are_named(changes, components):
    found = [decide(planted_evidence(changes, seed, SIZES, n_perm=199)) for seed in range(2)]
    assert [set(v.components) for v in found] == [components] * 2


def test_nothing_is_named_where_nothing_changed():
    names = [decide(planted_evidence([], seed, SIZES, n_perm=199)).name for seed in range(12)]
    assert names.count("none") >= 11


def planted_sets(change, size, seed=0):
    rng = np.random.default_rng(seed)
    world = build_world(rng, 30)
    sets = []
    for _ in range(2):
        rows, states, centre = draw_rollouts(rng, world, 8)
        sets.append(
            pair_states(
                rows,
                states,
                encode(change, size, states=states, centre=centre, rows=rows, world=world, rng=rng),
            )
        )
    return sets


def test_an_exact_rotation_changes_no_cosine_and_is_found_held_out():
    found = geometry_evidence(planted_sets("rotation", 0.7), n_boot=100)
    for name in ("cc", "cc_over_ii", "raw_floor", "common_share", "log_rank"):
        assert getattr(found, name).value == pytest.approx(0.0, abs=1e-8), name
    assert found.cka.value == pytest.approx(1.0)
    assert found.rotated.value == pytest.approx(1.0)
    assert found.unrotated.value < 0.8


def test_evidence_is_the_tables_difference():
    sets = planted_sets("alignment: push", 0.5)
    found = geometry_evidence(sets, n_boot=100)
    rows = pd.DataFrame(
        similarity_rows(
            dict(zip(("base", "rl"), sets, strict=True)), Place("1", "a"), seed=0, n_boot=100
        )
    )

    def value(policy, encoder, cell):
        here = (rows["policy"] == policy) & (rows["encoder"] == encoder) & (rows["cell"] == cell)
        return rows[here & (rows["space"] == "centred")]["value"].iloc[0]

    assert value("both", "rl-base", "CC") == pytest.approx(found.cc.value)
    assert value("both", "rl-base", "CC-II") == pytest.approx(found.cc_over_ii.value)
    # All problems have correct pairs in both encoders: the difference is that of the corners.
    change = value("base", "rl", "CC") - value("base", "base", "CC")
    assert value("base", "rl-base", "CC") == pytest.approx(change)
    assert value("base", "rl-base", "floor") == pytest.approx(
        value("base", "rl", "floor") - value("base", "base", "floor")
    )


def test_the_common_share_is_free_of_rollout_noise():
    found = geometry_evidence(planted_sets("alignment: shrink", 0.8), n_boot=100)
    assert found.raw_floor.low > 0.04  # the raw floor rises though no problem moved
    assert abs(found.common_share.value) < 0.02


def test_states_that_are_all_equal_are_no_evidence():
    rng = np.random.default_rng(0)
    rows, _, _ = draw_rollouts(rng, build_world(rng, 20), 4)
    paired = pair_states(rows, np.full((80, 24), 0.3), np.full((80, 24), 0.7))  # a single token
    found = geometry_evidence([paired], n_boot=100)
    assert np.isnan([found.cka.value, found.gain.value, found.log_rank.value]).all()
    verdict = decide(dataclasses.replace(evidence(), geometry=found))
    assert verdict.name == "none"
    assert "shape differs" in verdict.remarks[0]


def test_effects_of_a_mean_and_of_a_jackknife_agree():
    values = np.random.default_rng(0).normal(0.6, 1.0, 30)
    mean = mean_effect(values, seed=0, label="t", n_boot=2000)
    without = (values.sum() - values) / 29
    jackknife = jackknife_effect(float(values.mean()), without, 30)
    assert (mean.se, mean.p) == pytest.approx((jackknife.se, jackknife.p))
    assert mean.low == pytest.approx(jackknife.low, abs=0.1)
    assert mean.p_above(0.0) == pytest.approx(mean.p / 2)
    assert mean.p_below(0.0) == pytest.approx(1 - mean.p / 2)
    flat = mean_effect(np.zeros(5), seed=0, label="t")
    assert (flat.p, flat.p_above(0.0), flat.p_above(-0.1)) == (1.0, 1.0, 0.0)


def test_states_that_do_not_pair_are_refused():
    rows = pd.DataFrame(
        {"rollout_id": ["a", "b"], "problem_id": ["p", "q"], "verdict": ["correct", "wrong"]}
    )
    with pytest.raises(GeomrlError, match="same rollouts"):
        pair_states(rows, np.zeros((2, 3)), np.zeros((3, 3)))
    with pytest.raises(GeomrlError, match="finite"):
        pair_states(rows, np.zeros((2, 3)), np.full((2, 3), np.nan))


def test_all_states_drawing_together_is_remarked_where_the_share_cannot_show_it():
    place = Place("final", "before_marker")

    def rows(floor, correct):
        cells = {"floor": floor, "CC": correct}
        return [
            place.row(
                "cosine",
                "both",
                "rl-base",
                Interval(v, v - 0.01, v + 0.01, n_clusters=50, n_boot=100, seed=0, warning=None),
                cell=cell,
                space="raw",
            )
            for cell, v in cells.items()
        ]

    told = drawn_together(rows(0.34, 0.33), place, ["rotation", "other"], 0.05)
    assert "different problems rises by 0.340" in told
    assert drawn_together(rows(0.34, 0.33), place, ["collapse"], 0.05) is None  # said already
    assert drawn_together(rows(0.34, 0.45), place, [], 0.05) is None  # correct ones beyond it
    assert drawn_together(rows(0.04, 0.04), place, [], 0.05) is None  # below the margin
    assert drawn_together(rows(0.34, 0.33), Place("1", "before_marker"), [], 0.05) is None
