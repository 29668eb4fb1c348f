import numpy as np
import pandas as pd
import pytest
from worlds import build_world, reader

from geomrl.errors import GeomrlError
from geomrl.geometry.similarity import COLUMNS, TESTED, headline, similarity_table

CONTEXT = {"policy": "p", "encoder": "e", "step": 3, "benchmark": "b"}
FAST = {"context": CONTEXT, "n_boot": 100, "n_perm": 49}


@pytest.fixture(scope="module")
def world():
    return build_world(0, problems=20, samples=8, hidden=4, answer=1.0)


@pytest.fixture(scope="module")
def result(world):
    return similarity_table(reader(*world), ["0", "1", "final"], ["before_marker", "x"], **FAST)


def test_columns_and_keys(result):
    table = result.table
    assert tuple(table.columns) == COLUMNS
    assert (table[list(CONTEXT)] == pd.Series(CONTEXT)).all().all()
    keys = ["layer", "anchor", "measure", "cell", "space", "weighting"]
    assert not table.duplicated(keys).any()
    assert set(table["measure"]) == {
        "cosine", "residual_share", "effective_rank", "participation_ratio", *TESTED,
    }  # fmt: skip
    assert set(table["space"]) == {"raw", "centred", "whitened"}
    assert set(table.loc[table["measure"] == "residual_share", "cell"]) == {"C", "I", "all"}
    assert table["n_problems"].dtype.kind == table["n_pairs"].dtype.kind == "i"
    bounded = table[(table["measure"] == "cosine") & ~table["cell"].str.contains("-")]
    bounded = bounded[bounded["weighting"] == "problem"]
    assert bounded[["value", "low", "high"]].abs().max().max() <= 1.0
    assert (table["low"].isna() | (table["low"] <= table["value"])).all()


def test_tests_and_the_contrasts_they_test_agree(result):
    table = result.table
    for test, contrast in TESTED.items():
        rows = table[table["measure"] == test].set_index(["layer", "anchor", "space"])
        assert (rows["cell"] == contrast).all()
        cosine = table[
            (table["measure"] == "cosine")
            & (table["cell"] == contrast)
            & (table["weighting"] == "problem")
        ].set_index(["layer", "anchor", "space"])
        pd.testing.assert_series_equal(rows["p"], cosine["p"].loc[rows.index])
        assert ((rows["p"] >= 1 / 50) & (rows["p"] <= 1)).all()
        assert (np.sign(rows["value"]) == np.sign(cosine["value"].loc[rows.index])).all()
        assert (rows["n_problems"] == cosine["n_problems"].loc[rows.index]).all()
    others = table[(table["measure"] == "cosine") & ~table["cell"].isin(TESTED.values())]
    assert others["p"].isna().all()


def test_same_seed_same_table_whatever_the_row_order(world, result):
    rows, states = world
    order = np.random.default_rng(0).permutation(len(rows))
    again = similarity_table(
        reader(rows.iloc[order], states[order]), ["0", "1", "final"], ["before_marker", "x"], **FAST
    )
    pd.testing.assert_frame_equal(again.table, result.table, rtol=1e-5)
    other = similarity_table(reader(*world), ["final"], ["x"], seed=1, **FAST)
    here = result.table[(result.table["layer"] == "final") & (result.table["anchor"] == "x")]
    assert not np.allclose(other.table["low"], here["low"], equal_nan=True)


def test_other_layers_and_anchors_change_only_adjusted_p(world, result):
    alone = similarity_table(reader(*world), ["final"], ["x"], **FAST).table
    full = result.table[(result.table["layer"] == "final") & (result.table["anchor"] == "x")]
    full = full.reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.drop(columns="p"), full.drop(columns="p"))
    tested = alone["p"].notna()
    assert (full.loc[tested, "p"] >= alone.loc[tested, "p"] - 1e-12).all()


def test_progress_is_told_once_a_layer_and_anchor(world):
    said = []
    similarity_table(reader(*world), ["0", "1"], ["a"], progress=said.append, **FAST)
    assert said == ["a, layer 0", "a, layer 1"]


def cosines(result, space="raw"):
    table = result.table
    rows = table[
        (table["measure"] == "cosine")
        & (table["space"] == space)
        & (table["weighting"] == "problem")
    ]
    return rows.set_index("cell")


def test_one_problem_only(world):
    rows, states = world
    one = (rows["problem_id"] == "p002").to_numpy()
    assert set(rows.loc[one, "verdict"]) == {"correct", "wrong"}
    found = similarity_table(reader(rows[one], states[one]), ["final"], ["a"], **FAST)
    assert set(found.table.loc[found.table["measure"] == "cosine", "space"]) == {"raw"}
    table = cosines(found)
    assert np.isfinite(table.loc["CI", "value"])
    assert np.isnan(table.loc["CI", "low"])
    assert table.loc["floor", "n_problems"] == 0
    notes = "\n".join(found.notes)
    assert "no centred cosines" in notes
    assert "no whitened cosines: whitening d = 4 dimensions" in notes
    assert "no test of verdicts" in notes


@pytest.mark.parametrize(
    ("accuracy", "empty", "note"),
    [((1000.0, 0.001), "II", "two wrong"), ((0.001, 1000.0), "CC", "two correct")],
)
def test_without_wrong_or_correct_rollouts(accuracy, empty, note):
    rows, states = build_world(0, problems=14, accuracy=accuracy)
    found = similarity_table(reader(rows, states), ["0", "final"], ["a"], **FAST)
    table = cosines(found, "centred")
    for cell in (empty, "CI", "CC-II", f"{empty}-floor"):
        assert np.isnan(table.loc[cell, "value"]).all()
        assert (table.loc[cell, "n_problems"] == 0).all()
    assert np.isfinite(table.loc[{"II": "CC", "CC": "II"}[empty], "value"]).all()
    assert any(note in line for line in found.notes)
    tests = found.table[found.table["measure"].isin(TESTED)]
    assert tests[["value", "p"]].isna().all().all()
    spectra = found.table[found.table["measure"] == "effective_rank"]
    assert (spectra["n_problems"] == 0).all()


def test_groups_of_one_and_two(world):
    rows, states = world
    kept = rows.groupby("problem_id").cumcount() < 1 + (rows["problem_id"] < "p005")
    rows, states = rows[kept], states[kept.to_numpy()]
    found = similarity_table(reader(rows, states), ["final"], ["a"], **FAST)
    assert cosines(found).loc["floor", "n_problems"] == 20
    assert cosines(found).loc[["CC", "II", "CI"], "n_pairs"].sum() == 5


def test_equal_states_at_layer_0_are_noted_and_not_significant(world):
    rows, _ = world
    states = np.tile(np.random.default_rng(0).normal(size=4).astype(np.float32), (len(rows), 1))
    found = similarity_table(reader(rows, states), ["0"], ["a"], **FAST)
    assert cosines(found).loc["CC", "value"] == pytest.approx(1.0)
    assert cosines(found, "centred").loc["CC", "value"] == 0.0
    tests = found.table[found.table["measure"].isin(TESTED)]
    assert (tests["p"] == 1.0).all()
    assert (tests["value"] == 0.0).all()
    assert any("equal the centre" in note for note in found.notes)
    assert any("no variance to whiten" in note for note in found.notes)


def test_nothing_to_compare_is_refused_with_the_cure(world):
    rows, states = world
    singles = ~rows["problem_id"].duplicated()
    with pytest.raises(GeomrlError, match=r"two graded\s+rollouts.*several rollouts a problem"):
        similarity_table(
            reader(rows[singles], states[singles.to_numpy()]), ["final"], ["a"], **FAST
        )
    with pytest.raises(GeomrlError, match="no problem has two"):
        similarity_table(reader(rows.assign(verdict="no_answer"), states), ["0"], ["a"], **FAST)


def test_an_anchor_without_rows_is_noted_and_the_others_computed(world):
    rows, states = world

    def read(layer, anchor):
        return (rows.iloc[:0], states[:0]) if anchor == "think_end" else (rows, states)

    found = similarity_table(read, ["final"], ["think_end", "a"], **FAST)
    assert set(found.table["anchor"]) == {"a"}
    assert "no graded rollout has this anchor [think_end]" in found.notes


def test_layers_that_do_not_belong_together_are_refused(world):
    rows, states = world

    def other_rollouts(layer, anchor):
        return (rows, states) if layer == "0" else (rows.iloc[1:], states[1:])

    with pytest.raises(GeomrlError, match="differ from those of the first layer"):
        similarity_table(other_rollouts, ["0", "1"], ["a"], **FAST)
    with pytest.raises(GeomrlError, match="aligned"):
        similarity_table(lambda *_: (rows, states[1:]), ["0"], ["a"], **FAST)
    with pytest.raises(GeomrlError, match="benchmark"):
        similarity_table(reader(*world), ["0"], ["a"], context={"policy": "p"})


def test_headline_puts_spaces_side_by_side(result):
    frame = headline(result.table)
    table = cosines(result, "centred")
    at = table[(table["layer"] == "final") & (table["anchor"] == "before_marker")]
    assert frame["cell"].tolist() == at.index.tolist()
    np.testing.assert_array_equal(frame["centred_low"], at["low"])
    assert "floor" in set(frame["cell"])
    assert not frame["raw"].isna().all()
    assert headline(result.table, layer="1", anchor="x").attrs == {"layer": "1", "anchor": "x"}
    elsewhere = headline(result.table[result.table["anchor"] == "x"])
    assert elsewhere.attrs == {"layer": "final", "anchor": "x"}
