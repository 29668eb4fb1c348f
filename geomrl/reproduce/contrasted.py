"""Two questions to an ablation: what negative controls do too, and what moved together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from geomrl.ablate.ablation import read_ablation
from geomrl.ablate.collapse import BEYOND, judged_movements, movements
from geomrl.ablate.control_tests import control_comparisons, shared_effects
from geomrl.ablate.grid import BASELINE, CONTROL, DEFAULT
from geomrl.errors import GeomrlError
from geomrl.reproduce.finding import Finding, interval, number
from geomrl.viz import theme
from geomrl.viz.forest import draw_forest
from geomrl.viz.movement import CONTROLS, draw_movement

_TITLES = {
    "pass@1": "pass@1", "CC": "CC", "floor": "Floor", "CC_centred": "CC, centred",
    "effective_rank": "Effective rank",
}  # fmt: skip


def controls_finding(folder: Path) -> Finding:
    """Return which effects of the default the negative controls share.

    Raises:
        GeomrlError: the folder holds no ablation, or it has no negative control.
    """
    ablation = read_ablation(folder)
    table = control_comparisons(ablation)
    shared = shared_effects(table)
    says = [_summary(table, shared)]
    says += [_measure(m, table, shared) for m in dict.fromkeys(table["measure"])]
    seeds = theme.span(table["n_seeds"], "seed")
    says.append(
        f"Paired over {seeds}, pointwise 95 % t intervals over seeds; 'told apart' is Holm's p < .05 "
        f"over the {int(table['n_comparisons'].max())} comparisons with weight 0 (the default and "
        "the controls), or over the controls for default against control, within each measure. The "
        "evaluated problems are the same throughout: nothing is said of others. Not told apart is "
        "not equal: the smallest true difference found with 80 % power stands with each measure."
    )
    footnote = theme.Source(ablation.policy, ablation.policy).footnote(
        f"geometry at {ablation.place}, held out", f"n = {seeds}, paired",
        "95 % t intervals over seeds, pointwise", "filled: Holm's p < 0.05 within the group",
    )  # fmt: skip
    picture = draw_forest(
        _forest(table), footnote, "controls", unit="Difference", beside=True
    )  # fmt: skip
    return Finding(says, [picture], {"comparisons": table, "shared": shared})


def _summary(table: pd.DataFrame, shared: pd.DataFrame) -> str:
    own = table[(table["arm"] == DEFAULT) & (table["reference"] == BASELINE)]
    told = own[own["p_holm"] < 0.05]["measure"].tolist()
    sharers = {
        m: [_name(r["control"]) for r in shared[shared["measure"] == m].to_dict("records")
            if r["shared"] == "yes"]
        for m in told
    }  # fmt: skip
    common = [n for n in sharers[told[0]] if all(n in s for s in sharers.values())] if told else []
    what = ", ".join(_in_words(m) for m in told)
    if not told:
        head = "**Null result: the default is told apart from weight 0 in none of the measures.**"
    elif common:
        head = f"**What the default does ({what}), these controls do too: {', '.join(common)}.**"
    else:
        each = [f"{_in_words(m)} by {', '.join(s) or 'none'}" for m, s in sharers.items()]
        head = f"**Effects of the default that controls share: {'; '.join(each)}.**"
    gaps = table[(table["arm"] == DEFAULT) & (table["reference"] != BASELINE)]
    apart = gaps[gaps["p_holm"] < 0.05].to_dict("records")
    if not apart:
        return f"{head} In no measure is the default told apart from any control."
    named = [f"{_in_words(r['measure'])} from {_name(r['reference'])}" for r in apart]
    return f"{head} The default is told apart from a control in: {', '.join(named)}."


def _measure(measure: str, table: pd.DataFrame, shared: pd.DataFrame) -> str:
    rows = table[table["measure"] == measure]
    own = rows[(rows["arm"] == DEFAULT) & (rows["reference"] == BASELINE)].iloc[0]
    change = interval(own["difference"], own["low"], own["high"])
    head = f"{_TITLES[measure]}: the default changes it by {change}"
    if not own["p_holm"] < 0.05:
        return (
            f"{head}: not told apart from weight 0 (detectable with 80 % power among these "
            f"comparisons: {number(own['detectable_corrected'])}), so there is no effect to share."
        )
    words = shared[shared["measure"] == measure]
    told = []
    for row in words.to_dict("records"):
        gap = rows[(rows["arm"] == DEFAULT) & (rows["reference"] == row["control"])].iloc[0]
        theirs = rows[(rows["arm"] == row["control"]) & (rows["reference"] == BASELINE)]
        value = number(theirs.iloc[0]["difference"]) if len(theirs) else "unknown"
        told.append(
            f"{_name(row['control'])} {row['shared']} (changes it by {value}; default minus control "
            f"{interval(gap['difference'], gap['low'], gap['high'])}, detectable "
            f"{number(gap['detectable_corrected'])})"
        )
    return f"{head}, Holm's p {number(own['p_holm'])}. Shared by: {'; '.join(told)}."


def _forest(table: pd.DataFrame) -> pd.DataFrame:
    against = table["reference"] == BASELINE
    return pd.DataFrame(
        {
            "panel": table["measure"].map(_TITLES),
            "group": np.where(against, "against weight 0", "default against control"),
            "row": [
                _name(arm if base else reference)
                for arm, reference, base in zip(
                    table["arm"], table["reference"], against, strict=True
                )
            ],
            "value": table["difference"],
            "low": table["low"],
            "high": table["high"],
            "filled": table["p_holm"] < 0.05,
            "mark": np.nan,
        }
    )


def collapse_finding(folder: Path) -> Finding:
    """Return for each loss and weight whether correct rollouts moved together, or all states.

    Raises:
        GeomrlError: the folder holds no ablation, its trainings evaluated no geometry, or it
            varies neither the loss nor the weight.
    """
    ablation = read_ablation(folder)
    levels = ablation.levels
    series = {DEFAULT: "default"}
    for factor in ("loss", "weight"):
        for row in levels[levels["factor"] == factor].to_dict("records"):
            level, known = f"{factor} {row['level'].replace('_', ' ')}", series.get(row["arm"])
            if row["arm"] != BASELINE:
                series[row["arm"]] = f"{known}, {level}" if known else level
    if len(series) < 2:
        raise GeomrlError(f"{folder}: no arm of this ablation varies the loss or the weight")
    series |= dict.fromkeys(levels.loc[levels["factor"] == CONTROL, "arm"], CONTROLS)
    table = movements(ablation)
    table = table[table["arm"].isin(list(series))].reset_index(drop=True)
    table.insert(0, "series", table["arm"].map(series))
    words = judged_movements(ablation)
    words = words[words["arm"].isin(list(series))].reset_index(drop=True)
    says = [_collapse_summary(table, words, series)]
    says += [_arm(arm, table, words, series) for arm in series]
    says.append(
        f"Changes against weight 0, paired over {theme.span(table['n_seeds'], 'seed')}, pointwise 95 "
        "% t intervals over seeds; words by these intervals, so that of 20 arms that change nothing "
        "one or two get a word by chance. 'Beyond the floor' is the change of CC minus that of the "
        "floor. The evaluated problems are the same throughout: nothing is said of others."
    )
    footnote = theme.Source(ablation.policy, ablation.policy).footnote(
        f"{ablation.place}, held out", "against weight 0",
        f"n = {theme.span(table['n_seeds'], 'seed')}, paired",
        "95 % t intervals over seeds, pointwise", "dashed: CC moves as the floor does",
    )  # fmt: skip
    picture = draw_movement(table, footnote, "collapse")
    return Finding(says, [picture], {"movements": table, "words": words}, shown=("words",))


def _collapse_summary(table: pd.DataFrame, words: pd.DataFrame, series: dict[str, str]) -> str:
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
    told = words.set_index("arm").loc[arm]
    name = f"{_name(arm)} (negative control)" if series[arm] == CONTROLS else series[arm]
    reading = "neither rises" if told["geometry"] == "-" else told["geometry"]
    shown = ("CC", "floor", BEYOND, "CC_centred", "effective_rank")
    cells = [f"{_in_words(measure)} {_cell(table, arm, measure)}" for measure in shown]
    return f"- {name}: **{reading}**; {'; '.join(cells)}."


def _cell(table: pd.DataFrame, arm: str, measure: str) -> str:
    row = table[(table["arm"] == arm) & (table["measure"] == measure)].iloc[0]
    return interval(row["difference"], row["low"], row["high"])


def _in_words(measure: str) -> str:
    return measure.replace("CC_c", "CC, c").replace("_", " ")


def _name(arm: str) -> str:
    return arm.removeprefix(f"{CONTROL}=").replace("_", " ")
