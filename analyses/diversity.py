"""Does alignment cost diversity? pass@k at large k, and the number of different correct paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer

from geomrl.compare.arms import arm_differences, arm_values, need_arms, with_arms
from geomrl.evaluate.evaluation import open_evaluation
from geomrl.files import read_parquet
from geomrl.models.loading import short_name
from geomrl.problems.arithmetic import operation_path
from geomrl.reproduce import Analysis, Finding
from geomrl.reproduce.arms import ALIGNED, BASE, DAPO
from geomrl.reproduce.finding import interval, number
from geomrl.stats.rarefaction import rarefied_count
from geomrl.viz import theme
from geomrl.viz.forest import draw_forest

WORDS = 4  # words of an n-gram
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
    draws: dict[str, Any] = {name: int(evaluated.summary[name]) for name in ("seed", "n_boot")}
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
    sentences = {pair: _difference_words(changes, *pair) for pair in pairs}
    seeds = int(changes["n_seeds"].max())
    return Finding(
        [
            *[
                f"{one} minus {other}, over {seeds} training seeds: {words}."
                for (one, other), words in sentences.items()
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


def _difference_words(changes: pd.DataFrame, one: str, other: str) -> str:
    rows = changes[(changes["one"] == one) & (changes["other"] == other)]
    return "; ".join(
        f"{row['measure']} {'' if row['p'] < 0.05 else 'null, '}"
        f"{interval(row['value'], row['seeds_low'], row['seeds_high'])}, detectable "
        f"{number(row['detectable'])}"
        for row in rows.to_dict("records")
    )


def ngram_distance(texts: Sequence[str], words: int = WORDS) -> float:
    """Return the mean Jaccard distance of the texts' sets of word n-grams, over pairs of texts.

    For solutions that are not arithmetic, whose paths cannot be read: 0 where all texts are the same,
    1 where no two share an n-gram. Texts of fewer words are one n-gram. NaN with fewer than two.
    """
    if len(texts) < 2:
        return float("nan")
    grams = CountVectorizer(
        analyzer=lambda text: _ngrams(text.split(), words), binary=True, dtype=np.int32
    )
    sets = grams.fit_transform(list(texts))
    both = (sets @ sets.T).toarray().astype(float)  # [n, n] n-grams in common
    sizes = np.diag(both)
    either = sizes[:, None] + sizes[None, :] - both
    upper = np.triu_indices(len(texts), 1)
    return float(np.mean(1.0 - both[upper] / either[upper]))


def _ngrams(words: list[str], n: int) -> list[str]:
    return [" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))]


def path_scores(rollouts: pd.DataFrame, m: int) -> pd.DataFrame:
    """Return each problem's diversity over its correct rollouts.

    Args:
        rollouts: one model's rollout table.
        m: correct rollouts that the count is brought to; problems with fewer have NaN.

    Returns:
        benchmark, problem_id, n_correct; paths: the share of m correct rollouts that take a path of
        their own (`rarefied_count` / m; of the bundled arithmetic alone, else NaN); ngrams:
        `ngram_distance` of the first m correct rollouts.
    """
    rows = []
    for (benchmark, problem), group in rollouts.groupby(["benchmark", "problem_id"], sort=False):
        texts = group.loc[group["verdict"] == "correct", "response"].tolist()
        paths = float("nan")
        if str(benchmark).startswith("arithmetic"):
            kinds = pd.Series([operation_path(text) for text in texts], dtype=object)
            paths = rarefied_count(kinds.value_counts().tolist(), m) / m
        rows.append(
            {
                "benchmark": benchmark,
                "problem_id": problem,
                "n_correct": len(texts),
                "paths": paths,
                "ngrams": ngram_distance(texts[:m]) if len(texts) >= m else float("nan"),
            }
        )
    return pd.DataFrame(rows)


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
