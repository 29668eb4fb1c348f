"""The frames behind the pictures: what is plotted, in which order, with which numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import LAYERS, PlantedRun, make_rollouts, make_table

from geomrl.errors import GeomrlError
from geomrl.geometry.cells import pair_cosines
from geomrl.stats.intervals import mean_interval
from geomrl.viz import (
    contrasts,
    distributions,
    embedding,
    heatmap,
    outcomes,
    tables,
    theme,
)
from geomrl.viz.track import layer_ticks


@settings(max_examples=15, deadline=None)
@given(st.permutations(LAYERS), st.integers(0, 2**31))
def test_profile_does_not_depend_on_the_tables_order(layers: list[str], seed: int) -> None:
    table = make_table(layers, ["before_marker", "fraction:0.5"]).sample(frac=1, random_state=seed)
    found = tables.profile(table, by="layer", at="before_marker", cells=("II", "CC"))
    assert list(found.columns) == ["space", "cell", "layer", *tables.PLOTTED]
    assert found["layer"].tolist() == list(LAYERS) * 4
    assert found["cell"].tolist() == (["II"] * 4 + ["CC"] * 4) * 2
    assert found["space"].tolist() == ["raw"] * 8 + ["centred"] * 8
    keys = ["space", "cell", "layer", "anchor", "measure"]
    values = table.set_index(keys)["value"]
    for row in found.itertuples():
        assert row.value == values[row.space, row.cell, row.layer, "before_marker", "cosine"]


def test_profile_leaves_out_pooled_rows_other_measures_and_missing_values() -> None:
    table = make_table(["1"], ["before_marker"])
    pooled = table.assign(weighting="pair", value=99.0)
    table.loc[table["cell"] == "CI", "value"] = np.nan
    both = pd.concat([table, pooled])
    found = tables.profile(both, by="anchor", at="1", cells=("CC", "CI", "CC-II"), spaces=("raw",))
    assert found["cell"].tolist() == ["CC", "CC-II"]
    assert (found["value"] < 99).all()


def test_anchors_come_in_the_order_of_reading() -> None:
    names = [
        "response_last",
        "before_marker",
        "fraction:0.5",
        "marker_end",
        "before_marker-4",
        "fraction:0",
    ]
    assert tables.ordered([*names, *names], "anchor") == [
        "fraction:0", "fraction:0.5", "before_marker-4", "before_marker", "marker_end",
        "response_last",
    ]  # fmt: skip


def test_an_interval_that_is_missing_or_touches_zero_excludes_nothing() -> None:
    frame = pd.DataFrame({"low": [0.1, -0.2, 0.0, np.nan], "high": [0.2, -0.1, 0.3, np.nan]})
    assert tables.excludes_zero(frame).tolist() == [True, True, False, False]


def test_one_source_refuses_several_encoders_and_unknown_benchmarks() -> None:
    table = make_table(["0"], ["before_marker"])
    with pytest.raises(GeomrlError, match="2 values of encoder"):
        tables.one_source(pd.concat([table, table.assign(encoder="other")]), "sums")
    with pytest.raises(GeomrlError, match="choose among sums"):
        tables.one_source(table, "products")
    other = pd.concat([table, table.assign(benchmark="products")])
    assert set(tables.one_source(other, "sums")["benchmark"]) == {"sums"}


def test_heat_grid_holds_every_place_once_in_order() -> None:
    table = make_table(["2", "final", "0", "10"], ["marker_end", "fraction:0.5"])
    grid = heatmap.heat_grid(table.sample(frac=1, random_state=1))
    assert len(grid) == 4 * 4 * 2
    first = grid[(grid["cell"] == "CC-II") & (grid["space"] == "centred")]
    assert first["layer"].tolist() == ["0", "0", "2", "2", "10", "10", "final", "final"]
    assert first["anchor"].tolist() == ["fraction:0.5", "marker_end"] * 4
    assert (grid["excludes_zero"] == ((grid["low"] > 0) | (grid["high"] < 0))).all()


def test_contrast_profile_names_its_measures() -> None:
    table = make_table(list(LAYERS), ["before_marker"])
    frame = contrasts.contrast_profile(table, by="layer", at="before_marker")
    assert frame["measure"].unique().tolist() == ["cosine", *contrasts.TESTS]
    assert len(frame) == 4 * 2 * (3 + 2)
    empty = contrasts.contrast_profile(table.iloc[:0], by="layer", at="before_marker")
    assert empty.empty
    assert list(empty.columns) == list(frame.columns)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.floats(-1, 1)), min_size=1, max_size=40
    )
)
def test_pair_weights_give_the_mean_over_problems(
    drawn_pairs: list[tuple[int, int, float]],
) -> None:
    pairs = pd.DataFrame(drawn_pairs, columns=["problem_id", "other_problem_id", "cosine"])
    pairs["cell"] = "floor"
    weighted = np.average(pairs["cosine"], weights=distributions.pair_weights(pairs))
    groups = [
        tuple(sorted(p)) for p in zip(pairs["problem_id"], pairs["other_problem_id"], strict=True)
    ]
    by_group = pairs["cosine"].groupby(pd.Series(groups)).mean()
    assert weighted == pytest.approx(by_group.mean(), abs=1e-9)


def test_the_histograms_mean_is_the_tables(tmp_path: Path) -> None:
    """Where no pair is left out, the weighted histogram and the table agree on the cell's value."""
    run = PlantedRun(
        path=tmp_path, rollouts=make_rollouts(12), layers=("final",), anchors=("before_marker",)
    )
    rows, states = run.states("final", "before_marker")
    cells = distributions.DISTRIBUTION_CELLS
    values = tables.profile(run.similarity, by="layer", at="before_marker", cells=cells)
    pairs = {
        s: pair_cosines(states, rows, space=s, max_pairs=10**6, seed=0) for s in ("raw", "centred")
    }
    histogram = distributions.cosine_histogram(pairs, values)
    assert list(histogram.groupby("space", sort=False)["cell"].unique()["raw"]) == list(cells)
    for (space, cell), part in histogram.groupby(["space", "cell"]):
        width = part["bin_high"] - part["bin_low"]
        area = (part["density"] * width).sum()
        assert 0.99 <= area <= 1 + 1e-9
        own = (values["space"] == space) & (values["cell"] == cell)
        assert (part["mean"] == values.loc[own, "value"].iloc[0]).all()
        assert (part["n_drawn"] == part["n_pairs"]).all()
        centre = (part["bin_low"] + part["bin_high"]) / 2
        about = (part["density"] * width * centre).sum() / area
        # Half a bin, and the 1 % of weight below the first.
        assert about == pytest.approx(part["mean"].iloc[0], abs=0.5 * width.iloc[0] + 0.015)


def test_identical_states_give_one_visible_bar() -> None:
    pairs = pd.DataFrame(
        {"cell": "CC", "cosine": 1.0, "problem_id": ["a"] * 3, "other_problem_id": ["a"] * 3}
    )
    values = pd.DataFrame(
        {
            "space": ["raw"],
            "cell": ["CC"],
            "value": [1.0],
            "low": [0.9],
            "high": [1.0],
            "n_problems": 1,
            "n_pairs": 3,
        }
    )
    histogram = distributions.cosine_histogram({"raw": pairs}, values)
    assert (histogram["density"] > 0).sum() == 1
    assert distributions.cosine_histogram({"raw": pairs.iloc[:0]}, values).empty


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 1)), min_size=1, max_size=30))
def test_every_problem_is_in_the_pass_rate_histogram_once(groups: list[tuple[int, float]]) -> None:
    rates = pd.DataFrame(
        {"n_samples": [n for n, _ in groups], "n_correct": [round(n * rate) for n, rate in groups]}
    )
    rates["pass_rate"] = rates["n_correct"] / rates["n_samples"]
    histogram = outcomes.pass_rate_histogram(
        rates, mean_interval(rates["pass_rate"].to_numpy(), n_boot=5)
    )
    by_kind = histogram.groupby("kind")["n_problems"].sum()
    assert by_kind["none"] == (rates["n_correct"] == 0).sum()
    assert by_kind["all"] == (rates["n_correct"] == rates["n_samples"]).sum()
    assert by_kind.sum() == len(rates)


def test_verdicts_count_every_rollout_and_name_all_four() -> None:
    rollouts = make_rollouts(benchmarks=("sums", "products"))
    counts = outcomes.verdict_counts(rollouts)
    assert counts["n_rollouts"].sum() == len(rollouts)
    assert counts.groupby("benchmark")["share"].sum().tolist() == pytest.approx([1.0, 1.0])
    assert counts["verdict"].tolist() == list(theme.VERDICTS) * 2
    rates = outcomes.pass_rates(rollouts)
    assert rates["n_correct"].sum() == (rollouts["verdict"] == "correct").sum()
    assert rates["n_samples"].sum() == len(rollouts)  # no answer is a sample, and not correct


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 20), st.integers(2, 8), st.integers(0, 1000))
def test_components_are_of_directions_only(n: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(n, d)) + 1
    scores, share = embedding.principal_components(states, seed=0)
    longer, _ = embedding.principal_components(states * rng.uniform(0.5, 9, size=(n, 1)), seed=0)
    assert scores.shape == (n, min(n - 1, d))
    np.testing.assert_allclose(np.abs(scores), np.abs(longer), atol=1e-8)
    assert share.sum() == pytest.approx(1.0)
    assert (np.diff(share) <= 1e-12).all()
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    np.testing.assert_allclose(pairwise(scores), pairwise(unit), atol=1e-8)


def pairwise(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x[:, None] - x[None], axis=-1)


def test_components_of_identical_and_zero_states_are_zero() -> None:
    for states in (np.ones((6, 4)), np.zeros((6, 4))):
        scores, share = embedding.principal_components(states, seed=0)
        np.testing.assert_allclose(scores, 0, atol=1e-12)
        np.testing.assert_allclose(share, 0, atol=1e-12)


def test_most_mixed_wants_two_of_each_and_prefers_balance() -> None:
    rows = [("even", 3, 3), ("also", 3, 4), ("lean", 5, 2), ("once", 1, 6), ("never", 0, 4)]
    frame = pd.DataFrame(
        [(p, v) for p, c, w in rows for v in ["correct"] * c + ["wrong"] * w],
        columns=["problem_id", "verdict"],
    )
    found = embedding.most_mixed(frame)
    assert found["problem_id"].tolist() == ["also", "even", "lean"]
    assert found["n_wrong"].tolist() == [4, 3, 2]
    assert embedding.most_mixed(frame[frame["verdict"] == "wrong"]).empty
    assert len(embedding.most_mixed(frame, limit=2)) == 2


def test_thinning_is_seeded_and_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = PlantedRun(path=tmp_path, rollouts=make_rollouts())
    monkeypatch.setattr(embedding, "MOST_STATES", 50)
    rows, states = run.states("final", "before_marker")
    maps = [embedding.embed(rows, states, seed=seed, umap=False) for seed in (0, 0, 1)]
    assert maps[0].n_available == len(rows)
    assert len(maps[0].frame) == 50
    pd.testing.assert_frame_equal(maps[0].frame, maps[1].frame)
    assert set(maps[0].frame["rollout_id"]) != set(maps[2].frame["rollout_id"])


def test_layer_ticks_name_final_and_never_crowd() -> None:
    for n in (1, 2, 12, 13, 28, 29, 36, 41, 64, 81, 128):
        places = [*map(str, range(n)), "final"]
        ticks = layer_ticks(places)
        assert ticks[-1] == n
        assert len(ticks) <= 13
        assert ticks == sorted(set(ticks))


@given(
    st.lists(st.text(alphabet="abWM.\u00a0-", min_size=1, max_size=20), min_size=1), st.floats(2, 7)
)
def test_wrapping_keeps_the_words_and_the_width(words: list[str], width: float) -> None:
    lines = theme.wrap(" ".join(words), width)
    assert " ".join(lines) == " ".join(words)
    for line in lines:
        assert theme.text_width(line) <= width or " " not in line


def test_text_width_is_the_drawn_width() -> None:
    with theme.style():
        figure = theme.new_figure(6.9, 1.0, "policy Qwen3-4B; 95 % intervals by problem")
        drawn = figure.texts[0].get_window_extent().width / figure.dpi
    assert theme.text_width(figure.texts[0].get_text()) == pytest.approx(drawn, rel=0.02)
