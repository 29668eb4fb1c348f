"""Does alignment cost diversity? pass@k at large k, and the number of different correct paths."""

from pathlib import Path

import pandas as pd

from geomrl.compare.arms import arm_differences, arm_values, need_arms, with_arms
from geomrl.evaluate.diversity import path_scores
from geomrl.evaluate.evaluation import open_evaluation
from geomrl.files import read_parquet
from geomrl.models.loading import short_name
from geomrl.reproduce import Analysis, Finding
from geomrl.reproduce.finding import interval, number
from geomrl.reproduce.runs import ALIGNED, BASE, DAPO
from geomrl.viz import theme
from geomrl.viz.forest import draw_forest

_CORRECT = 8  # rollouts that a problem's paths are counted among


def diversity(evaluation: Path) -> Finding:
    """Return pass@k at the largest k and the diversity of correct rollouts, by arm, and differences."""
    evaluated = open_evaluation(evaluation)
    scores = with_arms(evaluated.problems)
    need_arms(scores, (DAPO, ALIGNED), evaluation)
    largest = [str(name) for name in scores if str(name).startswith("pass@")][-1]
    parts = []
    for model in dict.fromkeys(scores["model"]):
        path = evaluation / "rollouts" / short_name(model) / "rollouts.parquet"
        parts.append(path_scores(read_parquet(path), _CORRECT).assign(model=model))
    paths = with_arms(pd.concat(parts, ignore_index=True))
    both = scores.merge(paths, on=["model", "arm", "seed", "benchmark", "problem_id"])
    measures = [m for m in (largest, "paths", "ngrams") if both[m].notna().any()]
    draws = {name: int(evaluated.summary[name]) for name in ("seed", "n_boot")}
    both = both.dropna(subset=measures, how="all")
    values = arm_values(both, measures, **draws)
    pairs = [(ALIGNED, DAPO), (DAPO, BASE)] if BASE in set(both["arm"]) else [(ALIGNED, DAPO)]
    changes = pd.concat(
        [arm_differences(both, measures, *pair, **draws) for pair in pairs], ignore_index=True
    )
    frame = changes.assign(
        panel="Diversity",
        group=changes["one"] + " − " + changes["other"],
        row=changes["measure"],
        low=changes["seeds_low"],
        high=changes["seeds_high"],
        filled=changes["p"] < 0.05,
        mark=changes["detectable"],
    )
    footnote = (
        f"n = {theme.span(changes['n_problems'], 'problem')}; "
        f"{theme.span(changes['n_seeds'], 'training seed')}; 95\u00a0% t\u00a0intervals over seeds; "
        f"filled: p < .05; seed {draws['seed']}"
    )
    told = {pair: _told(changes, *pair) for pair in pairs}
    seeds = int(changes["n_seeds"].max())
    return Finding(
        [
            *[
                f"{one} minus {other}, over {seeds} training seeds: {words}."
                for (one, other), words in told.items()
            ],
            f"`paths` is the share of {_CORRECT} correct rollouts of a problem that take a path of their "
            "own (sequences of operations, not wording), brought to an equal number of correct rollouts by "
            f"rarefaction; `ngrams` the mean Jaccard distance of their 4-grams of words. Problems with "
            f"fewer than {_CORRECT} correct rollouts are left out, in both arms of a pair.",
        ],
        [
            draw_forest(
                frame, footnote, "diversity", unit="Difference", marks="detectable (80 % power)"
            )
        ],
        {"values": values, "differences": changes},
    )


def _told(changes: pd.DataFrame, one: str, other: str) -> str:
    rows = changes[(changes["one"] == one) & (changes["other"] == other)]
    return "; ".join(
        f"{row['measure']} {'' if row['p'] < 0.05 else 'null, '}"
        f"{interval(row['value'], row['seeds_low'], row['seeds_high'])}, detectable "
        f"{number(row['detectable'])}"
        for row in rows.to_dict("records")
    )


ANALYSIS = Analysis(
    question="What does alignment do to pass@k at large k and to the number of distinct paths?",
    needs=("evaluation",),
    answer=diversity,
    paper=[
        "pass@k gains are stated; diversity of correct rollouts is not mentioned in the abstract."
    ],
    assumed=["what a path is: the operations that a solution states, in their order."],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
