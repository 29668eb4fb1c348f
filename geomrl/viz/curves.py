"""Panels of curves over training steps: the shape that all training pictures share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, ScalarFormatter
from matplotlib.transforms import ScaledTranslation

from geomrl.viz import theme
from geomrl.viz.picture import Picture

_COLUMNS = 3
_HEIGHT = 1.25  # inches of a panel
_ROW_INCH = _HEIGHT + 0.25 + 0.35 + 0.18  # with its title and its axis' name
_LEGEND_INCH = 0.145  # an entry
_LEGEND_BELOW = 0.34  # inches from an axis to its legend: room for ticks and the axis' name
_PAD = 0.09  # inches between rows, and above the footnote
_TINY = 1e-3  # values below it have their power of ten with each tick, not over the title
_MANY = 30  # points beyond which markers are clutter


@dataclass(frozen=True)
class Curve:
    """One metric: its name in the log and its look. The band is METRIC_low to METRIC_high."""

    metric: str
    look: theme.Look


@dataclass(frozen=True)
class Panel:
    """Curves that share a scale. `logarithmic` where they are positive and span decades."""

    title: str
    curves: tuple[Curve, ...]
    unit: str = ""
    logarithmic: bool = False


def curve_frame(metrics: pd.DataFrame, panels: Sequence[Panel]) -> pd.DataFrame:
    """Return what panels show: panel, metric, step, value, low, high; steps without a value left out.

    Args:
        metrics: one row a step, as `train.metrics_log.read_metrics` returns it.
        panels: what to show; metrics that the log lacks are left out.
    """
    parts = []
    for panel in panels:
        for curve in panel.curves:
            if curve.metric not in metrics:
                continue
            absent = pd.Series(np.nan, index=metrics.index)
            part = pd.DataFrame(
                {
                    "panel": panel.title,
                    "metric": curve.metric,
                    "step": metrics["step"],
                    "value": metrics[curve.metric],
                    "low": metrics.get(f"{curve.metric}_low", absent),
                    "high": metrics.get(f"{curve.metric}_high", absent),
                }
            )
            parts.append(part.dropna(subset="value"))
    columns = ["panel", "metric", "step", "value", "low", "high"]
    kept = [part for part in parts if len(part)]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=columns)


@theme.style()
def draw_curves(
    frame: pd.DataFrame, panels: Sequence[Panel], source: theme.Provenance, *notes: str, name: str
) -> Picture:
    """Draw `curve_frame`'s rows: a panel each, two or three in a row, bands for the intervals.

    Args:
        frame: at least one row.
        panels: in the order of drawing; those without a row are left out.
        source: for the footnote.
        notes: what else the footnote says.
        name: the files' stem.
    """
    shown = [panel for panel in panels if (frame["panel"] == panel.title).any()]
    columns = 2 if len(shown) == 4 else min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    width = theme.DOUBLE_COLUMN if columns > 1 else theme.SINGLE_COLUMN
    drawn = [_drawn(frame, panel) for panel in shown]
    entries = [max(map(len, drawn[i : i + columns])) for i in range(0, len(drawn), columns)]
    legends = _LEGEND_INCH * sum(n for n in entries if n > 1)
    figure = theme.new_figure(width, rows * _ROW_INCH + legends, source.footnote(*notes))
    engine: Any = figure.get_layout_engine()
    engine.set(h_pad=_PAD)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    last = float(frame["step"].max())
    for index, (panel, curves, part) in enumerate(
        zip(shown, drawn, axes[: len(shown)], strict=True)
    ):
        for curve in reversed(curves):  # the first one on top
            _draw(part, frame[frame["metric"] == curve.metric], curve.look)
        part.set_xlim(-0.02 * max(last, 1), 1.04 * max(last, 1))
        part.xaxis.set_major_locator(theme.whole_ticks())
        part.set_xlabel("Training step")
        part.set_ylabel(panel.unit)
        rows_here = frame[frame["panel"] == panel.title]
        _scale(part, rows_here["value"], logarithmic=panel.logarithmic)
        theme.panel_title(part, index, panel.title, letters=len(shown) > 1)
        if len(curves) > 1:
            _legend(part, curves)
    for part in axes[len(shown) :]:
        part.set_axis_off()
    return Picture(name, figure, frame)


def _drawn(frame: pd.DataFrame, panel: Panel) -> list[Curve]:
    rows = frame[frame["panel"] == panel.title]
    return [curve for curve in panel.curves if (rows["metric"] == curve.metric).any()]


def _draw(axes: Axes, rows: pd.DataFrame, look: theme.Look) -> None:
    x, value, low, high = (rows[c].to_numpy(float) for c in ("step", "value", "low", "high"))
    if np.isfinite(low).any():
        axes.fill_between(x, low, high, color=look.colour, alpha=0.18, linewidth=0)
    axes.plot(x, value, color=look.colour, marker=look.marker if len(x) <= _MANY else None)


def _scale(axes: Axes, values: pd.Series, *, logarithmic: bool) -> None:
    """Set the vertical axis: round ticks in plain numbers, and no negative room below all zeros."""
    positive = values[values > 0]
    if logarithmic and len(positive):
        axes.set_yscale("log")
        decades = np.log10(positive.max() / positive.min())
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 3 else (1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(theme.few_ticks())
        axes.margins(y=0.08)
        if len(values) and (values == 0).all():
            axes.set_ylim(-0.004, 0.1)
    if logarithmic or 0 < values.abs().max() < _TINY:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}".replace("-", "−")))
    else:
        axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))


def _legend(axes: Axes, curves: Sequence[Curve]) -> None:
    """Name a panel's curves below it, where no curve is hidden."""
    handles = [
        Line2D([], [], color=c.look.colour, marker=c.look.marker, label=c.look.label)
        for c in curves
    ]
    figure = axes.get_figure(root=True)
    assert figure is not None
    below = ScaledTranslation(-0.05, -_LEGEND_BELOW, figure.dpi_scale_trans)
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0, 0),
        bbox_transform=axes.transAxes + below,
    )  # fmt: skip
