"""Pictures: their files, the data in them, and that nothing overlaps or is cut off."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from matplotlib import rcParams
from planted import (
    SOURCE,
    PlantedRun,
    assert_legible,
    make_rollouts,
    make_table,
    pictures_of,
)

from geomrl.errors import GeomrlError, MissingExtra
from geomrl.viz import contrasts, embedding, heatmap, profiles, tables, theme
from geomrl.viz.picture import Picture, write_picture
from geomrl.viz.probed import draw_figures

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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> PlantedRun:
    return PlantedRun(path=tmp_path_factory.mktemp("run"), rollouts=make_rollouts())


@pytest.fixture(scope="module")
def drawn(run: PlantedRun) -> dict[str, Picture]:
    """Every picture of the run, in memory."""
    return pictures_of(run)


def read_files(folder: Path, suffix: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob(f"*{suffix}"))}


@pytest.fixture(scope="module")
def written(run: PlantedRun) -> Path:
    """The folder that `draw_figures` wrote."""
    before, seen = dict(rcParams), []
    files = draw_figures(
        run,  # type: ignore[arg-type]
        umap=False,
        progress=lambda done, total: seen.append((done, total)),
    )
    out = run.path / "figures"
    assert dict(rcParams) == before
    assert seen == [(i + 1, len(DRAWN)) for i in range(len(DRAWN))]
    assert {path.stem for path in files} == DRAWN | {"figures"}
    assert sorted(files) == sorted(out.iterdir())  # and no temporary file is left
    return out


def test_every_picture_is_three_files(written: Path) -> None:
    for name in DRAWN:
        assert (written / f"{name}.csv").stat().st_size > 100
        assert (written / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        pdf = (written / f"{name}.pdf").read_bytes()
        assert b"/Type3" not in pdf  # Type 42, which editors can change
        assert b"CreationDate" not in pdf
    record = json.loads((written / "figures.json").read_text())["pictures"]
    assert record["pass_rate"]["files"] == ["pass_rate.csv", "pass_rate.png", "pass_rate.pdf"]
    assert not any("skipped" in entry for entry in record.values())


def test_the_csv_is_the_frame(written: Path, drawn: dict[str, Picture]) -> None:
    for name, picture in drawn.items():
        as_text = {column: str for column in ("layer", "rollout_id") if column in picture.data}
        found = pd.read_csv(written / f"{name}.csv", dtype=as_text)
        numbers = {c: float for c in ("shown_as", "p") if c in picture.data}
        pd.testing.assert_frame_equal(
            found, picture.data.astype(numbers), check_dtype=False, check_names=False, rtol=1e-5
        )


def test_a_second_run_writes_the_same_bytes(
    run: PlantedRun, written: Path, drawn: dict[str, Picture], tmp_path: Path
) -> None:
    draw_figures(run, tmp_path, umap=False, formats=())  # type: ignore[arg-type]
    assert read_files(tmp_path, ".csv") == read_files(written, ".csv")
    for name in ("cosine_by_layer", "embedding_problem"):
        for path in write_picture(drawn[name], tmp_path):
            assert path.read_bytes() == (written / path.name).read_bytes()


def test_pictures_are_legible(drawn: dict[str, Picture]) -> None:
    assert set(drawn) == DRAWN
    for picture in drawn.values():
        assert_legible(picture)


def test_many_layers_and_anchors_stay_legible() -> None:
    layers = [*map(str, range(41)), "final"]
    anchors = [
        *(f"fraction:{i / 10:g}" for i in range(10)),
        *(f"before_marker-{k}" for k in (8, 4, 3, 2, 1)),
        "before_marker", "marker_end", "before_answer", "answer_last", "response_last",
    ]  # fmt: skip
    table = make_table(layers, anchors)
    source = theme.Provenance("/a/b/" + "long-name-" * 12, "org/" + "encoder-" * 12 + "x", 0, "b$x")
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
    run = PlantedRun(
        path=tmp_path,
        rollouts=make_rollouts(6, 4, wrong=False),
        layers=("final",),
        anchors=("before_marker",),
    )
    draw_figures(run, umap=False, formats=())  # type: ignore[arg-type]
    record = json.loads((tmp_path / "figures" / "figures.json").read_text())["pictures"]
    skipped = {name for name, entry in record.items() if "skipped" in entry}
    assert skipped == {"contrasts_by_layer", "contrasts_by_position", "embedding_problem"}
    assert "two wrong" in record["contrasts_by_layer"]["skipped"]
    for picture in pictures_of(run).values():
        assert_legible(picture)


def test_too_few_states_are_no_map(tmp_path: Path) -> None:
    run = PlantedRun(
        path=tmp_path, rollouts=make_rollouts(2, 4), layers=("final",), anchors=("before_marker",)
    )
    draw_figures(run, umap=False, formats=())  # type: ignore[arg-type]
    record = json.loads((tmp_path / "figures" / "figures.json").read_text())["pictures"]
    assert "a map wants 10" in record["embedding_verdict"]["skipped"]


def test_several_benchmarks_have_a_folder_each(tmp_path: Path) -> None:
    rollouts = make_rollouts(12, benchmarks=("sums", "my$set"))
    run = PlantedRun(
        path=tmp_path, rollouts=rollouts, layers=("final",), anchors=("before_marker",)
    )
    draw_figures(run, tmp_path / "out", umap=False, formats=())  # type: ignore[arg-type]
    folders = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert folders == ["my-set", "sums"]
    counts = pd.read_csv(tmp_path / "out" / "verdict_counts.csv")
    assert counts["n_rollouts"].sum() == len(rollouts)
    rates = pd.read_csv(tmp_path / "out" / "sums" / "pass_rate.csv")
    assert rates["n_problems"].sum() == 6


def test_a_cell_has_one_colour_in_all_pictures() -> None:
    looks = [*theme.CELL_LOOKS.values()]
    assert len({look.colour for look in looks}) == len(looks)
    assert len({look.marker for look in looks}) == len(looks)
    assert theme.cell_look("CC-II").colour == theme.CELL_LOOKS["II"].colour
    assert (
        theme.VERDICTS["wrong"].colour
        == theme.CELL_LOOKS["II"].colour
        == theme.ROLLOUTS["I"].colour
    )
    assert theme.VERDICTS["correct"].colour == theme.CELL_LOOKS["CC"].colour


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
    said: list[str] = []
    assert not embedding.draws_umap(None, say=said.append)
    assert "geomrl[umap]" in said[0]
    with pytest.raises(MissingExtra, match="geomrl\\[umap\\]"):
        embedding.draws_umap(True, say=said.append)
    assert not embedding.draws_umap(False, say=said.append)


def test_umap_is_drawn_where_it_is_installed() -> None:
    assert all(embedding.draws_umap(asked, say=pytest.fail) for asked in (None, True))


def test_drawing_imports_neither_pyplot_nor_umap() -> None:
    code = (
        "import sys, geomrl.viz.probed; "
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
