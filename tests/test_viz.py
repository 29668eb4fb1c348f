"""Pictures: the frames behind them, the files, and that nothing overlaps or is cut off."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rcParams
from matplotlib.text import Text

from geomrl.errors import GeomrlError, MissingExtra
from geomrl.probe.similarity import similarity_table
from geomrl.stats.intervals import mean_interval
from geomrl.viz import (
    contrasts,
    distributions,
    embedding,
    figures,
    heatmap,
    profiles,
    tables,
    theme,
    verdicts,
)
from geomrl.viz.figures import draw_figures
from geomrl.viz.picture import Picture, write_picture
from geomrl.viz.track import layer_ticks

LAYERS = ("0", "1", "2", "final")
ANCHORS = ("fraction:0.5", "before_marker-1", "before_marker", "marker_end")
SOURCE = theme.Source("a-policy", "an-encoder-0123abcd", 0, "made-up")
DRAWN = {
    "pass_rate",
    "verdict_counts",
    "cosine_distributions",
    "cosine_by_layer",
    "cosine_by_position",
    "contrasts_by_layer",
    "contrasts_by_position",
    "spectra_by_layer",
    "heatmap_layer_position",
    "embedding_verdict",
    "embedding_problem",
}


@dataclass
class PlantedRun:
    """A run whose states are a shared mean, a problem's mean, an answer's mean and noise."""

    path: Path
    rollouts: pd.DataFrame
    layers: tuple[str, ...] = LAYERS
    anchors: tuple[str, ...] = ANCHORS
    table: pd.DataFrame | None = None
    planted: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)

    @property
    def similarity(self) -> pd.DataFrame:
        if self.table is None:
            parts = [self._table(name) for name in self.rollouts["benchmark"].unique()]
            self.table = pd.concat(parts, ignore_index=True)
        return self.table

    def _table(self, benchmark: str) -> pd.DataFrame:
        def read(layer: str, anchor: str) -> tuple[pd.DataFrame, np.ndarray]:
            rows, states = self.states(layer, anchor)
            here = (rows["benchmark"] == benchmark).to_numpy()
            return rows[here].reset_index(drop=True), states[here]

        context = {"policy": "p", "encoder": "e-1", "step": None, "benchmark": benchmark}
        found = similarity_table(
            read, self.layers, self.anchors, context=context, n_boot=50, n_perm=30
        )
        return found.table

    def states(self, layer: str, anchor: str) -> tuple[pd.DataFrame, np.ndarray]:
        rows = self.rollouts[self.rollouts["verdict"].isin(["correct", "wrong"])]
        rows = rows.reset_index(drop=True)
        if (layer, anchor) not in self.planted:
            rng = np.random.default_rng([self.layers.index(layer), self.anchors.index(anchor)])
            problems = {p: rng.normal(size=12) for p in rows["problem_id"].unique()}
            answers = {
                key: rng.normal(size=12)
                for key in rows.groupby(["problem_id", "answer_class"]).groups
            }
            depth = 1 + self.layers.index(layer)
            self.planted[layer, anchor] = np.stack(
                [
                    2.0 + problems[p] + 0.4 * depth * answers[p, a] + rng.normal(size=12)
                    for p, a in zip(rows["problem_id"], rows["answer_class"], strict=True)
                ]
            ).astype(np.float32)
        return rows, self.planted[layer, anchor]


def make_rollouts(
    n_problems: int = 24, n: int = 8, *, wrong: bool = True, benchmarks: tuple[str, ...] = ("sums",)
) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    rows = []
    for problem in range(n_problems):
        rate = rng.uniform(0, 1) if wrong else 1.0
        for sample in range(n):
            verdict = "correct" if rng.uniform() < rate else "wrong"
            verdict = "no_answer" if wrong and rng.uniform() < 0.03 else verdict
            rows.append(
                {
                    "rollout_id": f"{problem}/{sample}",
                    "benchmark": benchmarks[problem % len(benchmarks)],
                    "problem_id": f"sum-{problem:03d}",
                    "verdict": verdict,
                    "answer_class": 0 if verdict == "correct" else 1 + int(rng.integers(2)),
                    "gold": str(problem % 5),
                }
            )
    return pd.DataFrame(rows).astype({"answer_class": "Int64"})


def make_table(layers: list[str], anchors: list[str], *, intervals: bool = True) -> pd.DataFrame:
    """A table with every cell and test, for shapes that would take long to compute."""
    rng = np.random.default_rng(3)
    cells = [("cosine", c) for c in (*profiles.PROFILE_CELLS, *contrasts.CONTRASTS)]
    tests = [
        ("permutation_correctness", "CC-II"),
        ("permutation_answer_class", "CC-II_same_answer"),
    ]
    rows = []
    for layer in layers:
        for anchor in anchors:
            for space in ("raw", "centred"):
                for measure, cell in [*cells, *tests]:
                    value = float(rng.normal())
                    width = 0.5 if intervals else np.nan
                    rows.append(
                        {
                            "policy": "p", "encoder": "e", "step": 0, "benchmark": "sums",
                            "layer": layer, "anchor": anchor, "measure": measure, "cell": cell,
                            "space": space, "weighting": "problem", "value": value,
                            "low": value - width, "high": value + width,
                            "p": rng.uniform(0.001, 1), "n_problems": 40, "n_pairs": 4000,
                            "n_boot": 2000, "seed": 0,
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> PlantedRun:
    return PlantedRun(tmp_path_factory.mktemp("run"), make_rollouts())


@pytest.fixture(scope="module")
def drawn(run: PlantedRun) -> dict[str, Picture]:
    """Every picture of the run, in memory."""
    return pictures_of(run)


def pictures_of(run: PlantedRun) -> dict[str, Picture]:
    benchmark = run.rollouts["benchmark"].iloc[0]
    scene = figures._scene(run, benchmark, "final", "before_marker", 0, umap=False)  # type: ignore[arg-type]
    made = [make(name, scene) for name, make in figures._PICTURES.items()]
    made.append(figures._verdict_counts(run))  # type: ignore[arg-type]
    return {picture.name: picture for picture in made if isinstance(picture, Picture)}


def read_files(folder: Path, suffix: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob(f"*{suffix}"))}


# The frames


@given(st.permutations(range(len(LAYERS))), st.integers(0, 2**32 - 1))
def test_profile_does_not_depend_on_the_tables_order(layers: list[int], seed: int) -> None:
    table = make_table([LAYERS[i] for i in layers], ["before_marker", "fraction:0.5"])
    expected = tables.profile(
        make_table(list(LAYERS), ["before_marker", "fraction:0.5"]).iloc[:0],
        by="layer",
        at="",
        cells=[],
    )
    shuffled = table.sample(frac=1, random_state=seed % 2**31)
    found = tables.profile(shuffled, by="layer", at="before_marker", cells=("II", "CC"))
    assert list(found.columns) == list(expected.columns)
    assert found["layer"].tolist() == list(LAYERS) * 4
    assert found["cell"].tolist() == ["II"] * 4 + ["CC"] * 4 + ["II"] * 4 + ["CC"] * 4
    assert found["space"].tolist() == ["raw"] * 8 + ["centred"] * 8
    values = table.set_index(["space", "cell", "layer", "anchor", "measure"])["value"]
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
        "fraction:0", "fraction:0.5", "before_marker-4", "before_marker", "marker_end", "response_last",
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


def test_the_histograms_mean_is_the_tables(run: PlantedRun, drawn: dict[str, Picture]) -> None:
    """Where no pair is left out, the weighted histogram and the table agree on the cell's value."""
    histogram = drawn["cosine_distributions"].data
    cells = run.similarity[
        (run.similarity["layer"] == "final")
        & (run.similarity["anchor"] == "before_marker")
        & (run.similarity["weighting"] == "problem")
        & (run.similarity["measure"] == "cosine")
    ].set_index(["space", "cell"])["value"]
    for (space, cell), part in histogram.groupby(["space", "cell"]):
        width = part["bin_high"] - part["bin_low"]
        area = (part["density"] * width).sum()
        assert 0.985 <= area <= 1 + 1e-9
        assert (part["mean"] == cells[space, cell]).all()
        centre = (part["bin_low"] + part["bin_high"]) / 2
        about = (part["density"] * width * centre).sum() / area
        # Half a bin, and the 1 % of weight below the first.
        assert about == pytest.approx(part["mean"].iloc[0], abs=0.5 * width.iloc[0] + 0.01)


def test_identical_states_give_one_visible_bar() -> None:
    pairs = pd.DataFrame(
        {"cell": "CC", "cosine": 1.0, "problem_id": ["a"] * 3, "other_problem_id": ["a"] * 3}
    )
    values = pd.DataFrame(
        {"space": ["raw"], "cell": ["CC"], "value": [1.0], "n_problems": 1, "n_pairs": 3}
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
    histogram = verdicts.pass_rate_histogram(
        rates, mean_interval(rates["pass_rate"].to_numpy(), n_boot=5)
    )
    by_kind = histogram.groupby("kind")["n_problems"].sum()
    assert by_kind["none"] == (rates["n_correct"] == 0).sum()
    assert by_kind["all"] == (rates["n_correct"] == rates["n_samples"]).sum()
    assert by_kind.sum() == len(rates)


def test_verdicts_count_every_rollout_and_name_all_four() -> None:
    rollouts = make_rollouts(benchmarks=("sums", "products"))
    counts = verdicts.verdict_counts(rollouts)
    assert counts["n_rollouts"].sum() == len(rollouts)
    assert counts.groupby("benchmark")["share"].sum().tolist() == pytest.approx([1.0, 1.0])
    assert counts["verdict"].tolist() == list(theme.VERDICTS) * 2
    rates = verdicts.pass_rates(rollouts)
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


def test_thinning_is_seeded_and_counted(monkeypatch: pytest.MonkeyPatch, run: PlantedRun) -> None:
    monkeypatch.setattr(embedding, "MOST_STATES", 50)
    rows, states = run.states("final", "before_marker")
    maps = [embedding.embed(rows, states, seed=seed, umap=False) for seed in (0, 0, 1)]
    assert maps[0].n_available == len(rows)
    assert len(maps[0].frame) == 50
    pd.testing.assert_frame_equal(maps[0].frame, maps[1].frame)
    assert set(maps[0].frame["rollout_id"]) != set(maps[2].frame["rollout_id"])


# The pictures


def test_figures_are_files_with_the_data_behind_them(
    run: PlantedRun, drawn: dict[str, Picture]
) -> None:
    before, seen = dict(rcParams), []
    files = draw_figures(run, umap=False, progress=lambda done, total: seen.append((done, total)))  # type: ignore[arg-type]
    out = run.path / "figures"
    assert dict(rcParams) == before
    assert seen == [(i + 1, len(DRAWN)) for i in range(len(DRAWN))]
    assert {path.stem for path in files} == DRAWN | {"figures"}
    assert sorted(files) == sorted(out.iterdir())  # and no temporary file is left
    for name, picture in drawn.items():
        frame = pd.read_csv(
            out / f"{name}.csv",
            keep_default_na=False,
            na_values=[""],
            dtype={c: str for c in ("layer", "rollout_id") if c in picture.data},
        )
        pd.testing.assert_frame_equal(
            frame, picture.data, check_dtype=False, check_names=False, rtol=1e-9
        )
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        pdf = (out / f"{name}.pdf").read_bytes()
        assert b"/Type3" not in pdf  # Type 42, which editors can change
        assert b"CreationDate" not in pdf
    record = json.loads((out / "figures.json").read_text())["pictures"]
    assert record["pass_rate"]["files"] == ["pass_rate.csv", "pass_rate.png", "pass_rate.pdf"]
    assert not any("skipped" in entry for entry in record.values())


def test_a_second_run_writes_the_same_bytes(
    run: PlantedRun, drawn: dict[str, Picture], tmp_path: Path
) -> None:
    for folder in ("one", "two"):
        draw_figures(run, tmp_path / folder, umap=False, formats=())  # type: ignore[arg-type]
    assert read_files(tmp_path / "one", ".csv") == read_files(tmp_path / "two", ".csv")
    again = pictures_of(run)
    for folder, pictures in (("one", drawn), ("two", again)):
        write_picture(pictures["cosine_by_layer"], tmp_path / folder)
    for suffix in (".png", ".pdf"):
        assert read_files(tmp_path / "one", suffix) == read_files(tmp_path / "two", suffix)


def assert_legible(picture: Picture) -> None:
    """No type below 7 pt, nothing outside the page, no two texts over each other."""
    with theme.style():
        picture.figure.draw_without_rendering()
    page = picture.figure.bbox
    boxes = {}
    for text in picture.figure.findobj(Text):
        if not (text.get_visible() and text.get_text().strip()) or hidden_tick(text, picture):
            continue
        assert text.get_fontsize() >= 7, (picture.name, text.get_text())
        box = text.get_window_extent()
        for low, high, limit in ((box.x0, box.x1, page.x1), (box.y0, box.y1, page.y1)):
            assert low >= -1, (picture.name, text.get_text())
            assert high <= limit + 1, (picture.name, text.get_text())
        boxes[text] = box
    upright = [(t, b) for t, b in boxes.items() if t.get_rotation() in (0, 90)]
    for i, (one, a) in enumerate(upright):
        for other, b in upright[i + 1 :]:
            width = min(a.x1, b.x1) - max(a.x0, b.x0)
            height = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert width <= 1 or height <= 1, (picture.name, one.get_text(), other.get_text())


def hidden_tick(text: Text, picture: Picture) -> bool:
    """Whether a tick's label lies outside its axis' limits, where matplotlib does not draw it."""
    for axes in picture.figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if text in (tick.label1, tick.label2):
                    low, high = sorted(axis.get_view_interval())
                    return not low - 1e-9 <= tick.get_loc() <= high + 1e-9
    return False


def test_pictures_are_legible(drawn: dict[str, Picture]) -> None:
    assert set(drawn) == DRAWN
    for picture in drawn.values():
        assert_legible(picture)


def test_many_layers_and_anchors_stay_legible() -> None:
    layers = [*map(str, range(41)), "final"]
    anchors = [
        *(f"fraction:{i / 10:g}" for i in range(10)), *(f"before_marker-{k}" for k in (8, 4, 3, 2, 1)),
        "before_marker", "marker_end", "before_answer", "answer_last", "response_last",
    ]  # fmt: skip
    table = make_table(layers, anchors)
    source = theme.Source("/a/b/" + "long-name-" * 12, "org/" + "encoder-" * 12 + "x", 0, "b$x")
    words = {"methods": "95 % intervals", "place": "somewhere"}
    for by, at in (("layer", "before_marker"), ("anchor", "final")):
        frame = tables.profile(table, by=by, at=at, cells=profiles.PROFILE_CELLS)
        assert_legible(profiles.draw_profile(frame, source, by=by, name="profile", **words))
        frame = contrasts.contrast_profile(table, by=by, at=at)
        assert_legible(contrasts.draw_contrasts(frame, source, by=by, name="contrasts", **words))
    grid = heatmap.heat_grid(table)
    assert_legible(heatmap.draw_heatmap(grid, source, methods="95 % intervals"))


def test_one_place_without_intervals_is_drawn() -> None:
    table = make_table(["final"], ["before_marker"], intervals=False)
    frame = tables.profile(table, by="layer", at="before_marker", cells=("CC", "floor"))
    picture = profiles.draw_profile(
        frame, SOURCE, by="layer", place="here", methods="95 % intervals", name="one"
    )
    assert_legible(picture)
    footnote = picture.figure.texts[0].get_text()
    assert "no\xa0intervals" in footnote
    assert "95 %" not in footnote
    grid = heatmap.heat_grid(table, [("CC", "raw")])
    assert_legible(heatmap.draw_heatmap(grid, SOURCE, methods=""))


def test_without_wrong_rollouts_what_cannot_be_drawn_is_skipped_with_a_reason(
    tmp_path: Path,
) -> None:
    run = PlantedRun(tmp_path, make_rollouts(6, 4, wrong=False), ("final",), ("before_marker",))
    draw_figures(run, umap=False, formats=())  # type: ignore[arg-type]
    record = json.loads((tmp_path / "figures" / "figures.json").read_text())["pictures"]
    skipped = {name for name, entry in record.items() if "skipped" in entry}
    assert skipped == {"contrasts_by_layer", "contrasts_by_position", "embedding_problem"}
    assert "two wrong" in record["contrasts_by_layer"]["skipped"]
    for picture in pictures_of(run).values():
        assert_legible(picture)


def test_too_few_states_are_no_map(tmp_path: Path) -> None:
    run = PlantedRun(tmp_path, make_rollouts(2, 4), ("final",), ("before_marker",))
    draw_figures(run, umap=False, formats=())  # type: ignore[arg-type]
    record = json.loads((tmp_path / "figures" / "figures.json").read_text())["pictures"]
    assert "a map wants 10" in record["embedding_verdict"]["skipped"]


def test_several_benchmarks_have_a_folder_each(tmp_path: Path) -> None:
    rollouts = make_rollouts(benchmarks=("sums", "my$set"))
    run = PlantedRun(tmp_path, rollouts, ("final",), ("before_marker",))
    draw_figures(run, tmp_path / "out", umap=False, formats=())  # type: ignore[arg-type]
    folders = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert folders == ["my-set", "sums"]
    counts = pd.read_csv(tmp_path / "out" / "verdict_counts.csv")
    assert counts["n_rollouts"].sum() == len(rollouts)
    rates = pd.read_csv(tmp_path / "out" / "sums" / "pass_rate.csv")
    assert rates["n_problems"].sum() == 12
    for picture in pictures_of(run).values():
        assert_legible(picture)


def test_a_cell_has_one_colour_in_all_pictures() -> None:
    looks = [*theme.CELLS.values()]
    assert len({look.colour for look in looks}) == len(looks)
    assert len({look.marker for look in looks}) == len(looks)
    assert theme.cell_look("CC-II").colour == theme.CELLS["II"].colour
    assert theme.VERDICTS["wrong"].colour == theme.CELLS["II"].colour == theme.ROLLOUTS["I"].colour
    assert theme.VERDICTS["correct"].colour == theme.CELLS["CC"].colour


def test_layer_ticks_name_final_and_never_crowd() -> None:
    for n in (1, 2, 12, 13, 28, 29, 36, 41, 64, 81, 128):
        places = [*map(str, range(n)), "final"]
        ticks = layer_ticks(places)
        assert ticks[-1] == n
        assert len(ticks) <= 13
        assert ticks == sorted(set(ticks))


# What is refused


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layer": "7"}, "layer '7': not stored in .*choose among 0, 1, 2, final"),
        ({"anchor": "think_end"}, "anchor 'think_end': not stored"),
        ({"formats": ("png", "svg")}, "format 'svg': not one of png, pdf"),
    ],
)
def test_what_does_not_exist_is_named(run: PlantedRun, wrong: dict, message: str) -> None:
    with pytest.raises(GeomrlError, match=message):
        draw_figures(run, umap=False, **wrong)  # type: ignore[arg-type]


def test_umap_is_asked_for_before_anything_is_drawn(
    run: PlantedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.delitem(sys.modules, "umap", raising=False)
    with pytest.raises(MissingExtra, match="geomrl\\[umap\\]"):
        draw_figures(run, tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_drawing_imports_neither_pyplot_nor_umap() -> None:
    code = (
        "import sys, geomrl.viz.figures; "
        "print([m for m in ('matplotlib.pyplot', 'umap', 'torch', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_umap_is_seeded_and_its_embedding_is_kept(run: PlantedRun, tmp_path: Path) -> None:
    pytest.importorskip("umap")
    rows, states = run.states("final", "before_marker")
    one, two = (embedding.embed(rows, states, seed=3, umap=True) for _ in range(2))
    pd.testing.assert_frame_equal(one.frame, two.frame)
    assert one.frame[["umap1", "umap2"]].notna().all(axis=None)
    for draw in (embedding.draw_by_verdict, embedding.draw_by_problem):
        picture = draw(one, SOURCE, place="final norm, before marker")
        assert_legible(picture)
        files = write_picture(picture, tmp_path, ("png",))
        assert {"umap1", "umap2"} <= set(pd.read_csv(files[0]).columns)
