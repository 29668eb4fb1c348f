"""Do the negative-control arms do what alignment of correct rollouts does?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from geomrl.ablate.ablation import read_ablation
from geomrl.ablate.control_tests import control_comparisons, shared_effects
from geomrl.ablate.grid import BASELINE, DEFAULT
from geomrl.reproduce import Analysis, Finding
from geomrl.reproduce.ablations import arm_words, measure_words
from geomrl.reproduce.finding import interval, number
from geomrl.viz import theme
from geomrl.viz.forest import draw_forest

_TITLES = {
    "pass@1": "pass@1",
    "CC": "CC",
    "floor": "Floor",
    "CC_centred": "CC, centred",
    "effective_rank": "Effective rank",
}


def controls(ablation: Path) -> Finding:
    """Return which effects of the default the negative controls share.

    Raises:
        GeomrlError: the folder contains no ablation, or it has no negative control.
    """
    found = read_ablation(ablation)
    table = control_comparisons(found)
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
    footnote = theme.Provenance(found.policy, found.policy).footnote(
        f"geometry at {found.place}, held out",
        f"n = {seeds}, paired",
        "95 % t intervals over seeds, pointwise",
        "filled: Holm's p < 0.05 within the group",
    )
    picture = draw_forest(_forest(table), footnote, "controls", unit="Difference", beside=True)
    return Finding(says, [picture], {"comparisons": table, "shared": shared})


def _summary(table: pd.DataFrame, shared: pd.DataFrame) -> str:
    own = table[(table["arm"] == DEFAULT) & (table["reference"] == BASELINE)]
    sure = own[own["p_holm"] < 0.05]["measure"].tolist()
    sharers = {
        m: [
            arm_words(r["control"])
            for r in shared[shared["measure"] == m].to_dict("records")
            if r["shared"] == "yes"
        ]
        for m in sure
    }
    common = [n for n in sharers[sure[0]] if all(n in s for s in sharers.values())] if sure else []
    what = ", ".join(measure_words(m) for m in sure)
    if not sure:
        head = "**Null result: the default is told apart from weight 0 in none of the measures.**"
    elif common:
        head = f"**What the default does ({what}), these controls do too: {', '.join(common)}.**"
    else:
        each = [f"{measure_words(m)} by {', '.join(s) or 'none'}" for m, s in sharers.items()]
        head = f"**Effects of the default that controls share: {'; '.join(each)}.**"
    gaps = table[(table["arm"] == DEFAULT) & (table["reference"] != BASELINE)]
    apart = gaps[gaps["p_holm"] < 0.05].to_dict("records")
    if not apart:
        return f"{head} In no measure is the default told apart from any control."
    named = [f"{measure_words(r['measure'])} from {arm_words(r['reference'])}" for r in apart]
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
    each = []
    for row in words.to_dict("records"):
        gap = rows[(rows["arm"] == DEFAULT) & (rows["reference"] == row["control"])].iloc[0]
        theirs = rows[(rows["arm"] == row["control"]) & (rows["reference"] == BASELINE)]
        value = number(theirs.iloc[0]["difference"]) if len(theirs) else "unknown"
        each.append(
            f"{arm_words(row['control'])} {row['shared']} (changes it by {value}; default minus control "
            f"{interval(gap['difference'], gap['low'], gap['high'])}, detectable "
            f"{number(gap['detectable_corrected'])})"
        )
    return f"{head}, Holm's p {number(own['p_holm'])}. Shared by: {'; '.join(each)}."


def _forest(table: pd.DataFrame) -> pd.DataFrame:
    against = table["reference"] == BASELINE
    return pd.DataFrame(
        {
            "panel": table["measure"].map(_TITLES),
            "group": np.where(against, "against weight 0", "default against control"),
            "row": [
                arm_words(arm if base else reference)
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


ANALYSIS = Analysis(
    question="Do negative controls do what aligning correct rollouts does?",
    needs=("ablation",),
    answer=controls,
    paper=["the aligned arm: cosine of correct rollouts' states just before the answer marker."],
    assumed=[
        "the four controls: wrong rollouts, shuffled correctness, shuffled groups, a random position; "
        "the paper has none.",
        "the controls have the weight of the default arm.",
    ],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
