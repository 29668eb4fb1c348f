"""The paper's main table: pass@1 of the base model, DAPO, and DAPO with alignment, by benchmark."""

from pathlib import Path

import pandas as pd

from geomrl.compare.arms import arm_differences, arm_values
from geomrl.reproduce import Analysis, Finding
from geomrl.reproduce.arms import ALIGNED, BASE, DAPO
from geomrl.reproduce.evaluations import open_arms
from geomrl.reproduce.finding import interval, number

_PAPER = pd.DataFrame(
    [("Qwen3-1.7B", 3.8), ("Qwen3-4B", 6.2), ("Qwen3-14B", 5.4)],
    columns=["model", "average gain over DAPO, points (as stated, no intervals, not reproduced)"],
)


def pass_at_1(evaluation: Path) -> Finding:
    """Return pass@1 by arm and benchmark, and the gain of alignment over DAPO."""
    found = open_arms(evaluation)
    values = arm_values(found.scores, ["pass@1"], **found.draws)
    base = [(arm, BASE) for arm in (DAPO, ALIGNED) if BASE in set(found.scores["arm"])]
    pairs = [(ALIGNED, DAPO), *base]
    gains = pd.concat(
        [
            arm_differences(found.scores, ["pass@1"], *pair, alone=[found.whole], **found.draws)
            for pair in pairs
        ],
        ignore_index=True,
    )
    gain = gains[(gains["one"] == ALIGNED) & (gains["benchmark"] == found.whole)].iloc[0]
    change = interval(gain["value"], gain["seeds_low"], gain["seeds_high"])
    null = "" if gain["p"] < 0.05 else "**Null result.** "
    says = [
        f"{null}Alignment changes pass@1 ({found.whole}) by {change} over {int(gain['n_seeds'])} "
        f"training seeds (over {int(gain['n_problems'])} problems: "
        f"{number(gain['low'])} to {number(gain['high'])}); p {number(gain['p'])}. A true gain of "
        f"{number(gain['detectable'])} would have been found four times in five.",
        "Rows of one benchmark are Holm-corrected over the benchmarks (`p_holm`); `seeds_low` and "
        "`seeds_high` are the interval over training seeds, `low` and `high` that over problems.",
    ]
    return Finding(says, tables={"pass_at_1": values, "gains": gains, "paper": _PAPER})


ANALYSIS = Analysis(
    question="Does alignment raise pass@1 over DAPO, by benchmark?",
    needs=("evaluation",),
    answer=pass_at_1,
    paper=[
        "the comparison: base, DAPO, DAPO with Hidden-Align; average pass@1 over eight maths "
        "benchmarks and three sizes of Qwen3. The gains that it states are in the last table."
    ],
    assumed=[
        "sampling as in its sister paper (temperature .7, top-p .8, top-k 20).",
        "the bundled model has one size, and its levels of difficulty stand for benchmarks; for real "
        "ones: `geomrl eval base=MODEL dapo-0=RUN aligned-0=RUN ... --problems ... --out RUN`, once a "
        "size, then `python analyses/pass_at_1.py --evaluation RUN`.",
    ],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
