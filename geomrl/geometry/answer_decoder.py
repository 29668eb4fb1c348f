"""Can a linear map learn the answer from the state, on problems that it never saw?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from geomrl.geometry.groups import Groups
from geomrl.geometry.ridge import folded_ridges
from geomrl.stats.effect import Effect, mean_effect, unknown

FEWEST_OF_A_TOKEN = 10


def answer_decodability(
    states: Float[np.ndarray, "n d"],
    answer: Int[np.ndarray, " n"],
    fold: Int[np.ndarray, " n"],
    groups: Groups,
    *,
    seed: int,
    n_boot: int,
) -> tuple[Effect, float]:
    """Return how often a linear decoder names the first token of a rollout's own answer.

    A ridge classifier on standardised states, fitted on other problems. Answers whose first token
    fewer than ten rollouts share are left out.

    Args:
        states: in the groups' order.
        answer: each rollout's first answer token; negative where it is unknown.
        fold: each rollout's fold, made of problems.
        groups: who is who.
        seed: of the bootstrap.
        n_boot: bootstrap draws.

    Returns:
        The mean over problems of the share named rightly, and the same of always naming the most
        frequent token (of the other problems).
    """
    tokens, counts = np.unique(answer[answer >= 0], return_counts=True)
    kept = np.isin(answer, tokens[counts >= FEWEST_OF_A_TOKEN])
    if (counts >= FEWEST_OF_A_TOKEN).sum() < 2:
        return unknown(), float("nan")
    hit = np.full(len(answer), np.nan)
    usual = np.full(len(answer), np.nan)
    for held, predicted in _predictions(states[kept], answer[kept], fold[kept]):
        here = kept & (fold == held)
        names, often = np.unique(answer[kept & (fold != held)], return_counts=True)
        hit[here] = predicted == answer[here]
        usual[here] = names[np.argmax(often)] == answer[here]
    found = mean_effect(_by_problem(hit, groups), seed=seed, label="decoder", n_boot=n_boot,
        bounds=(0.0, 1.0),
    )  # fmt: skip
    base = _by_problem(usual, groups)
    known = base[np.isfinite(base)]
    return found, float(known.mean()) if len(known) else float("nan")


def _predictions(
    states: Float[np.ndarray, "n d"], answer: Int[np.ndarray, " n"], fold: Int[np.ndarray, " n"]
) -> Iterator[tuple[int, Int[np.ndarray, " held"]]]:
    """Yield each fold with its rows' answers as the other folds' decoder names them."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(states) > states.shape[1]:
        tokens, classes = np.unique(answer, return_inverse=True)
        for held, ridge in folded_ridges(states, classes, fold):
            yield held, tokens[ridge.predict(states[fold == held])]
        return
    for held in np.unique(fold).tolist():  # wide: as many products as rows would be more work
        fits = fold != held
        if len(np.unique(answer[fits])) > 1:
            decoder = make_pipeline(
                StandardScaler(), RidgeClassifier(alpha=float(fits.sum()) / 100)
            )
            decoder.fit(states[fits], answer[fits])
            yield held, decoder.predict(states[~fits])


def _by_problem(values: Float[np.ndarray, " n"], groups: Groups) -> Float[np.ndarray, " p"]:
    known = np.isfinite(values)
    counts = np.bincount(groups.problem[known], minlength=groups.n_problems)
    sums = np.bincount(groups.problem[known], values[known], minlength=groups.n_problems)
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
