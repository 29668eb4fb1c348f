"""The frame of an evaluation's analyses: every problem's scores, by arm and training seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.compare.arms import need_arms, with_arms
from geomrl.evaluate.accuracy import AVERAGE
from geomrl.evaluate.evaluation import Evaluation, open_evaluation
from geomrl.problems.arithmetic import BENCHMARK as ARITHMETIC
from geomrl.problems.arithmetic import EASY, HARD, MEDIUM, PRODUCT
from geomrl.problems.load import load_problems
from geomrl.reproduce.arms import ALIGNED, DAPO

ALL = "all problems"
LEVELS = (EASY, MEDIUM, PRODUCT, HARD)


@dataclass(frozen=True)
class ArmScores:
    """An evaluation of two arms: every problem's scores with arm and seed.

    `whole` names the rows that stand for everything: the average over benchmarks, or all problems.
    """

    evaluation: Evaluation
    scores: pd.DataFrame
    whole: str

    @property
    def draws(self) -> dict[str, Any]:
        """Seed and bootstrap draws of the evaluation, and whether benchmarks are averaged."""
        summary = self.evaluation.summary
        return {
            "seed": int(summary["seed"]),
            "n_boot": int(summary["n_boot"]),
            "average": self.whole == AVERAGE,
        }


def open_arms(folder: Path) -> ArmScores:
    """Read an evaluation of two arms.

    The bundled arithmetic is split by level of difficulty, as benchmarks are, beside all its problems
    together; the levels share no problem.

    Raises:
        GeomrlError: no evaluation, or one without the two arms.
    """
    evaluation = open_evaluation(folder)
    scores = with_arms(evaluation.problems)
    need_arms(scores, (DAPO, ALIGNED), folder)
    names = scores["benchmark"].astype(str)
    if set(names) != {ARITHMETIC}:
        several = names.nunique() > 1
        return ArmScores(evaluation, scores, AVERAGE if several else str(names.iloc[0]))
    level = {p.problem_id: str(p.meta["level"]) for p in load_problems(ARITHMETIC)}
    split = scores.assign(benchmark=scores["problem_id"].map(level))
    parts = [split[split["benchmark"] == each.name] for each in LEVELS]
    whole = pd.concat([*parts, scores.assign(benchmark=ALL)], ignore_index=True)
    return ArmScores(evaluation, whole, ALL)
