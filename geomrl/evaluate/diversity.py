"""How many different ways a problem's correct rollouts take, at an equal number of rollouts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer

from geomrl.problems.arithmetic import operation_path
from geomrl.stats.rarefaction import rarefied_count

WORDS = 4  # words of an n-gram


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
                "benchmark": benchmark, "problem_id": problem, "n_correct": len(texts),
                "paths": paths,
                "ngrams": ngram_distance(texts[:m]) if len(texts) >= m else float("nan"),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
