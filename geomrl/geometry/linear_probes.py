"""Linear probes: can correctness be read off a state, on problems that the probe never saw?

Rollouts of one problem are alike and share its difficulty, so a probe tested on other rollouts of
the *same* problems learns who is an easy problem: where states know nothing else it still reads
.78. Folds are therefore made of problems. Even so a probe may have learnt to see difficulty: the
`within` score compares rollouts of one problem only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from geomrl.geometry.groups import Groups
from geomrl.seeds import deal, derive_rng
from geomrl.stats.effect import Effect, jackknife_effect, mean_effect, unknown

FOLDS = 5
INVERSE_PENALTY = 0.1
"""Logistic regression's C, on standardised features: one setting everywhere, not tuned."""
FEWEST_PROBLEMS = 2 * FOLDS


@dataclass(frozen=True)
class Scores:
    """A probe's scores of held-out rollouts: comparable within a fold only."""

    score: Float[np.ndarray, " n"]
    fold: Int[np.ndarray, " n"]


def problem_folds(groups: Groups, seed: int, folds: int = FOLDS) -> Int[np.ndarray, " n"]:
    """Deal problems into folds by seed; return each rollout's fold."""
    return deal(groups.problem_ids, folds, seed, "probe")[groups.problem]


def held_out_scores(
    train: Float[np.ndarray, "n k"],
    test: Sequence[Float[np.ndarray, "n k"]],
    labels: Bool[np.ndarray, " n"],
    fold: Int[np.ndarray, " n"],
) -> list[Scores]:
    """Score every rollout by a probe that was fitted on the other folds.

    Args:
        train: features the probes are fitted on.
        test: features they are applied to: `train` itself, or the same rollouts as another encoder
            reads them (a transfer).
        labels: what the probe is to tell.
        fold: each rollout's fold.

    Returns:
        One `Scores` for each of `test`; NaN in a fold whose training rollouts are all alike.
    """
    return [scores for (scores,) in probe_scores(train, test, [labels], fold)]


def probe_scores(
    train: Float[np.ndarray, "n k"],
    test: Sequence[Float[np.ndarray, "n k"]],
    labels: Sequence[Bool[np.ndarray, " n"]],
    fold: Int[np.ndarray, " n"],
    *,
    beside: Float[np.ndarray, "n j"] | None = None,
) -> list[list[Scores]]:
    """Return `held_out_scores` of several labels, with features that are standardised once.

    Args:
        train, test, fold: as there.
        labels: what each probe is to tell.
        beside: further features; a last probe, of `labels[0]` and on `train` alone, has them too.

    Returns:
        For each of `test` a `Scores` for each of `labels`, and `[scores]` of the last probe at the
        end where there is one.
    """
    from sklearn.preprocessing import StandardScaler

    found = np.full((len(test), len(labels), len(train)), np.nan)
    joint = np.full(len(train), np.nan)
    for held in np.unique(fold):
        fits, here = fold != held, fold == held
        scaler = StandardScaler().fit(train[fits])
        standard = scaler.transform(train[fits])
        tested = [scaler.transform(features[here]) for features in test]
        for number, each in enumerate(labels):
            probe = _logistic(standard, each[fits])
            for scores, features in zip(found[:, number], tested, strict=True):
                scores[here] = np.nan if probe is None else probe.decision_function(features)
        if beside is not None:
            others = StandardScaler().fit(beside[fits])
            standard = np.concatenate([others.transform(beside[fits]), standard], axis=1)
            probe = _logistic(standard, labels[0][fits])
            if probe is not None:
                own = np.concatenate([others.transform(beside[here]), tested[0]], axis=1)
                joint[here] = probe.decision_function(own)
    scores = [[Scores(each, fold) for each in by_label] for by_label in found]
    return scores if beside is None else [*scores, [Scores(joint, fold)]]


def fit_probe(features: Float[np.ndarray, "n k"], labels: Bool[np.ndarray, " n"]) -> Any:
    """Fit a penalised logistic regression on standardised features; None without both labels."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features)
    probe = _logistic(scaler.transform(features), labels)
    return None if probe is None else make_pipeline(scaler, probe)


def _logistic(standard: Float[np.ndarray, "n k"], labels: Bool[np.ndarray, " n"]) -> Any:
    """Fit a penalised logistic regression on features as they are; None without both labels."""
    from sklearn.linear_model import LogisticRegression

    if labels.all() or not labels.any():
        return None
    return LogisticRegression(C=INVERSE_PENALTY, max_iter=2000, tol=1e-3).fit(standard, labels)


def auroc(score: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"]) -> float:
    """Return the chance that a correct rollout scores above a wrong one; ties count half.

    NaN where one of the two is missing.

    >>> auroc(np.array([1.0, 2.0, 3.0]), np.array([False, True, True]))
    1.0
    """
    from scipy.stats import rankdata

    right = int(labels.sum())
    wrong = len(labels) - right
    if not right or not wrong:
        return float("nan")
    ranks = rankdata(score)
    return float((ranks[labels].sum() - right * (right + 1) / 2) / (right * wrong))


def _auroc_without(
    score: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"], problem: Int[np.ndarray, " n"]
) -> tuple[float, dict[int, float]]:
    """Return the AUROC, and that without each problem, from the pairs that its rollouts win."""
    from scipy.stats import rankdata

    ranks = rankdata(score)
    won = np.empty(len(score))  # by a correct rollout over wrong ones, or over a wrong one
    right, wrong = int(labels.sum()), int((~labels).sum())
    if right and wrong:
        won[labels] = ranks[labels] - rankdata(score[labels])
        won[~labels] = right - (ranks[~labels] - rankdata(score[~labels]))
    total, found = float(won[labels].sum()), {}
    for p in np.unique(problem).tolist():
        own = problem == p
        here, r = labels[own], int(labels[own].sum())
        pairs = (right - r) * (wrong - (len(here) - r))
        if not pairs:
            found[p] = float("nan")
            continue
        ours = rankdata(score[own])
        inside = float(ours[here].sum()) - r * (r + 1) / 2  # counted twice in what is taken away
        found[p] = (total - float(won[own].sum()) + inside) / pairs
    return (total / (right * wrong) if right and wrong else float("nan")), found


def grouped_auroc(scores: Scores, labels: Bool[np.ndarray, " n"], groups: Groups) -> Effect:
    """Return the AUROC over rollouts of a fold, averaged over folds, less one half.

    Folds are not pooled: a fold with many correct rollouts leaves fewer to its probe, whose scores
    are then lower, and pooled AUROC without any signal falls below .5. The jackknife leaves out a
    problem at a time, with the probes held.
    """
    folds = [f for f in np.unique(scores.fold) if np.isfinite(scores.score[scores.fold == f]).all()]
    rows = {f: np.flatnonzero(scores.fold == f) for f in folds}
    problem = groups.problem
    parts = {f: _auroc_without(scores.score[r], labels[r], problem[r]) for f, r in rows.items()}
    values = {f: whole for f, (whole, _) in parts.items()}
    known = [f for f in folds if np.isfinite(values[f])]
    if not known or groups.n_problems < FEWEST_PROBLEMS:
        return unknown()
    total = sum(values[f] for f in known)
    replicates = []
    for p in range(groups.n_problems):
        f = int(scores.fold[groups.starts[p]])
        if f not in known:
            continue
        without = parts[f][1][p]
        replicates.append((total - values[f] + without) / len(known) - 0.5)
    return jackknife_effect(total / len(known) - 0.5, np.array(replicates), len(replicates))


def within_auroc(
    scores: Scores, labels: Bool[np.ndarray, " n"], groups: Groups, *, seed: int, n_boot: int
) -> Effect:
    """Return the mean over mixed problems of the AUROC among their own rollouts, less one half."""
    each = [
        auroc(scores.score[groups.rows(p)], labels[groups.rows(p)])
        for p in range(groups.n_problems)
    ]
    return mean_effect(np.array(each) - 0.5, seed=seed, label="probe/within", n_boot=n_boot,
        bounds=(-0.5, 0.5),
    )  # fmt: skip


def shuffled_labels(labels: Bool[np.ndarray, " n"], seed: int) -> Bool[np.ndarray, " n"]:
    """Return the labels dealt anew over all rollouts: the control in which nothing can be read."""
    return derive_rng(seed, "probe", "shuffled").permutation(labels)


def nuisance_features(
    token: Int[np.ndarray, " n"],
    entropy: Float[np.ndarray, " n"],
    length: Float[np.ndarray, " n"],
) -> Float[np.ndarray, "n k"]:
    """Return what needs no state to be known: the token at the anchor, entropy, length.

    Args:
        token: id of the token at the anchor; one column a token that ten rollouts share.
        entropy: of the next-token distribution, nats.
        length: of the response, tokens; its log is taken.
    """
    counts = pd.Series(token).value_counts()
    common = sorted(counts[counts >= 10].index)
    columns = [token == t for t in common]
    return np.stack([*columns, entropy, np.log(np.maximum(length, 1.0))], axis=1).astype(float)


def transfer_auroc(
    train: Float[np.ndarray, "n k"],
    labels: Bool[np.ndarray, " n"],
    test: Float[np.ndarray, "m k"],
    test_labels: Bool[np.ndarray, " m"],
    problem: Int[np.ndarray, " m"],
) -> Effect:
    """Return the AUROC, less one half, of a probe fitted on one benchmark and read on another."""
    probe = fit_probe(train, labels)
    if probe is None:
        return unknown()
    score = probe.decision_function(test)
    value = auroc(score, test_labels) - 0.5
    present = np.unique(problem)
    replicates = [auroc(score[problem != p], test_labels[problem != p]) - 0.5 for p in present]
    return jackknife_effect(value, np.array(replicates), len(present))
