"""Did the policy change? Two policies' rollouts of the same problems, compared by problem.

Three statistics are compared: how often a policy is right, which answers it gives, and how long its
responses are. A policy that reaches the same answers by other steps, at the same length, shows no
change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from geomrl.errors import GeomrlError
from geomrl.seeds import derive_rng
from geomrl.stats.effect import N_BOOT, Effect, mean_effect
from geomrl.stats.passk import count_correct
from geomrl.stats.permutation import permutation_p

N_PERM = 1999


@dataclass(frozen=True)
class PolicyEvidence:
    """Changes from the base to the RL policy, by problem.

    Attributes:
        pass_at_1: share of correct rollouts.
        answers: mean over problems of sum_a (p_a - q_a)^2, p and q the policies' chances of answer
            a, estimated without bias: about 0 where the policies agree. Its p is one-sided, by
            permutation.
        log_length: mean log of the response's number of tokens.
        n_samples: rollouts of each problem and policy.
    """

    pass_at_1: Effect
    answers: Effect
    log_length: Effect
    n_samples: int


def policy_evidence(
    base: pd.DataFrame,
    rl: pd.DataFrame,
    *,
    seed: int = 0,
    n_perm: int = N_PERM,
    n_boot: int = N_BOOT,
) -> PolicyEvidence:
    """Compare two policies' rollouts.

    Args:
        base: problem, sample, verdict, answer_class, length; one row a rollout. Answer classes are
            those of both policies' answers together; rollouts without an answer are a class.
        rl: the same of the other policy.
        seed: of permutations and bootstrap.
        n_perm: permutations.
        n_boot: bootstrap draws.

    Raises:
        GeomrlError: a problem or sample is missing on one side.
    """
    n = int(base.groupby("problem").size().max())
    counts = {}
    for name, part in (("base", base), ("RL", rl)):
        ids, right = count_correct(
            part["problem"].tolist(), (part["verdict"] == "correct").tolist(), n
        )
        counts[name] = dict(zip(ids, right.tolist(), strict=True))
    if counts["base"].keys() != counts["RL"].keys():
        odd = sorted(counts["base"].keys() ^ counts["RL"].keys())
        raise GeomrlError(
            f"{len(odd)} problems were sampled from one policy only (first: {odd[0]}); sample both "
            "on the same problems"
        )
    problems = list(counts["base"])
    order = {name: i for i, name in enumerate(problems)}
    rates = np.array([(counts["RL"][p] - counts["base"][p]) / n for p in problems])
    tables = []
    for part in (base, rl):
        part = part.assign(at=part["problem"].map(order)).sort_values(["at", "sample"])
        tables.append(
            (
                part["answer_class"].astype("Int64").fillna(-1).to_numpy(int).reshape(-1, n),
                np.log(np.maximum(part["length"].to_numpy(float), 1.0)).reshape(-1, n),
            )
        )
    (one, one_length), (other, other_length) = tables

    def mean(changes: Float[np.ndarray, " p"], label: str) -> Effect:
        return mean_effect(changes, seed=seed, label=f"policy/{label}", n_boot=n_boot)

    distances = answer_distances(one, other)
    answers = mean(distances, "answers")
    drawn = _permuted(one, other, n_perm, seed)
    p = permutation_p(float(distances.mean()), drawn, two_sided=False)
    spread = float(drawn.std(ddof=1)) if n_perm > 1 else np.nan
    return PolicyEvidence(
        mean(rates, "pass@1"),
        Effect(
            answers.value,
            answers.low,
            answers.high,
            p=p,
            se=max(answers.se, spread),
            df=answers.df,
            n_problems=len(problems),
        ),
        mean(other_length.mean(axis=1) - one_length.mean(axis=1), "length"),
        n,
    )


def answer_distances(
    base: Int[np.ndarray, "p n"], rl: Int[np.ndarray, "p n"]
) -> Float[np.ndarray, " p"]:
    """Return each problem's unbiased estimate of sum_a (p_a - q_a)^2.

    That is the agreement of two samples of one policy, of the other, less twice that of one of
    each. Sample i of both policies had the same random seed, so that pair is left out of the last.

    >>> answer_distances(np.array([[1, 1, 1]]), np.array([[2, 2, 2]]))
    array([2.])
    """
    n = base.shape[1]
    off = ~np.eye(n, dtype=bool)

    def agreement(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, " p"]:
        return (a[:, :, None] == b[:, None, :])[:, off].mean(axis=1)

    return agreement(base, base) + agreement(rl, rl) - 2.0 * agreement(base, rl)


def _permuted(
    base: Int[np.ndarray, "p n"], rl: Int[np.ndarray, "p n"], n_perm: int, seed: int
) -> Float[np.ndarray, " m"]:
    """Return the mean distance with the policies' names swapped at random within each sample pair.

    A swap keeps samples of the same seed in a pair. With s = +-1 for each pair, all that changes is
    sum_ij s_i s_j M_ij, so one product a problem gives every permutation.
    """
    p, n = base.shape
    rng = derive_rng(seed, "policy", "answers")
    # Agreement of i and j: same side minus other side, halved; the rest does not move.
    equal = [(a[:, :, None] == b[:, None, :]).astype(float) for a in (base, rl) for b in (base, rl)]
    matrix = equal[0] + equal[3] - equal[1] - equal[2]  # bb + rr - br - rb, [P, n, n]
    matrix[:, np.arange(n), np.arange(n)] = 0.0
    total = np.zeros(n_perm)
    for each in matrix:
        if each.any():
            signs = rng.integers(0, 2, (n_perm, n)) * 2.0 - 1.0
            total += np.einsum("mi,mi->m", signs @ each, signs)
    return total / (p * n * (n - 1))
