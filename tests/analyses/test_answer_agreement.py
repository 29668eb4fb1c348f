"""Agreement on the answer: the gap's two parts, on planted states and on runs."""

import numpy as np
import pandas as pd
import pytest
from answer_agreement import agreement_of
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import PlantedRun, assert_legible, make_rollouts

from geomrl.errors import GeomrlError
from geomrl.geometry.agreement import agreement, agreement_at


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
    run = PlantedRun(
        path=tmp_path, rollouts=make_rollouts(30, 12), layers=("final",), anchors=anchors
    )
    for anchor in anchors:
        rows, _ = run.states("final", anchor)
        said = planted_states(
            rows.assign(answer_class=rows["answer_class"].astype(int)), by="answer_class"
        )
        run.planted["final", anchor] = said.astype(np.float32)
    finding = agreement_of(run)
    assert finding.says[0].startswith("**At `before_marker` correct rollouts are closer")
    assert "nothing of it is shown to survive" in finding.says[0]
    shares = finding.tables["shares"]
    assert set(shares["anchor"]) == set(anchors)
    total = shares["agreement"] + shares["surviving"]
    assert np.allclose(total, shares["CC-II"])
    assert_legible(finding.pictures[0])


def test_the_finding_on_a_run_without_structure_is_a_null_result(tmp_path):
    run = PlantedRun(
        path=tmp_path, rollouts=make_rollouts(30, 12), layers=("final",), anchors=("before_marker",)
    )
    shape = run.states("final", "before_marker")[1].shape
    noise = np.random.default_rng(0).normal(size=shape)
    run.planted["final", "before_marker"] = noise.astype(np.float32)
    finding = agreement_of(run)
    assert "null result" in finding.says[0]
    assert finding.tables["shares"]["share"].isna().all()


def test_a_run_of_two_benchmarks_is_refused(tmp_path):
    run = PlantedRun(
        path=tmp_path,
        rollouts=make_rollouts(benchmarks=("a", "b")),
        layers=("final",),
        anchors=("before_marker",),
    )
    with pytest.raises(GeomrlError, match=r"2 benchmarks \(a, b\)"):
        agreement_of(run)
