"""The paper's four ablation pictures, each with the negative controls beside the levels."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from geomrl.ablate.ablation import Ablation
from geomrl.ablate.grid import BASELINE, CONTROL, DEFAULT, FACTORS
from geomrl.ablate.table import PRIMARY
from geomrl.files import write_json
from geomrl.progress import Progress
from geomrl.train.losses import loss_label
from geomrl.viz import theme
from geomrl.viz.picture import FORMATS, Picture, check_formats, write_picture
from geomrl.viz.tables import anchor_label, layer_words

_HEIGHT = 1.15  # inches of a panel
_NAMES_INCH = 0.95
_LEGEND_INCH = 0.45
_GAP = 0.6  # between the levels and the controls
_STEP = 0.2  # between metrics of one level
_TITLES = {"loss": "Loss", "anchor": "Anchor", "layer": "Layer", "weight": "Weight"}
_CONTROL_WORDS = {
    "wrong": "wrong rollouts",
    "shuffled_correct": "shuffled correctness",
    "shuffled_groups": "shuffled groups",
    "random_position": "random position",
}
_COLUMNS = [
    *("factor", "level", "arm", "panel", "metric", "seed", "difference", "low", "high"),
    *("p_holm", "n_seeds", "n_comparisons", "detectable_corrected"),
]
_ACCURACY, _COSINE, _RANK = "Accuracy", "Cosine", "Effective rank"


def draw_ablation(
    ablation: Ablation,
    out: Path | None = None,
    *,
    formats: Sequence[str] = FORMATS,
    progress: Progress | None = None,
) -> list[Path]:
    """Draw an ablation's pictures and return the files written, `figures.json` last.

    A picture for each factor with two levels or more: ablation_loss, ablation_anchor,
    ablation_layer, ablation_weight. `figures.json` says which have none and why.

    Args:
        ablation: what `geomrl ablate` found.
        out: the folder to write in; RUN/figures by default.
        formats: any of "png" and "pdf".
        progress: called with the number of pictures done and of all.

    Raises:
        GeomrlError: an unknown format.
    """
    check_formats(formats)
    out = Path(out) if out is not None else ablation.path / "figures"
    written: list[Path] = []
    record: dict[str, dict[str, object]] = {}
    source = theme.Provenance(ablation.policy, ablation.policy)
    for factor in FACTORS:
        name, frame = f"ablation_{factor}", factor_frame(ablation, factor)
        if frame.empty:
            record[name] = {"skipped": f"no arm varies the {factor}"}
        else:
            files = write_picture(draw_factor(frame, factor, source, ablation.place), out, formats)
            record[name] = {"files": [file.name for file in files]}
            written += files
        if progress is not None:
            progress(len(record), len(FACTORS))
    write_json(out / "figures.json", {"settings": {}, "pictures": record})
    return [*written, out / "figures.json"]


def _series(place: str | None, metrics: Sequence[str]) -> dict[str, tuple[str, theme.Look]]:
    """Return metric -> its panel and look: pass@1 and the largest pass@k, cosines, rank."""
    ks = [int(m.removeprefix("eval/pass@")) for m in metrics if m.startswith("eval/pass@")]
    largest = f"eval/pass@{max(ks, default=1)}"
    wanted = {PRIMARY: (_ACCURACY, theme.Look("#0072B2", "o", "pass@1"))}
    if largest != PRIMARY:
        label = largest.removeprefix("eval/")
        wanted[largest] = (_ACCURACY, theme.Look("#009E73", "s", label))
    cosines = {
        "CC": theme.Look(theme.CELL_LOOKS["CC"].colour, "o", "CC: correct–correct, raw"),
        "floor": theme.CELL_LOOKS["floor"],
        "CC_centred": theme.Look("#56B4E9", "v", "CC, centred"),
    }
    for cell, look in cosines.items():
        wanted[f"eval/{place}/{cell}"] = (_COSINE, look)
    wanted[f"eval/{place}/effective_rank"] = (_RANK, theme.Look("#0072B2", "o", "effective rank"))
    return {metric: found for metric, found in wanted.items() if metric in set(metrics)}


def factor_frame(ablation: Ablation, factor: str) -> pd.DataFrame:
    """Return what one picture shows: the factor's levels, then the controls, against weight 0.

    One row a level and metric with its mean difference and interval (`seed` NaN), and one a seed
    with that seed's difference. Empty where fewer than two levels were trained. Weight 0 is the
    reference itself and has no row.
    """
    levels = ablation.levels[ablation.levels["factor"] == factor]
    empty = pd.DataFrame(columns=_COLUMNS)
    if len(levels) < 2:
        return empty
    controls = ablation.levels[ablation.levels["factor"] == CONTROL]
    table = ablation.table[ablation.table["reference"] == BASELINE].set_index(["metric", "arm"])
    series = _series(ablation.place, ablation.results["metric"].unique().tolist())
    rows: list[dict[Hashable, Any]] = []
    for level in pd.concat([levels, controls]).to_dict("records"):
        for metric, (panel, _) in series.items():
            if (metric, level["arm"]) not in table.index:
                continue
            known: dict[Hashable, Any] = {**level, "panel": panel, "metric": metric}
            mean = table.loc[(metric, level["arm"])].to_dict()
            rows.append({**known, "seed": np.nan, **{c: mean[c] for c in _COLUMNS if c in mean}})
            by_seed = _by_seed(ablation.results, metric, level["arm"])
            rows += [{**known, "seed": s, "difference": d} for s, d in by_seed.items()]
    return pd.DataFrame(rows, columns=_COLUMNS) if rows else empty


def _by_seed(results: pd.DataFrame, metric: str, arm: str) -> dict[Hashable, float]:
    rows = results[results["metric"] == metric]
    values = rows[rows["arm"] == arm].set_index("seed")["value"]
    reference = rows[rows["arm"] == BASELINE].set_index("seed")["value"]
    return (values - reference).dropna().sort_index().to_dict()


@theme.style()
def draw_factor(
    frame: pd.DataFrame, factor: str, source: theme.Provenance, place: str | None
) -> Picture:
    """Draw `factor_frame`'s rows: accuracy, cosines and effective rank, one panel over the other.

    Large markers are means with 95 % t intervals over seeds, small ones single seeds; filled where
    Holm's p is below 0.05. The grey ground contains the negative controls.

    Args:
        frame: at least one row.
        factor: what is varied.
        source: for the footnote.
        place: "ANCHOR/LAYER" of the geometry.
    """
    panels = list(dict.fromkeys(frame["panel"]))
    shown = frame.drop_duplicates(["factor", "level"])[["factor", "level", "arm"]]
    at = _positions(shown["factor"].tolist())
    means = frame[frame["seed"].isna()]
    notes = [
        *([_place_words(place)] if place else []),
        f"n = {theme.span(means['n_seeds'], 'seed')}, paired",
        "95 % t intervals over seeds, pointwise",
        f"filled: Holm's p < 0.05 over {int(means['n_comparisons'].max())} comparisons",
    ]
    if means.loc[means["metric"] == PRIMARY, "detectable_corrected"].notna().any():
        notes.append(
            "dashed: smallest difference in pass@1 found with 80 % power among these comparisons"
        )
    height = _LEGEND_INCH + len(panels) * (_HEIGHT + 0.2) + _NAMES_INCH
    figure = theme.new_figure(theme.DOUBLE_COLUMN, height, source.footnote(*notes))
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    looks = {m: look for m, (_, look) in _series(place, frame["metric"].tolist()).items()}
    x = dict(zip(zip(shown["factor"], shown["level"], strict=True), at, strict=True))
    for index, (panel, part) in enumerate(zip(panels, axes, strict=True)):
        rows = frame[frame["panel"] == panel]
        _draw_panel(part, rows, x, looks)
        first_control = [p for f, p in zip(shown["factor"], at, strict=True) if f == CONTROL]
        part.set_xlim(at[0] - 0.6, at[-1] + 0.6)
        if first_control:
            part.axvspan(first_control[0] - 0.6, at[-1] + 0.6, color=theme.PALE, alpha=0.4, lw=0)
        part.set_ylabel("Difference to\nweight 0")
        part.yaxis.set_major_locator(theme.few_ticks())
        theme.panel_title(part, index, panel, letters=len(panels) > 1)
        part.set_xticks(at, [_words(*row) for row in shown.itertuples(index=False)])
        part.tick_params(axis="x", labelbottom=index == len(panels) - 1)
    for label in axes[-1].get_xticklabels():
        label.set(rotation=40, ha="right", rotation_mode="anchor")
    theme.top_legend(figure, _handles(looks, shown), figure.get_figwidth())
    return Picture(f"ablation_{factor}", figure, frame)


def _draw_panel(
    axes: Axes,
    rows: pd.DataFrame,
    at: dict[tuple[str, str], float],
    looks: dict[str, theme.Look],
) -> None:
    axes.axhline(0, color=theme.INK, linewidth=0.6)
    metrics = list(dict.fromkeys(rows["metric"]))
    if PRIMARY in metrics:
        seen = rows[(rows["metric"] == PRIMARY) & rows["seed"].isna()]["detectable_corrected"]
        for bound in (-seen.median(), seen.median()):
            axes.axhline(bound, color=theme.GREY, linewidth=0.6, linestyle=(0, (4, 3)))
    for number, metric in enumerate(metrics):
        look, shift = looks[metric], _STEP * (number - (len(metrics) - 1) / 2)
        for row in rows[rows["metric"] == metric].to_dict("records"):
            x = at[row["factor"], row["level"]] + shift
            if row["seed"] == row["seed"]:
                axes.plot(x + 0.07, row["difference"], ".", color=look.colour, ms=2, alpha=0.6)
                continue
            axes.vlines(x, row["low"], row["high"], color=look.colour, linewidth=1.0)
            face = look.colour if row["p_holm"] < 0.05 else "white"
            axes.plot(x, row["difference"], look.marker, color=look.colour, markerfacecolor=face)
    axes.margins(y=0.08)


def _positions(factors: Sequence[str]) -> list[float]:
    """Return a coordinate a level; the controls stand apart."""
    return [i + (_GAP if factor == CONTROL else 0.0) for i, factor in enumerate(factors)]


def _words(factor: str, level: str, arm: str) -> str:
    """Return a level's name for the axis.

    >>> _words("layer", "1+final", "x"), _words("weight", "0.1", "default"), _words("weight", "-1", "")
    ('layer 1 + final norm', '0.1 (default)', '-1 (apart)')
    """
    match factor:
        case "anchor":
            words = anchor_label(level)
        case "layer":
            words = " + ".join(layer_words(layer) for layer in level.split("+"))
        case "control":
            words = _CONTROL_WORDS[level]
        case "loss":
            words = loss_label(level)
        case _:
            words = f"{level} (apart)" if level.startswith("-") else level
    return f"{words} (default)" if arm == DEFAULT else words


def _place_words(place: str) -> str:
    anchor, layer = place.rsplit("/", 1)
    return f"geometry at {layer_words(layer)}, {anchor_label(anchor)}, held out"


def _handles(looks: dict[str, theme.Look], shown: pd.DataFrame) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=k.colour, marker=k.marker, linestyle="none", label=k.label)
        for metric, k in looks.items()
        if not metric.endswith("/effective_rank")
    ]
    if (shown["factor"] == CONTROL).any():
        handles.append(Patch(color=theme.PALE, alpha=0.4, lw=0, label="negative controls"))
    return handles
