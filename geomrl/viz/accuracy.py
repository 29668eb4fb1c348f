"""Accuracy of several models: pass@k and majority@k over k, and paired differences by benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from geomrl.evaluate.accuracy import AVERAGE
from geomrl.files import read_json, read_parquet
from geomrl.progress import Progress
from geomrl.runs.layout import ACCURACY, DIFFERENCES, SUMMARY
from geomrl.viz import theme
from geomrl.viz.picture import Picture, write_picture

_COLUMNS = 3
_ROW_INCH = 1.75
_MARKERS = "osD^vP<X>*"
_DASHES = ("-", "--", ":", "-.")
_LINE_INCH = 0.17  # a benchmark's row of one model


def draw_evaluation(
    folder: Path,
    out: Path | None = None,
    *,
    progress: Progress | None = None,
) -> list[Path]:
    """Draw an evaluation's pictures, PNG, PDF and CSV each, and return the files written.

    pass_curves and majority_curves (where there are two samples a problem), and differences (where
    there are two models); pass_at_1 where there is neither.

    Args:
        folder: of an evaluation.
        out: the folder to write in; FOLDER/figures by default.
        progress: called with the number of pictures done and of all.

    Raises:
        GeomrlError: the folder contains no evaluation.
    """
    folder = Path(folder)
    table, differences = (read_parquet(folder / name) for name in (ACCURACY, DIFFERENCES))
    seed = int(read_json(folder / SUMMARY)["seed"])
    pictures = []
    for measure in ("pass", "majority"):
        frame = curve_frame(table, measure)
        if frame["k"].nunique() > 1:
            pictures.append(draw_pass_curves(frame, seed=seed, name=f"{measure}_curves"))
    if len(differences):
        frame = difference_frame(differences)
        pictures.append(draw_differences(frame, seed=seed, name="differences"))
    if not pictures:  # one model, asked once
        pictures = [draw_pass_curves(curve_frame(table, "pass"), seed=seed, name="pass_at_1")]
    written = []
    for done, picture in enumerate(pictures, start=1):
        written += write_picture(picture, out or folder / "figures")
        if progress is not None:
            progress(done, len(pictures))
    return written


def curve_frame(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return a measure's values over k: benchmark, model, k, value, low, high, n_problems, n_samples.

    Args:
        table: `evaluate.accuracy.accuracy_table`'s rows, of any number of models.
        measure: "pass" or "majority"; the latter begins at k = 1 with pass@1, which is the same.
    """
    rows = table[table["measure"] == measure]
    if measure != "pass":
        first = table[(table["measure"] == "pass") & (table["k"] == 1)]
        rows = pd.concat([first.assign(measure=measure), rows])
    columns = [
        *("measure", "benchmark", "model", "k", "value", "low", "high"),
        *("n_problems", "n_samples", "n_boot"),
    ]
    rows = rows[columns].assign(k=rows["k"].astype(int))
    order = {name: i for i, name in enumerate(_ordered(table["benchmark"]))}
    models = {name: i for i, name in enumerate(dict.fromkeys(table["model"]))}
    ranked = rows.assign(a=rows["benchmark"].map(order), b=rows["model"].map(models))
    return ranked.sort_values(["a", "b", "k"])[columns].reset_index(drop=True)


def difference_frame(table: pd.DataFrame) -> pd.DataFrame:
    """Return the differences that the picture shows: of pass@1, and pass@k at the largest k."""
    passes = table[table["measure"] == "pass"]
    # The largest k that every model shares with the reference.
    largest = int(passes.groupby("model")["k"].max().min())
    kept = passes[passes["k"].isin([1, largest])]
    columns = [
        *("benchmark", "model", "reference", "k", "value", "low", "high", "p", "p_holm"),
        *("detectable", "n_problems", "n_boot"),
    ]
    return kept[columns].assign(k=kept["k"].astype(int)).reset_index(drop=True)


@theme.style()
def draw_pass_curves(frame: pd.DataFrame, *, seed: int, name: str) -> Picture:
    """Draw `curve_frame`'s rows: a panel a benchmark, a line a model, a band for its interval.

    Args:
        frame: at least one row.
        seed: for the footnote.
        name: the files' stem.
    """
    benchmarks = list(dict.fromkeys(frame["benchmark"]))
    models = list(dict.fromkeys(frame["model"]))
    columns = 2 if len(benchmarks) == 4 else min(_COLUMNS, len(benchmarks))
    rows = -(-len(benchmarks) // columns)
    width = theme.SINGLE_COLUMN if columns == 1 else theme.DOUBLE_COLUMN
    handles = [_handle(model, i) for i, model in enumerate(models)]
    legend = 0.17 * len(handles) if columns == 1 else 0.2
    most = int(frame["n_samples"].max())
    asked = f"{most} samples a problem at most" if most > 1 else "one sample a problem"
    footnote = _footnote(frame, seed, asked)
    figure = theme.new_figure(width, rows * _ROW_INCH + legend, footnote)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    word = str(frame["measure"].iloc[0])
    for index, (benchmark, part) in enumerate(
        zip(benchmarks, axes[: len(benchmarks)], strict=True)
    ):
        here = frame[frame["benchmark"] == benchmark]
        for number, model in reversed(list(enumerate(models))):
            _curve(part, here[here["model"] == model], number)
        _k_axis(part, here["k"])
        part.set_xlabel("k")
        part.set_ylabel(f"{word}@k" if index % columns == 0 else "")
        _accuracy_axis(part, here)
        title = f"{benchmark} ({theme.span(here['n_problems'], 'problem')})"
        theme.panel_title(part, index, theme.plain(title), letters=len(benchmarks) > 1)
    for part in axes[len(benchmarks) :]:
        part.set_axis_off()
    theme.top_legend(figure, handles, width)
    return Picture(name, figure, frame)


@theme.style()
def draw_differences(frame: pd.DataFrame, *, seed: int, name: str) -> Picture:
    """Draw `difference_frame`'s rows: a panel a k, a row a benchmark, a point a model.

    A filled point is one whose p, corrected over benchmarks by Holm, is at most 5 % (the average's
    is one test, and not corrected); the grey tick beside it says what difference would have been
    found in 80 % of such evaluations.

    Args:
        frame: at least one row.
        seed: for the footnote.
        name: the files' stem.
    """
    benchmarks = _ordered(frame["benchmark"])
    models = list(dict.fromkeys(frame["model"]))
    ks = sorted(frame["k"].unique())
    reference = theme.shorten(str(frame["reference"].iloc[0]))
    footnote = _footnote(
        frame, seed, f"differences to {reference}", "filled: sign-flip p (Holm) at most .05",
        "grey: detectable at 80 % power",
    )  # fmt: skip
    width = theme.SINGLE_COLUMN if len(ks) == 1 else theme.DOUBLE_COLUMN
    height = 0.75 + _LINE_INCH * len(benchmarks) * (len(models) + 1) + 0.2
    figure = theme.new_figure(width, height, footnote)
    panels = figure.subplots(1, len(ks), squeeze=False, sharey=True).ravel()
    for index, (k, axes) in enumerate(zip(ks, panels, strict=True)):
        axes.axvline(0.0, color=theme.GREY, linewidth=0.6)
        for number, model in enumerate(models):
            for row in frame[(frame["k"] == k) & (frame["model"] == model)].to_dict("records"):
                place = benchmarks.index(row["benchmark"])
                _point(axes, row, place + (number + 1) / (len(models) + 1) - 0.5, number)
        axes.set_yticks(range(len(benchmarks)), [theme.plain(b) for b in benchmarks])
        axes.set_ylim(len(benchmarks) - 0.5, -0.5)
        axes.xaxis.set_major_locator(theme.few_ticks())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}".replace("-", "−")))
        axes.set_xlabel("Difference")
        theme.panel_title(axes, index, f"pass@{k}", letters=len(ks) > 1)
    theme.top_legend(figure, [_handle(model, i) for i, model in enumerate(models)], width)
    return Picture(name, figure, frame)


def _ordered(benchmarks: pd.Series) -> list[str]:
    """Return the benchmarks without repeats, the average last."""
    return sorted(dict.fromkeys(map(str, benchmarks)), key=lambda name: name == AVERAGE)


def _look(number: int) -> tuple[str, str, Any]:
    """Return a model's colour, marker and dashes."""
    colours = theme.PROBLEM_COLOURS
    return (
        colours[number % len(colours)],
        _MARKERS[number % len(_MARKERS)],
        _DASHES[number % len(_DASHES)],
    )


def _handle(model: str, number: int) -> Line2D:
    colour, marker, dashes = _look(number)
    label = theme.plain(theme.shorten(model))
    return Line2D([], [], color=colour, marker=marker, linestyle=dashes, label=label)


def _curve(axes: Axes, rows: pd.DataFrame, number: int) -> None:
    colour, marker, dashes = _look(number)
    k, value, low, high = (rows[c].to_numpy(float) for c in ("k", "value", "low", "high"))
    if len(k) == 1 and np.isfinite(low).all():
        axes.vlines(k, low, high, color=colour)
    elif np.isfinite(low).any():
        axes.fill_between(k, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(k, value, color=colour, marker=marker, linestyle=dashes)


def _k_axis(axes: Axes, ks: pd.Series) -> None:
    """Scale k by doublings, and name the powers of two."""
    axes.set_xscale("log", base=2)
    powers = [k for k in sorted(set(ks)) if k & (k - 1) == 0]
    axes.xaxis.set_major_locator(FixedLocator(powers))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _accuracy_axis(axes: Axes, rows: pd.DataFrame) -> None:
    """Scale the vertical axis to the intervals, over a tenth at least and never far beyond 0 or 1."""
    low = float(np.nanmin(rows[["value", "low"]].to_numpy(float)))
    high = float(np.nanmax(rows[["value", "high"]].to_numpy(float)))
    pad = 0.08 * (high - low) + max(0.0, 0.1 - (high - low)) / 2
    axes.set_ylim(max(low - pad, -0.02), min(high + pad, 1.02))
    axes.yaxis.set_major_locator(theme.few_ticks())


def _point(axes: Axes, row: dict[str, float], y: float, number: int) -> None:
    colour, marker, _ = _look(number)
    p = row["p"] if pd.isna(row["p_holm"]) else row["p_holm"]
    if np.isfinite(row["low"]):
        axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.0)
    if np.isfinite(row["detectable"]):
        reach = row["detectable"]
        axes.plot([-reach, reach], [y, y], "|", color=theme.GREY, markersize=4, zorder=1)
    axes.plot(
        [row["value"]], [y], marker, color=colour, markerfacecolor=colour if p <= 0.05 else "white"
    )


def _footnote(frame: pd.DataFrame, seed: int, *notes: str) -> str:
    """Return the words below a picture: n, intervals, seed."""
    own: Sequence[str] = [n.replace(" ", "\u00a0") if len(n) <= 30 else n for n in notes]
    draws = int(frame["n_boot"].max())
    methods = "no intervals"
    if draws:
        methods = f"95 % intervals by problem ({draws:,} bootstrap draws)"
    problems = frame[frame["benchmark"] != AVERAGE]["n_problems"]
    return "; ".join([f"n = {theme.span(problems, 'problem')}", *own, methods, f"seed {seed}"])
