"""pass@k and majority@k, by benchmark and averaged over benchmarks, with intervals by problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from geomrl.errors import GeomrlError
from geomrl.evaluate.outcomes import Outcomes
from geomrl.stats.intervals import FEW, Interval, mean_interval, mean_of_means_interval
from geomrl.stats.majority import majority_at_k
from geomrl.stats.passk import pass_at_k

"""An evaluation's two tables in its folder."""
AVERAGE = "average"
"""The benchmark's name in rows that average over benchmarks."""
SHARES = ("no_answer", "timeout", "truncated")
_BOUNDS = (0.0, 1.0)


def default_ks(n: int, asked: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the k of pass@k: 1, 2, 4, ... up to n, and those asked for.

    >>> default_ks(12, asked=[10])
    (1, 2, 4, 8, 10)

    Raises:
        GeomrlError: a k that is asked for exceeds n, or is less than 1.
    """
    beyond = [k for k in asked if not 1 <= k <= n]
    if beyond:
        raise GeomrlError(
            f"k = {', '.join(map(str, beyond))}: k must lie in 1..{n}, the samples a problem; "
            "sample more (-n) or ask for another k"
        )
    return tuple(sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | set(asked)))


def problem_scores(outcomes: Outcomes, ks: Sequence[int] = ()) -> pd.DataFrame:
    """Return every measure's value for every problem: what the averages are averages of.

    Columns: model, benchmark, problem_id, samples, correct; then the measures "pass@k" and
    "majority@k" (k > 1), and `SHARES` of the samples: without a closed answer marker, timed out in
    grading, and, of those without an answer, cut off at max_tokens. None of them is correct; in a majority
    one without an answer casts no vote, and one that timed out votes for its own answer.

    Args:
        outcomes: one model's.
        ks: besides the powers of two.
    """
    problems, n = outcomes.problems, outcomes.n
    counts = problems["correct"].to_numpy(int)
    scores: dict[str, Any] = {
        "model": outcomes.model,
        "benchmark": problems["benchmark"],
        "problem_id": problems["problem_id"],
        "samples": n,
        "correct": counts,
    }
    wanted = default_ks(n, ks)
    scores |= {f"pass@{k}": pass_at_k(counts, n, k) for k in wanted}
    classes = problems["classes"].tolist()
    scores |= {f"majority@{k}": majority_at_k(classes, k) for k in wanted if k > 1}
    scores |= {share: problems[share] / n for share in SHARES}
    return pd.DataFrame(scores).reset_index(drop=True)


def measures_of(scores: pd.DataFrame) -> list[str]:
    """Return the measures among the columns of `problem_scores`, those that are not known left out."""
    names = [str(name) for name in scores]
    return [
        name for name in names if (name in SHARES or "@" in name) and not scores[name].isna().any()
    ]


def split_measure(name: str) -> tuple[str, int | None]:
    """Return a measure's name and its k.

    >>> split_measure("pass@8"), split_measure("no_answer")
    (('pass', 8), ('no_answer', None))
    """
    kind, at, k = name.partition("@")
    return kind, int(k) if at else None


def mixed_count(scores: pd.DataFrame) -> int:
    """Return how many problems are neither all right nor all wrong."""
    return int(((scores["correct"] > 0) & (scores["correct"] < scores["samples"])).sum())


def accuracy_table(
    scores: pd.DataFrame, *, average: bool = True, seed: int = 0, n_boot: int = 2000
) -> pd.DataFrame:
    """Return one model's accuracies: a row a measure and benchmark, then those of the average.

    Columns: model, benchmark, measure, k, value, low, high, n_problems, n_samples, n_mixed, n_boot,
    seed, warning. `value` is the mean over problems; the average is the unweighted mean over
    benchmarks, and its interval joins theirs (`mean_of_means_interval`). Intervals are bootstrap-t
    by problem, nominally 95 %.

    Args:
        scores: of one model (`problem_scores`).
        average: whether to average over benchmarks, where there are several; not where two of
            them share a problem.
        seed: of the bootstrap.
        n_boot: its draws.
    """
    parts = {str(name): part for name, part in scores.groupby("benchmark", sort=False)}
    rows = []
    for measure in measures_of(scores):
        for name, part in parts.items():
            found = mean_interval(
                part[measure].to_numpy(float), seed=seed, label=f"{name}/{measure}",
                n_boot=n_boot, bounds=_BOUNDS,
            )  # fmt: skip
            rows.append(_row(part, name, measure, found))
        if average and len(parts) > 1:
            found = mean_of_means_interval(
                by_benchmark(scores, measure), seed=seed, label=f"{AVERAGE}/{measure}",
                n_boot=n_boot, bounds=_BOUNDS,
            )  # fmt: skip
            rows.append(_row(scores, AVERAGE, measure, found))
    return pd.DataFrame(rows).astype({"k": "Int64"})


def by_benchmark(scores: pd.DataFrame, measure: str) -> list[Float[np.ndarray, " problems"]]:
    """Return a measure's values, an array a benchmark."""
    return [part[measure].to_numpy(float) for _, part in scores.groupby("benchmark", sort=False)]


def _row(scores: pd.DataFrame, benchmark: str, measure: str, found: Interval) -> dict[str, Any]:
    kind, k = split_measure(measure)
    mixed = mixed_count(scores)
    return {
        "model": scores["model"].iloc[0],
        "benchmark": benchmark,
        "measure": kind,
        "k": k,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "n_problems": found.n_clusters,
        "n_samples": int(scores["samples"].iloc[0]),
        "n_mixed": mixed,
        "n_boot": found.n_boot,
        "seed": found.seed,
        "warning": found.warning,
    }


def mixed_warning(scores: pd.DataFrame) -> str | None:
    """Return a sentence that names one model's benchmarks with fewer than ten mixed problems.

    There, problems say little beyond right or wrong, and intervals were measured to be too narrow
    (benchmarks/interval_coverage.py). None where every benchmark has ten.
    """
    if int(scores["samples"].iloc[0]) < 2:
        return None  # with one sample no problem can be mixed
    few = [
        f"{name} ({mixed_count(part)} of {len(part)})"
        for name, part in scores.groupby("benchmark", sort=False)
        if mixed_count(part) < FEW
    ]
    if not few:
        return None
    return (
        f"{scores['model'].iloc[0]}: fewer than {FEW} problems are mixed (neither all right nor all "
        f"wrong) in {', '.join(few)}: intervals there may be too narrow"
    )
