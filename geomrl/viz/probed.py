"""`geomrl figures`: draw every picture of a probed run, each with the table behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geomrl.errors import GeomrlError
from geomrl.files import load_user_code, safe_name, user_code_hashes, write_json
from geomrl.progress import Progress
from geomrl.runs.layout import SUMMARY, USER_CODE
from geomrl.viz import (
    contrasts,
    distributions,
    embedding,
    heatmap,
    outcomes,
    profiles,
    spectra,
    theme,
)
from geomrl.viz.picture import FORMATS, Picture, Skipped, check_formats, write_picture
from geomrl.viz.scene import Make, Scene
from geomrl.viz.tables import one_source

if TYPE_CHECKING:
    from geomrl.runs.run import Run

N_BOOT = 2000  # of a run without a summary

FIGURES: tuple[Make, ...] = (
    outcomes.make_pass_rate,
    distributions.make,
    profiles.make_by_layer,
    profiles.make_by_position,
    contrasts.make_by_layer,
    contrasts.make_by_position,
    spectra.make,
    heatmap.make,
    embedding.make_by_verdict,
    embedding.make_by_problem,
)
"""All figures of one benchmark, in the order in which they are drawn."""


def draw_figures(
    run: Run,
    out: Path | None = None,
    *,
    layer: str = "final",
    anchor: str = "before_marker",
    seed: int = 0,
    umap: bool = True,
    figures: Sequence[str] = (),
    formats: Sequence[str] = FORMATS,
    progress: Progress | None = None,
) -> list[Path]:
    """Draw a run's pictures and return the files written, `figures.json` last.

    Every picture NAME is NAME.csv (exactly what is plotted), NAME.png (300 dpi) and NAME.pdf, in
    `out`; a run of several benchmarks has a folder a benchmark in it. `figures.json` contains the
    settings, and for each picture its files or why it was left out. Equal runs and seeds give
    equal files.

    Args:
        run: a probed run with its similarity table.
        out: the folder to write in; RUN/figures by default.
        layer: the layer of the distributions, the maps and the profiles by position.
        anchor: the anchor of the distributions, the maps and the profiles by layer.
        seed: for the draw of pairs, of points and for UMAP.
        umap: whether to draw UMAP beside PCA; its first import takes about a minute.
        figures: figures of your own beside them, each as FILE.py:FUNCTION, a function from a
            `geomrl.viz.scene.Scene` to a `Picture` or `Skipped`. `figures.json` records the files'
            hashes.
        formats: any of "png" and "pdf".
        progress: called with the number of pictures done and of all.

    Raises:
        GeomrlError: a layer, anchor or format that does not exist, a table of several encoders, or a
            figure of yours that is not there, gives no picture, or takes another's name.
        MissingExtra: `umap` is wanted and umap-learn is not installed.
    """
    check_formats(formats)
    out = Path(out) if out is not None else Path(run.path) / "figures"
    total = 1 + run.similarity["benchmark"].nunique() * (len(FIGURES) + len(figures))
    written: list[Path] = []
    pictures: dict[str, dict[str, object]] = {}
    for folder, outcome in make_pictures(
        run, layer=layer, anchor=anchor, seed=seed, umap=umap, figures=figures
    ):
        key = (Path(folder) / outcome.name).as_posix()
        if key in pictures:
            raise GeomrlError(f"figure '{key}': two have this name; give yours another one")
        if isinstance(outcome, Skipped):
            pictures[key] = {"skipped": outcome.reason}
        else:
            files = write_picture(outcome, out / folder, formats)
            pictures[key] = {"files": [file.relative_to(out).as_posix() for file in files]}
            written += files
        if progress is not None:
            progress(len(pictures), total)
    record: dict[str, Any] = {
        "settings": {"layer": layer, "anchor": anchor, "seed": seed, "umap": umap},
        "pictures": pictures,
    }
    if figures:
        record[USER_CODE] = user_code_hashes(figures)
    write_json(out / "figures.json", record)
    return [*written, out / "figures.json"]


def make_pictures(
    run: Run,
    *,
    layer: str = "final",
    anchor: str = "before_marker",
    seed: int = 0,
    umap: bool = True,
    figures: Sequence[str] = (),
) -> Iterator[tuple[str, Picture | Skipped]]:
    """Yield every picture of a run, one at a time, with the folder that it belongs in.

    The folder is "" for what concerns the whole run, and for all pictures of a run of one
    benchmark; else it is the benchmark's name. Arguments and errors are those of `draw_figures`.
    """
    drawn_from = scenes(run, layer=layer, anchor=anchor, seed=seed, umap=umap)
    if umap:
        embedding.require_umap()
    makes = (*FIGURES, *map(_own_figure, figures))
    yield "", outcomes.make_verdict_counts(run)
    for folder, scene in drawn_from:
        for make in makes:
            yield folder, make(scene)


def scenes(
    run: Run,
    *,
    layer: str = "final",
    anchor: str = "before_marker",
    seed: int = 0,
    umap: bool = True,
) -> Iterator[tuple[str, Scene]]:
    """Return what the pictures of each benchmark are drawn from, with the folder that they belong in.

    The folder is "" where a run has one benchmark; else it is the benchmark's name. Arguments are
    those of `draw_figures`.

    Raises:
        GeomrlError: a layer or anchor that does not exist, or a table of several encoders.
    """
    for value, known, option in ((layer, run.layers, "layer"), (anchor, run.anchors, "anchor")):
        if value not in known:
            raise GeomrlError(
                f"{option} {value!r}: not stored in {run.path}; choose among {', '.join(known)}"
            )
    benchmarks = run.similarity["benchmark"].astype(str).unique().tolist()
    return (
        (
            safe_name(benchmark) if len(benchmarks) > 1 else "",
            _scene(run, benchmark, layer=layer, anchor=anchor, seed=seed, umap=umap),
        )
        for benchmark in benchmarks
    )


def _own_figure(spec: str) -> Make:
    """Return a figure of the user's, which is drawn in geomrl's style and gives what one must give."""
    make = load_user_code(spec, "a figure")
    if not callable(make):
        raise GeomrlError(
            f"{spec}: not a function; a figure is a function from a scene to a picture"
        )

    def checked(scene: Scene) -> Picture | Skipped:
        with theme.style():
            outcome = make(scene)
        if not isinstance(outcome, Picture | Skipped):
            raise GeomrlError(
                f"{spec}: gave {type(outcome).__name__}; return geomrl.viz.picture's Picture, or "
                "Skipped with the reason"
            )
        if outcome.name != safe_name(outcome.name):
            raise GeomrlError(
                f"{spec}: '{outcome.name}' is no file's name; use letters, digits, '_', '-' and '.'"
            )
        return outcome

    return checked


def _scene(run: Run, benchmark: str, layer: str, anchor: str, seed: int, umap: bool) -> Scene:
    """Return what the pictures of one benchmark are drawn from."""
    table = one_source(run.similarity, benchmark)
    rows, states = run.states(layer, anchor)
    here = (rows["benchmark"] == benchmark).to_numpy()
    policy, encoder = (str(table[column].iloc[0]) for column in ("policy", "encoder"))
    return Scene(
        rollouts=run.rollouts[run.rollouts["benchmark"] == benchmark],
        table=table,
        rows=rows[here].reset_index(drop=True),
        states=states[here],
        source=theme.Provenance(policy, encoder, seed, benchmark),
        layer=layer,
        anchor=anchor,
        seed=seed,
        umap=umap,
        draws=_summary_draws(run, seed),
    )


def _summary_draws(run: Run, seed: int) -> dict[str, int]:
    """Return seed and draws of the summary's intervals, so that a picture shows the same figure."""
    if not (Path(run.path) / SUMMARY).exists():
        return {"seed": seed, "n_boot": N_BOOT}
    return {name: int(run.summary[name]) for name in ("seed", "n_boot")}
