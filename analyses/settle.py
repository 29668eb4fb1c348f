"""The paper's own falsification criteria, judged on any pair of arms of training runs.

| criterion that would refute the claim | measured as | smallest effect that matters |
|---|---|---|
| correct are no closer than incorrect at the anchor | matched CC - II, held-out problems | .05 |
| no gain in pass@1 | pass@1 with the loss minus without, paired by seed | .038 |

.038 is the smallest gain that the paper claims (+3.8 points for Qwen3-1.7B); .05 is this package's
margin for cosines (`geomrl.compare.verdict.Margins`), an assumption. `geomrl.stats.smallest_effect`
states the rule, which was set before looking.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from geomrl.ablate.readings import geometry_words
from geomrl.ablate.table import PRIMARY
from geomrl.compare.verdict import Margins
from geomrl.reproduce import Analysis, Arms, Finding
from geomrl.reproduce.finding import interval, number
from geomrl.reproduce.trainings import Trainings, read_trainings
from geomrl.stats.paired import paired_difference
from geomrl.stats.smallest_effect import FEWEST_SEEDS, Judgement, Word, judge, overall
from geomrl.viz.forest import COLUMNS, draw_forest

SMALLEST_GAIN = 0.038
"""The smallest gain in pass@1 that the paper claims (abstract: +3.8, +6.2 and +5.4 points)."""
SMALLEST_CONVERGENCE = Margins.cosine
PLACE = "before_marker/final"
"""The paper's anchor, after the final norm."""
CONTRASTS = ("CC-II", "CC-II_centred", "CC-II_same_answer", "CC-II_same_answer_centred")
GAUGES = ("CC", "floor", "CC_centred", "effective_rank")
WITHOUT, WITH, CHANGE, BEFORE = "without the loss", "with the loss", "change", "before RL"
_DECIDES = (WITHOUT, "CC-II")  # the arm and the measure of the first criterion
_ARMS = {WITHOUT: "without", WITH: "aligned"}
_WORDS = {
    "CC-II": "CC - II",
    "CC-II_centred": "CC - II, centred",
    "CC-II_same_answer": "CC - II same answer",
    "CC-II_same_answer_centred": "CC - II same answer, centred",
}


@dataclass(frozen=True, kw_only=True)
class Settled:
    """The claim judged on two arms.

    Attributes:
        word: of the whole claim.
        criteria: word and evidence of every line: criterion, arm, measure, decides, word, value,
            low, high, sd, n_seeds, smallest, detectable, power, seeds_needed.
        gauges: what the loss changed: measure, without, aligned, difference, low, high, sd,
            n_seeds, detectable.
        geometry: what moved together, in `geometry_words`.
        convergence: the judgement of the first criterion.
        gain: that of the second.
    """

    word: Word
    criteria: pd.DataFrame
    gauges: pd.DataFrame
    geometry: str
    convergence: Judgement
    gain: Judgement


def settle(trainings: Trainings, place: str = PLACE) -> Settled:
    """Judge the claim.

    The first criterion is decided by the raw matched CC - II of the trainings *without* the loss:
    the paper observes the convergence and builds the loss on it, while with the loss that very
    cosine is trained. The second by pass@1. All other lines are judged alike and decide nothing.

    Args:
        trainings: both arms' last evaluations.
        place: "ANCHOR/LAYER".
    """
    judged = {
        (arm, measure): judge(
            trainings.values(_ARMS[arm], f"eval/{place}/{measure}"), SMALLEST_CONVERGENCE
        )
        for arm in (WITHOUT, WITH)
        for measure in CONTRASTS
    }
    gain = judge(trainings.change(PRIMARY), SMALLEST_GAIN)
    rows = [
        _line(
            "correct closer than incorrect", arm, measure, found, decides=(arm, measure) == _DECIDES
        )
        for (arm, measure), found in judged.items()
    ]
    rows.append(_line("gain in pass@1", CHANGE, "pass@1", gain, decides=True))
    gauges = pd.DataFrame([_gauge(trainings, measure, place) for measure in GAUGES])
    criteria = pd.DataFrame(rows).astype({"seeds_needed": "Int64"})
    rose = gauges.set_index("measure")["low"] > 0
    return Settled(
        word=overall([judged[_DECIDES].word, gain.word]),
        criteria=criteria,
        gauges=gauges,
        geometry=geometry_words(
            floor_rose=bool(rose["floor"]), centred_rose=bool(rose["CC_centred"])
        ),
        convergence=judged[_DECIDES],
        gain=gain,
    )


def _line(criterion: str, arm: str, measure: str, found: Judgement, *, decides: bool) -> dict:
    e = found.effect
    return {
        "criterion": criterion,
        "arm": arm,
        "measure": measure,
        "decides": "yes" if decides else "no",
        "word": found.word,
        "value": e.value,
        "low": e.low,
        "high": e.high,
        "sd": e.sd,
        "n_seeds": e.n,
        "smallest": found.smallest,
        "detectable": found.detectable,
        "power": found.power,
        "seeds_needed": found.seeds_needed,
    }


def _gauge(trainings: Trainings, measure: str, place: str) -> dict[str, Any]:
    metric = f"eval/{place}/{measure}"
    change = trainings.change(metric)
    known, found = ~np.isnan(change), paired_difference(change)
    means = {
        arm: float(trainings.values(arm, metric)[known].mean()) if known.any() else np.nan
        for arm in ("without", "aligned")
    }
    return {
        "measure": measure,
        **means,
        "difference": found.value,
        "low": found.low,
        "high": found.high,
        "sd": found.sd,
        "n_seeds": found.n,
        "detectable": found.detectable,
    }


def settle_finding(arms: Arms, place: str = PLACE) -> Finding:
    """Return the claim's word, its evidence in sentences, tables and a picture.

    Raises:
        GeomrlError: see `read_trainings`.
    """
    trainings = read_trainings(arms, (PRIMARY, f"eval/{place}/CC-II"))
    found = settle(trainings, place)
    start = _start(trainings, place)
    says = [
        f"**The claim is {found.word} here**: two arms of {len(trainings.seeds)} seeds, after "
        f"{trainings.step} training steps, on held-out problems. Correct closer than incorrect at "
        f"the anchor (`{place}`): {found.convergence.word}; gain in pass@1: {found.gain.word}.",
        f"Correct closer than incorrect, without the loss: matched CC - II "
        f"{_evidence(found.convergence)}",
        f"Gain in pass@1, with the loss minus without, paired by seed: {_evidence(found.gain)}",
        _others(found),
        *([_before(start)] if len(start) else []),
        _moved(found),
        _rule(trainings),
    ]
    footnote = (
        f"{place}, held out; n = {len(trainings.seeds)} seeds; 95 % t intervals over seeds, before "
        "RL over problems; filled: supported, or interval excludes 0"
    )
    frame = _frame(found, start)
    picture = draw_forest(
        frame, footnote, "settle", unit="Cosine, or pass@1", marks="smallest effect that matters"
    )
    return Finding(says, [picture], {"criteria": found.criteria, "gauges": found.gauges})


def _evidence(found: Judgement) -> str:
    """Return a judgement's numbers, power and, where undecided, the seeds that were lacking."""
    e = found.effect
    text = (
        f"{interval(e.value, e.low, e.high)} over {e.n} seeds: **{found.word}**"
        f"{', but smaller than the smallest effect that matters' * found.smaller_than_claimed}"
        f" (smallest effect that matters: {number(found.smallest)})."
    )
    if found.seeds_needed is not None:
        text += (
            f" Power: a true effect of that size is told apart from 0 with probability "
            f"{number(found.power, 2)}; told apart four times in five: {number(found.detectable)}."
        )
    return f"{text} {_lacking(found)}" if found.word == "undecided" else text


def _lacking(found: Judgement) -> str:
    """Return how many seeds an undecided criterion would have needed."""
    if found.seeds_needed is None:
        return "How many seeds would have been needed cannot be told: their spread is not known."
    if found.seeds_needed <= found.effect.n:
        return (
            "Seeds for a power of .80 were there: the effect may lie between 0 and the smallest that "
            "matters, and more seeds would be needed to tell which."
        )
    return (
        f"For a power of .80 at the smallest effect that matters, {found.seeds_needed} seeds an arm "
        "would have been needed (rough: the spread is itself an estimate)."
    )


def _others(found: Settled) -> str:
    rows = found.criteria[(found.criteria["decides"] == "no")].to_dict("records")
    each = [
        f"{row['arm']}, {_WORDS[row['measure']]} {interval(row['value'], row['low'], row['high'])}, "
        f"{row['word']}"
        for row in rows
    ]
    return (
        "By the same rule, and deciding nothing (the contrast with wrong rollouts that agree on "
        f"their answer is the sharper question): {'; '.join(each)}."
    )


def _before(start: pd.DataFrame) -> str:
    each = [
        f"{_WORDS[row['measure']]} {interval(row['value'], row['low'], row['high'])}"
        for row in start.to_dict("records")
    ]
    n = int(start["n_problems"].iloc[0])
    return f"Before RL, intervals over {n} evaluated problems, one model: {'; '.join(each)}."


def _start(trainings: Trainings, place: str) -> pd.DataFrame:
    """Return the contrasts before training, with intervals over problems; no rows without."""
    columns = ["measure", "value", "low", "high", "n_problems"]
    rows = []
    if trainings.start is not None:
        known = trainings.start.to_dict()
        for measure in CONTRASTS:
            key = f"eval/{place}/{measure}"
            numbers = [known.get(f"{key}{end}", np.nan) for end in ("", "_low", "_high")]
            rows.append([measure, *numbers, known["eval/n_problems"]])
    frame = pd.DataFrame(rows, columns=columns)
    return frame[frame["value"].notna()]


def _moved(found: Settled) -> str:
    rows = {row["measure"]: row for row in found.gauges.to_dict("records")}
    each = [
        f"{measure.replace('_', ' ')} {number(row['without'])} to {number(row['aligned'])}, change "
        f"{interval(row['difference'], row['low'], row['high'])}"
        for measure, row in rows.items()
    ]
    words = {"-": "neither the floor nor the centred cosine is shown to rise"}
    reading = words.get(found.geometry, found.geometry)
    if found.geometry == "correct move together" and rows["floor"]["low"] > 0:
        reading += ", but the floor rises too"
    return (
        f"Collapse or alignment? What the loss changed, paired by seed: {'; '.join(each)}. By "
        f"pointwise intervals: {reading}."
    )


def _rule(trainings: Trainings) -> str:
    return (
        "The rule, set before looking: supported if the 95 % interval lies above 0; not supported "
        f"if it does not and lies below the smallest effect that matters ({number(SMALLEST_GAIN)} of "
        "pass@1, the smallest gain that the paper claims; a cosine of "
        f"{number(SMALLEST_CONVERGENCE)}, our margin); else, and with fewer than {FEWEST_SEEDS} seeds "
        "an arm, undecided. The claim is supported if both criteria are, not supported if either is "
        "not. The first is decided without the loss, since the loss trains that very cosine. "
        f"Intervals are over training seeds ({', '.join(map(str, trainings.seeds))}): nothing is said "
        "of other problems or of other models."
    )


def _frame(found: Settled, start: pd.DataFrame) -> pd.DataFrame:
    panels = ("Correct closer than incorrect", "What the loss changed")
    rows: list[dict[str, Any]] = [
        {
            "panel": panels[0],
            "group": BEFORE,
            "row": _WORDS[r["measure"]],
            **_numbers(r),
            "filled": r["low"] > 0,
            "mark": SMALLEST_CONVERGENCE,
        }
        for r in start.to_dict("records")
    ]
    for r in found.criteria.to_dict("records"):
        gain = r["measure"] == "pass@1"
        rows.append(
            {
                "panel": panels[gain],
                "group": r["arm"],
                "row": _WORDS.get(r["measure"], "pass@1"),
                **_numbers(r),
                "filled": r["word"] == "supported",
                "mark": r["smallest"],
            }
        )
    for r in found.gauges.to_dict("records"):
        if r["measure"] != "effective_rank":  # another unit
            rows.append(
                {
                    "panel": panels[1],
                    "group": CHANGE,
                    "row": r["measure"].replace("_c", ", c"),
                    "value": r["difference"],
                    "low": r["low"],
                    "high": r["high"],
                    "filled": r["low"] > 0 or r["high"] < 0,
                    "mark": np.nan,
                }
            )
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.assign(row=frame["row"].str.replace(" - ", " − "))


def _numbers(row: dict) -> dict[str, float]:
    return {key: row[key] for key in ("value", "low", "high")}


ANALYSIS = Analysis(
    question="Is the claim supported? Correct closer than incorrect at the anchor, and a gain in pass@1",
    needs=("arms",),
    answer=settle_finding,
    paper=[
        "the two criteria, the anchor just before the marker, and the smallest gain that matters: "
        "+3.8 points, the smallest that it claims.",
    ],
    assumed=[
        "a cosine difference matters from .05 on; the first criterion is decided by trainings "
        "without the loss, by the raw matched CC - II after the final norm.",
        "95 % t intervals over training seeds; fewer than three seeds an arm are undecided.",
    ],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
