"""Alignment or collapse, per loss variant and weight: what moved together?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from geomrl.ablate.ablation import read_ablation
from geomrl.ablate.collapse import BEYOND, judged_movements, movements
from geomrl.ablate.grid import BASELINE, CONTROL, DEFAULT
from geomrl.errors import GeomrlError
from geomrl.reproduce import Analysis, Finding
from geomrl.reproduce.ablations import arm_words, measure_words
from geomrl.reproduce.finding import interval
from geomrl.viz import theme
from geomrl.viz.picture import Picture

_PANELS = {
    "CC": "Change of CC",
    "CC_centred": "Change of CC, centred",
    "effective_rank": "Change of effective rank",
}
_ACROSS = "floor"
_HEIGHT = 1.9  # inches of a panel
_LEGEND_INCH = 0.6
_MARKERS = "osD^vP<>X*hp"
CONTROLS = "negative controls"
"""The series of all negative controls."""
COLUMNS = ["series", "arm", "measure", "difference", "low", "high"]


def collapse(ablation: Path) -> Finding:
    """Return for each loss and weight whether correct rollouts moved together, or all states.

    Raises:
        GeomrlError: the folder contains no ablation, its trainings evaluated no geometry, or it
            varies neither the loss nor the weight.
    """
    found = read_ablation(ablation)
    levels = found.levels
    series = {DEFAULT: "default"}
    for factor in ("loss", "weight"):
        for row in levels[levels["factor"] == factor].to_dict("records"):
            level, known = f"{factor} {row['level'].replace('_', ' ')}", series.get(row["arm"])
            if row["arm"] != BASELINE:
                series[row["arm"]] = f"{known}, {level}" if known else level
    if len(series) < 2:
        raise GeomrlError(f"{ablation}: no arm of this ablation varies the loss or the weight")
    series |= dict.fromkeys(levels.loc[levels["factor"] == CONTROL, "arm"], CONTROLS)
    table = movements(found)
    table = table[table["arm"].isin(list(series))].reset_index(drop=True)
    table.insert(0, "series", table["arm"].map(series))
    words = judged_movements(found)
    words = words[words["arm"].isin(list(series))].reset_index(drop=True)
    says = [_summary(table, words, series)]
    says += [_arm(arm, table, words, series) for arm in series]
    says.append(
        f"Changes against weight 0, paired over {theme.span(table['n_seeds'], 'seed')}, pointwise 95 "
        "% t intervals over seeds; words by these intervals, so that of 20 arms that change nothing "
        "one or two get a word by chance. 'Beyond the floor' is the change of CC minus that of the "
        "floor. The evaluated problems are the same throughout: nothing is said of others."
    )
    footnote = theme.Provenance(found.policy, found.policy).footnote(
        f"{found.place}, held out",
        "against weight 0",
        f"n = {theme.span(table['n_seeds'], 'seed')}, paired",
        "95 % t intervals over seeds, pointwise",
        "dashed: CC moves as the floor does",
    )
    picture = draw_movements(table, footnote, "collapse")
    return Finding(says, [picture], {"movements": table, "words": words}, shown=("words",))


def _summary(table: pd.DataFrame, words: pd.DataFrame, series: dict[str, str]) -> str:
    own = words[~words["arm"].map(series).eq(CONTROLS)]
    n = len(own)
    together = own[own["geometry"] == "all states move together"]
    aligned = own[own["geometry"] == "correct move together"]["arm"].tolist()
    beyond = own[own["beyond"] == "more than others"]["arm"].tolist()
    named = ", ".join(series[a] for a in aligned)
    head = (
        f"**Of {n} arms that vary the loss or its weight, {len(together)} move all states together "
        f"(the floor rises, the centred cosine of correct rollouts does not), and {len(aligned)} "
        f"raise{'s' * (len(aligned) == 1)} the centred cosine of correct rollouts"
        f"{f' ({named})' if aligned else ''}.**"
    )
    if aligned:
        beside = [
            f"{series[arm]}: floor {_cell(table, arm, 'floor')}, pass@1 {_cell(table, arm, 'pass@1')}"
            for arm in aligned
        ]
        head += f" There also changed: {'; '.join(beside)}."
    if not beyond:
        return f"{head} Null result: in none is CC shown to rise beyond the floor."
    parts = [f"{series[arm]} {_cell(table, arm, BEYOND)}" for arm in beyond]
    return f"{head} CC rises beyond the floor in: {', '.join(parts)}."


def _arm(arm: str, table: pd.DataFrame, words: pd.DataFrame, series: dict[str, str]) -> str:
    word = words.set_index("arm").loc[arm]
    name = f"{arm_words(arm)} (negative control)" if series[arm] == CONTROLS else series[arm]
    reading = "neither rises" if word["geometry"] == "-" else word["geometry"]
    shown = ("CC", "floor", BEYOND, "CC_centred", "effective_rank")
    cells = [f"{measure_words(measure)} {_cell(table, arm, measure)}" for measure in shown]
    return f"- {name}: **{reading}**; {'; '.join(cells)}."


def _cell(table: pd.DataFrame, arm: str, measure: str) -> str:
    row = table[(table["arm"] == arm) & (table["measure"] == measure)].iloc[0]
    return interval(row["difference"], row["low"], row["high"])


@theme.style()
def draw_movements(frame: pd.DataFrame, footnote: str, name: str) -> Picture:
    """Draw each arm's change of CC, centred CC and effective rank over its change of the floor.

    On the dashed diagonal correct rollouts moved as all states did.

    Args:
        frame: `COLUMNS`, with a row of "floor" and of the measures shown for each arm; `series` is
            the arm's words, and "negative controls" for all of those.
        footnote: all of it.
        name: the files' stem.
    """
    panels = [measure for measure in _PANELS if (frame["measure"] == measure).any()]
    series = [s for s in dict.fromkeys(frame["series"]) if s != CONTROLS]
    looks = {
        s: theme.Look(theme.PROBLEM_COLOURS[i % 12], _MARKERS[(i + i // 12) % 12], s)
        for i, s in enumerate(series)
    }
    looks[CONTROLS] = theme.Look(theme.GREY, "x", CONTROLS)
    figure = theme.new_figure(theme.DOUBLE_COLUMN, _HEIGHT + _LEGEND_INCH + 0.5, footnote)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    across = frame[frame["measure"] == _ACROSS].set_index("arm")
    for index, (measure, ax) in enumerate(zip(panels, axes, strict=True)):
        ax.axhline(0, color=theme.PALE, linewidth=0.6, zorder=0)
        ax.axvline(0, color=theme.PALE, linewidth=0.6, zorder=0)
        for row in frame[frame["measure"] == measure].to_dict("records"):
            _draw(ax, across.loc[row["arm"]], row, looks[row["series"]])
        if measure == "CC":
            _diagonal(ax)
        ax.set_xlabel("Change of the floor")
        ax.set_ylabel(_PANELS[measure])
        ax.xaxis.set_major_locator(theme.few_ticks())
        ax.yaxis.set_major_locator(theme.few_ticks())
        theme.panel_title(ax, index, "", letters=len(panels) > 1)
    shown = [looks[s] for s in dict.fromkeys(frame["series"])]
    handles = [
        Line2D([], [], color=k.colour, marker=k.marker, linestyle="none", label=k.label)
        for k in shown
    ]
    theme.top_legend(figure, handles, figure.get_figwidth())
    return Picture(name, figure, frame[COLUMNS])


def _draw(axes: Axes, across: pd.Series, row: dict, look: theme.Look) -> None:
    x, y = across["difference"], row["difference"]
    behind = 1.0 if look.label == CONTROLS else 2.0
    thin: dict[str, Any] = {"color": look.colour, "linewidth": 0.6, "alpha": 0.6, "zorder": behind}
    axes.hlines(y, across["low"], across["high"], **thin)
    axes.vlines(x, row["low"], row["high"], **thin)
    axes.plot(x, y, look.marker, color=look.colour, zorder=behind + 0.5)


def _diagonal(axes: Axes) -> None:
    ends = np.array([*axes.get_xlim(), *axes.get_ylim()])
    low, high = float(ends.min()), float(ends.max())
    axes.axline((low, low), (high, high), color=theme.GREY, linewidth=0.6, linestyle=(0, (4, 3)))


ANALYSIS = Analysis(
    question="Alignment or collapse? Correct rollouts against all states, by loss and weight",
    needs=("ablation",),
    answer=collapse,
    paper=["that losses and weights are ablated; its values are not public."],
    assumed=[
        "the losses and the weights, matched so that first gradients are equally long.",
        "floor, centred cosine and effective rank beside CC: the paper reports none of them.",
    ],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
