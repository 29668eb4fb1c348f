"""The frame of an ablation's analyses: one factor's levels against weight 0, and arms in words."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from geomrl.ablate.ablation import Ablation, read_ablation
from geomrl.ablate.control_tests import measured
from geomrl.ablate.grid import BASELINE, CONTROL
from geomrl.ablate.readings import honest_words
from geomrl.errors import GeomrlError
from geomrl.reproduce.analysis import Analysis
from geomrl.reproduce.finding import Finding, interval, number
from geomrl.viz import theme
from geomrl.viz.ablation import draw_factor, factor_frame


def ablation_finding(folder: Path, factor: str) -> Finding:
    """Return a factor's picture, its table, and which level is told apart from weight 0.

    Raises:
        GeomrlError: the folder contains no ablation, or no arm varies the factor.
    """
    ablation = read_ablation(folder)
    frame = factor_frame(ablation, factor)
    if frame.empty:
        raise GeomrlError(f"{folder}: no arm of this ablation varies the {factor}")
    source = theme.Provenance(ablation.policy, ablation.policy)
    levels = ablation.levels[ablation.levels["factor"] == factor]
    table = _differences(ablation).merge(levels[["level", "arm"]], on="arm")
    says = [_summary(table, factor), *honest_words(ablation)]
    shown = ["level", *[c for c in table.columns if c not in ("level", "arm")]]
    return Finding(
        says, [draw_factor(frame, factor, source, ablation.place)], {"differences": table[shown]}
    )


def ablation_analysis(factor: str, question: str, assumed: str) -> Analysis:
    """Return the analysis of one of the paper's four ablations.

    Args:
        factor: of `ablate.grid.FACTORS`.
        question: its title.
        assumed: what of the factor's levels is our assumption.
    """
    return Analysis(
        question=question,
        needs=("ablation",),
        answer=lambda ablation: ablation_finding(ablation, factor),
        paper=[f"that the {factor} is ablated; its values are not public."],
        assumed=[assumed, "the negative controls and the interval over training seeds."],
    )


def _differences(ablation: Ablation) -> pd.DataFrame:
    """Return arms against weight 0: arm, measure, value, difference, low, high, p_holm, ...

    Measures are `geomrl.ablate.control_tests.MEASURES`, at the ablation's place.
    """
    rows = measured(ablation)
    rows = rows[rows["reference"] == BASELINE]
    columns = ["arm", "measure", "value", "difference", "low", "high", "p_holm", "n_seeds"]
    return rows[[*columns, "detectable", "detectable_corrected"]].reset_index(drop=True)


def _summary(table: pd.DataFrame, factor: str) -> str:
    """Return which levels differ from weight 0 in pass@1 (Holm), or that none does, and the best."""
    rows = table[(table["measure"] == "pass@1") & (table["arm"] != BASELINE)]
    sure = rows[rows["p_holm"] < 0.05]
    best = rows.sort_values("difference").iloc[-1]
    head = (
        f"**Null result: no {factor} is told apart from weight 0 in pass@1** (Holm over all arms)."
    )
    if len(sure):
        named = [f"{r['level']} ({number(r['difference'])})" for r in sure.to_dict("records")]
        head = f"**Told apart from weight 0 in pass@1 (Holm over all arms): {', '.join(named)}.**"
    change = interval(best["difference"], best["low"], best["high"])
    return (
        f"{head} The best level is {best['level']}: {change}, paired over "
        f"{int(best['n_seeds'])} seeds."
    )


def arm_words(arm: str) -> str:
    """Return an arm's name in words; a negative control's without "control=".

    >>> arm_words("control=shuffled_groups"), arm_words("default")
    ('shuffled groups', 'default')
    """
    return arm.removeprefix(f"{CONTROL}=").replace("_", " ")


def measure_words(measure: str) -> str:
    """Return a measure's name in words.

    >>> measure_words("CC_centred"), measure_words("effective_rank")
    ('CC, centred', 'effective rank')
    """
    return measure.replace("CC_c", "CC, c").replace("_", " ")
