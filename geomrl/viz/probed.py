"""`geomrl figures`: draw every picture of a run, each with the table behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float

from geomrl.errors import GeomrlError
from geomrl.files import write_json
from geomrl.geometry.cells import pair_cosines
from geomrl.runs.layout import SUMMARY
from geomrl.stats.intervals import Interval, mean_interval
from geomrl.viz import (
    contrasts,
    distributions,
    embedding,
    heatmap,
    profiles,
    spectra,
    theme,
)
from geomrl.viz import (
    outcomes as verdicts,
)
from geomrl.viz.picture import FORMATS, Picture, check_formats, write_picture
from geomrl.viz.tables import Axis, anchor_label, one_source, profile

if TYPE_CHECKING:
    from geomrl.runs.run import Run

MOST_PAIRS = 50_000
N_BOOT = 2000  # of a run without a summary


@dataclass(frozen=True)
class Skipped:
    """A picture that this run's data do not allow, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class _Scene:
    """What the pictures are drawn from."""

    rollouts: pd.DataFrame
    table: pd.DataFrame
    rows: pd.DataFrame  # one a state: rollout_id, problem_id, verdict, answer_class, gold
    states: Float[np.ndarray, "rows d"]
    source: theme.Source
    layer: str
    anchor: str
    seed: int
    umap: bool
    draws: dict[str, int]  # seed and n_boot of the run's summary

    @property
    def place(self) -> str:
        """The layer and the anchor in words."""
        return f"{layer_words(self.layer)}, {anchor_label(self.anchor)}"

    @cached_property
    def embedding(self) -> embedding.Embedding:
        """The maps of the states, made once for both pictures."""
        return embedding.embed(self.rows, self.states, seed=self.seed, umap=self.umap)

    @property
    def methods(self) -> str:
        """How the intervals of the similarity table were made."""
        cosines = self.table[self.table["measure"] == "cosine"]
        return _methods(int(cosines["n_boot"].max()))


def _methods(draws: int) -> str:
    return f"95 % bootstrap-t intervals by problem ({draws:,} draws)"


def _methods_of(mean: Interval) -> str:
    if mean.n_boot:
        return _methods(mean.n_boot)
    if np.isfinite(mean.low):
        return "95 % Wilson interval by problem"
    return f"no interval: {mean.warning}"


def layer_words(layer: str) -> str:
    """Return a layer's name for a footnote.

    >>> layer_words("final"), layer_words("12")
    ('final norm', 'layer 12')
    """
    return "final norm" if layer == "final" else f"layer {layer}"


def draw_figures(
    run: Run,
    out: Path | None = None,
    *,
    layer: str = "final",
    anchor: str = "before_marker",
    seed: int = 0,
    umap: bool = True,
    formats: Sequence[str] = FORMATS,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Draw a run's pictures and return the files written, `figures.json` last.

    Every picture NAME is NAME.csv (exactly what is plotted), NAME.png (300 dpi) and NAME.pdf, in
    `out`; a run of several benchmarks has a folder a benchmark in it. `figures.json` holds the
    settings, and for each picture its files or why it was left out. Equal runs and seeds give
    equal files.

    Args:
        run: a probed run with its similarity table.
        out: the folder to write in; RUN/figures by default.
        layer: the layer of the distributions, the maps and the profiles by position.
        anchor: the anchor of the distributions, the maps and the profiles by layer.
        seed: for the draw of pairs, of points and for UMAP.
        umap: whether to draw UMAP beside PCA; its first import takes about a minute.
        formats: any of "png" and "pdf".
        progress: called with the number of pictures done and of all.

    Raises:
        GeomrlError: a layer, anchor or format that does not exist, or a table of several encoders.
        MissingExtra: `umap` is wanted and umap-learn is not installed.
    """
    check_formats(formats)
    out = Path(out) if out is not None else Path(run.path) / "figures"
    total = 1 + run.similarity["benchmark"].nunique() * len(_PICTURES)
    written: list[Path] = []
    record: dict[str, dict[str, object]] = {}
    for folder, outcome in make_pictures(run, layer=layer, anchor=anchor, seed=seed, umap=umap):
        key = (Path(folder) / outcome.name).as_posix()
        if isinstance(outcome, Skipped):
            record[key] = {"skipped": outcome.reason}
        else:
            files = write_picture(outcome, out / folder, formats)
            record[key] = {"files": [file.relative_to(out).as_posix() for file in files]}
            written += files
        if progress is not None:
            progress(len(record), total)
    settings = {"layer": layer, "anchor": anchor, "seed": seed, "umap": umap}
    write_json(out / "figures.json", {"settings": settings, "pictures": record})
    return [*written, out / "figures.json"]


def make_pictures(
    run: Run,
    *,
    layer: str = "final",
    anchor: str = "before_marker",
    seed: int = 0,
    umap: bool = True,
) -> Iterator[tuple[str, Picture | Skipped]]:
    """Yield every picture of a run, one at a time, with the folder that it belongs in.

    The folder is "" for what concerns the whole run, and for all pictures of a run of one
    benchmark; else it is the benchmark's name. Arguments and errors are those of `draw_figures`.
    """
    for value, known, option in ((layer, run.layers, "layer"), (anchor, run.anchors, "anchor")):
        if value not in known:
            raise GeomrlError(
                f"{option} {value!r}: not stored in {run.path}; choose among {', '.join(known)}"
            )
    if umap:
        embedding.require_umap()
    benchmarks = run.similarity["benchmark"].astype(str).unique().tolist()
    yield "", _verdict_counts(run)
    for benchmark in benchmarks:
        scene = _scene(run, benchmark, layer, anchor, seed, umap)
        for name, make in _PICTURES.items():
            yield _folder_name(benchmark) if len(benchmarks) > 1 else "", make(name, scene)


def _folder_name(benchmark: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in benchmark)


def _scene(run: Run, benchmark: str, layer: str, anchor: str, seed: int, umap: bool) -> _Scene:
    """Return what the pictures of one benchmark are drawn from."""
    table = one_source(run.similarity, benchmark)
    rows, states = run.states(layer, anchor)
    here = (rows["benchmark"] == benchmark).to_numpy()
    rollouts = run.rollouts[run.rollouts["benchmark"] == benchmark]
    policy, encoder = (str(table[column].iloc[0]) for column in ("policy", "encoder"))
    source = theme.Source(policy, encoder, seed, benchmark)
    return _Scene(
        rollouts, table, rows[here].reset_index(drop=True), states[here], source, layer, anchor,
        seed, umap, _summary_draws(run, seed),
    )  # fmt: skip


def _summary_draws(run: Run, seed: int) -> dict[str, int]:
    """Return seed and draws of the summary's intervals, so that a picture shows the same figure."""
    if not (Path(run.path) / SUMMARY).exists():
        return {"seed": seed, "n_boot": N_BOOT}
    return {name: int(run.summary[name]) for name in ("seed", "n_boot")}


def _pass_rate(name: str, scene: _Scene) -> Picture | Skipped:
    rates = verdicts.pass_rates(scene.rollouts)
    mean = mean_interval(  # label, seed and draws of the run's summary: one figure, not two
        rates["pass_rate"].to_numpy(),
        label=f"{scene.source.benchmark}/pass@1",
        bounds=(0.0, 1.0),
        **scene.draws,
    )
    histogram = verdicts.pass_rate_histogram(rates, mean)
    methods = _methods_of(mean)
    return verdicts.draw_pass_rates(histogram, rates, scene.source, methods=methods, name=name)


def _verdict_counts(run: Run) -> Picture:
    first = run.similarity.iloc[0]
    source = theme.Source(str(first["policy"]), str(first["encoder"]))
    return verdicts.draw_verdicts(verdicts.verdict_counts(run.rollouts), source)


def _distributions(name: str, scene: _Scene) -> Picture | Skipped:
    pairs = {
        space: pair_cosines(scene.states, scene.rows, space, MOST_PAIRS, scene.seed)
        for space in ("raw", "centred")
    }
    values = profile(
        scene.table[scene.table["layer"] == scene.layer],
        by="layer", at=scene.anchor, cells=distributions.DISTRIBUTION_CELLS,
    )  # fmt: skip
    histogram = distributions.cosine_histogram(pairs, values)
    if histogram.empty:
        return Skipped(name, f"no pair of graded rollouts has a state at {scene.place}")
    return distributions.draw_distributions(
        histogram, scene.source, place=scene.place, methods=scene.methods, name=name
    )


def _profile(by: Axis) -> Callable[[str, _Scene], Picture | Skipped]:
    def make(name: str, scene: _Scene) -> Picture | Skipped:
        at, place = _held(by, scene)
        frame = profile(scene.table, by=by, at=at, cells=profiles.PROFILE_CELLS)
        if frame.empty:
            return Skipped(name, f"the similarity table has no cosine at {place}")
        return profiles.draw_profile(
            frame, scene.source, by=by, place=place, methods=scene.methods, name=name
        )

    return make


def _contrasts(by: Axis) -> Callable[[str, _Scene], Picture | Skipped]:
    def make(name: str, scene: _Scene) -> Picture | Skipped:
        at, place = _held(by, scene)
        frame = contrasts.contrast_profile(scene.table, by=by, at=at)
        if not (frame["measure"] == "cosine").any():
            return Skipped(name, f"no problem at {place} has two correct and two wrong rollouts")
        return contrasts.draw_contrasts(
            frame, scene.source, by=by, place=place, methods=scene.methods, name=name
        )

    return make


def _held(by: Axis, scene: _Scene) -> tuple[str, str]:
    """Return what a picture along one axis holds: its name, and its words."""
    if by == "layer":
        return scene.anchor, anchor_label(scene.anchor)
    return scene.layer, layer_words(scene.layer)


def _spectra(name: str, scene: _Scene) -> Picture | Skipped:
    frame = spectra.spectrum_profile(scene.table, at=scene.anchor)
    if frame.empty:
        return Skipped(
            name, f"the similarity table has no spectrum at {anchor_label(scene.anchor)}"
        )
    return spectra.draw_spectra(frame, scene.source, place=anchor_label(scene.anchor), name=name)


def _heatmap(name: str, scene: _Scene) -> Picture | Skipped:
    grid = heatmap.heat_grid(scene.table)
    if grid.empty:
        return Skipped(name, "the similarity table has no cosine of correct rollouts")
    return heatmap.draw_heatmap(grid, scene.source, methods=scene.methods, name=name)


def _embedding_verdict(name: str, scene: _Scene) -> Picture | Skipped:
    if len(scene.states) < embedding.FEWEST_STATES:
        return Skipped(name, _too_few(scene))
    return embedding.draw_by_verdict(scene.embedding, scene.source, place=scene.place, name=name)


def _embedding_problem(name: str, scene: _Scene) -> Picture | Skipped:
    if len(scene.states) < embedding.FEWEST_STATES:
        return Skipped(name, _too_few(scene))
    if embedding.most_mixed(scene.embedding.frame).empty:
        return Skipped(name, f"no problem has two correct and two wrong rollouts at {scene.place}")
    return embedding.draw_by_problem(scene.embedding, scene.source, place=scene.place, name=name)


def _too_few(scene: _Scene) -> str:
    states = theme.count(len(scene.states), "state")
    return f"{states} at {scene.place}; a map wants {embedding.FEWEST_STATES} or more"


_PICTURES: dict[str, Callable[[str, _Scene], Picture | Skipped]] = {
    "pass_rate": _pass_rate,
    "cosine_distributions": _distributions,
    "cosine_by_layer": _profile("layer"),
    "cosine_by_position": _profile("anchor"),
    "contrasts_by_layer": _contrasts("layer"),
    "contrasts_by_position": _contrasts("anchor"),
    "spectra_by_layer": _spectra,
    "heatmap_layer_position": _heatmap,
    "embedding_verdict": _embedding_verdict,
    "embedding_problem": _embedding_problem,
}
