"""How hard the problems were and how the rollouts ended: the first thing to look at in a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geomrl.stats.intervals import Interval, mean_interval
from geomrl.viz import theme
from geomrl.viz.picture import Picture
from geomrl.viz.scene import Scene, bootstrap_words

if TYPE_CHECKING:
    from geomrl.runs.run import Run

_MOST_SAMPLES = 32  # up to so many samples a problem each possible pass rate has its own bar
_BINS = 20
_MIXED = "#009E73"  # no verdict's colour


def make_pass_rate(scene: Scene) -> Picture:
    """Draw the problems' pass rates, with the mean and interval of the run's summary."""
    rates = pass_rates(scene.rollouts)
    mean = mean_interval(  # label, seed and draws of the run's summary: one figure, not two
        rates["pass_rate"].to_numpy(),
        label=f"{scene.source.benchmark}/pass@1",
        bounds=(0.0, 1.0),
        **scene.draws,
    )
    histogram = pass_rate_histogram(rates, mean)
    return draw_pass_rates(histogram, rates, scene.source, methods=_methods(mean))


def _methods(mean: Interval) -> str:
    if mean.n_boot:
        return bootstrap_words(mean.n_boot)
    if np.isfinite(mean.low):
        return "95 % Wilson interval by problem"
    return f"no interval: {mean.warning}"


def make_verdict_counts(run: Run) -> Picture:
    """Draw how the rollouts of a whole run ended, by benchmark."""
    first = run.similarity.iloc[0]
    source = theme.Provenance(str(first["policy"]), str(first["encoder"]))
    return draw_verdicts(verdict_counts(run.rollouts), source)


def pass_rates(rollouts: pd.DataFrame) -> pd.DataFrame:
    """Return each problem's pass rate: benchmark, problem_id, n_samples, n_correct, pass_rate.

    Every rollout counts, so one with no answer or timed out is not correct.
    """
    correct = rollouts.assign(correct=rollouts["verdict"] == "correct")
    groups = correct.groupby(["benchmark", "problem_id"], sort=True)["correct"]
    rates = groups.agg(n_samples="size", n_correct="sum").reset_index()
    return rates.assign(pass_rate=rates["n_correct"] / rates["n_samples"])


def pass_rate_histogram(rates: pd.DataFrame, mean: Interval) -> pd.DataFrame:
    """Count problems by pass rate: low, high, n_problems, kind ("none", "mixed" or "all").

    The columns mean, mean_low and mean_high repeat `mean`, which the picture shows as well.

    Where all problems have the same number of samples (up to 32), each possible pass rate is a
    row and low == high. Else 20 bins of the mixed problems lie between the rows of the two
    extremes, which contain only problems solved never and always.

    Args:
        rates: `pass_rates`' table; not empty.
        mean: of the pass rates, with its interval over problems.
    """
    samples = rates["n_samples"].unique()
    if len(samples) == 1 and samples[0] <= _MOST_SAMPLES:
        n = int(samples[0])
        found = np.bincount(rates["n_correct"], minlength=n + 1)
        low = high = np.arange(n + 1) / n
    else:
        mixed = rates.loc[rates["pass_rate"].between(0, 1, inclusive="neither"), "pass_rate"]
        inner, edges = np.histogram(mixed, np.linspace(0, 1, _BINS + 1))
        ends = [(rates["pass_rate"] == end).sum() for end in (0, 1)]
        found = np.concatenate([[ends[0]], inner, [ends[1]]])
        low = np.concatenate([[0.0], edges[:-1], [1.0]])
        high = np.concatenate([[0.0], edges[1:], [1.0]])
    kind = ["none", *["mixed"] * (len(found) - 2), "all"]
    frame = pd.DataFrame({"low": low, "high": high, "n_problems": found, "kind": kind})
    return frame.assign(mean=mean.value, mean_low=mean.low, mean_high=mean.high)


@theme.style()
def draw_pass_rates(
    histogram: pd.DataFrame,
    rates: pd.DataFrame,
    source: theme.Provenance,
    *,
    methods: str,
    name: str = "pass_rate",
) -> Picture:
    """Draw how many problems have which pass rate; those never or always solved stand out in grey.

    Args:
        histogram: `pass_rate_histogram`'s table, which the picture shows.
        rates: `pass_rates`' table, for the numbers printed.
        source: for the footnote.
        methods: how the mean's interval was made, for the footnote.
        name: the files' stem.
    """
    problems, rollouts = len(rates), int(rates["n_samples"].sum())
    figure = theme.new_figure(
        theme.SINGLE_COLUMN,
        2.1,
        source.footnote(
            f"{theme.count(problems, 'problem')}, "
            f"{theme.span(rates['n_samples'], 'sample')} each ({rollouts:,} rollouts)",
            "green, solved in some samples but not all",
            methods,
        ),
    )
    axes = figure.subplots()
    step = 1 / (len(histogram) - 1)
    discrete = (histogram["low"] == histogram["high"]).all()
    centre = (histogram["low"] + histogram["high"]) / 2
    if not discrete:  # the extremes stand outside the bins of the mixed
        step = 1 / _BINS
        centre = centre.where(histogram["kind"] == "mixed", centre * (1 + 3 * step) - 1.5 * step)
    colours = histogram["kind"].map({"none": theme.GREY, "mixed": _MIXED, "all": theme.GREY})
    axes.bar(centre, histogram["n_problems"], width=0.84 * step, color=list(colours))
    mean, mean_low, mean_high = histogram[["mean", "mean_low", "mean_high"]].iloc[0]
    axes.axvspan(mean_low, mean_high, color=theme.PALE, linewidth=0, zorder=0.5)
    axes.axvline(mean, color=theme.INK, linewidth=0.9)
    axes.set_ylim(0, 1.35 * max(1, histogram["n_problems"].max()))
    right = mean < 0.6
    axes.annotate(
        f"pass@1 {mean:.3f}"
        + (f"\n({mean_low:.3f}–{mean_high:.3f})" if mean_low == mean_low else ""),
        (mean, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(4 if right else -4, -2),
        textcoords="offset points",
        ha="left" if right else "right",
        va="top",
    )
    by_kind = histogram.groupby("kind")["n_problems"].sum()
    axes.set_title(
        f"never solved {by_kind['none']:,}, mixed {by_kind['mixed']:,}, "
        f"always solved {by_kind['all']:,}"
    )
    axes.set_xlabel("Pass rate of a problem")
    axes.set_ylabel("Problems")
    axes.yaxis.set_major_locator(theme.whole_ticks())
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "0.25", "0.5", "0.75", "1"])
    return Picture(name, figure, histogram)


def verdict_counts(rollouts: pd.DataFrame) -> pd.DataFrame:
    """Count verdicts by benchmark: benchmark, verdict, n_rollouts, share; all four verdicts."""
    benchmarks = rollouts["benchmark"].drop_duplicates()
    every = pd.MultiIndex.from_product(
        [benchmarks, list(theme.VERDICTS)], names=["benchmark", "verdict"]
    )
    counts = rollouts.groupby(["benchmark", "verdict"]).size().reindex(every, fill_value=0)
    frame = counts.to_frame("n_rollouts").reset_index()
    total = frame.groupby("benchmark")["n_rollouts"].transform("sum")
    return frame.assign(share=frame["n_rollouts"] / total)


@theme.style()
def draw_verdicts(
    counts: pd.DataFrame, source: theme.Provenance, *, name: str = "verdict_counts"
) -> Picture:
    """Draw each benchmark's verdicts as a bar of shares; the legend contains their numbers.

    Args:
        counts: `verdict_counts`' table; not empty.
        source: for the footnote.
        name: the files' stem.
    """
    benchmarks = list(dict.fromkeys(counts["benchmark"]))
    totals = counts.groupby("verdict")["n_rollouts"].sum()
    rollouts = int(totals.sum())
    width = theme.DOUBLE_COLUMN if len(benchmarks) > 1 else theme.SINGLE_COLUMN + 1.0
    figure = theme.new_figure(
        width, 0.95 + 0.22 * len(benchmarks), source.footnote(theme.count(rollouts, "rollout"))
    )
    axes = figure.subplots()
    left = np.zeros(len(benchmarks))
    for verdict, look in theme.VERDICTS.items():
        share = counts.loc[counts["verdict"] == verdict, "share"].to_numpy(float)
        label = f"{look.label} {totals[verdict]:,} ({100 * totals[verdict] / rollouts:.1f} %)"
        axes.barh(
            range(len(benchmarks)), 100 * share, left=100 * left, height=0.66,
            color=look.colour, edgecolor="white", linewidth=0.6, label=label,
        )  # fmt: skip
        left += share
    sizes = counts.groupby("benchmark", sort=False)["n_rollouts"].sum()
    names = [theme.plain(f"{theme.shorten(b, 22)} ({sizes[b]:,})") for b in benchmarks]
    axes.set_yticks(range(len(benchmarks)), names)
    axes.set_ylim(len(benchmarks) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel("Share of rollouts (%)")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    theme.top_legend(figure, axes.get_legend_handles_labels()[0], width)
    return Picture(name, figure, counts)
