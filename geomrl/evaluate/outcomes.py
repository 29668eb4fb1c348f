"""What one model's samples came to, problem by problem: the table that all accuracies are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.problems.problem import Problem
from geomrl.problems.training_data import Overlap, find_contamination, find_repeats

_NAMED = 5  # problems named in a message


@dataclass(frozen=True)
class Outcomes:
    """One model's graded samples, exactly `n` for every problem.

    `problems` has one row a problem: benchmark, problem_id, problem (its statement, or else its
    prompt), correct (how many), classes (the answer class of each sample: 0 is correct, None has no
    answer), and how many samples had no_answer, timeout or were truncated: cut off before an answer,
    so among those without one (NaN where the table does not say why responses ended). `left_out` names
    problems that were dropped, with their samples.
    """

    model: str
    problems: pd.DataFrame
    n: int
    left_out: tuple[str, ...] = ()


def count_outcomes(
    rollouts: pd.DataFrame, model: str, *, n: int | None = None, only_complete: bool = False
) -> Outcomes:
    """Count one model's rollouts, and insist on exactly n samples of every problem.

    Args:
        rollouts: a rollout table with verdicts and answer classes.
        model: the name for tables.
        n: samples of every problem; None takes the most frequent number.
        only_complete: leave out problems with another number, and name them, instead of refusing.

    Raises:
        GeomrlError: a problem has more or fewer samples, the policies are several, or an answer has
            no class.
    """
    _check(rollouts, model)
    groups = rollouts.groupby(["benchmark", "problem_id"], sort=False)
    sizes = groups.size()
    if n is None:
        n = int(sizes.mode().max())
    uneven = sizes[sizes != n]
    listed = [
        f"{name[0]}/{name[1]} ({size})" for name, size in zip(uneven.index, uneven, strict=True)
    ]
    if len(uneven) and not only_complete:
        raise GeomrlError(_uneven_message(model, uneven, len(sizes), n))
    if len(uneven) == len(sizes):
        raise GeomrlError(
            f"{model}: none of its {len(sizes)} problems has {n} samples; the commonest number is "
            f"{int(sizes.mode().max())}: ask for that many (-n)"
        )
    rows = [_row(group) for _, group in groups if len(group) == n]
    return Outcomes(model, pd.DataFrame(rows), n, tuple(listed))


def _uneven_message(model: str, uneven: pd.Series, total: int, n: int) -> str:
    (bench, problem), size = uneven.index[0], int(uneven.iloc[0])
    rest = f", and {len(uneven) - 1} more of {total} have another number" if len(uneven) > 1 else ""
    return (
        f"{model}: problem '{problem}' of {bench} has {size} samples where {n} are due{rest}. Every "
        "problem must have the same number, or pass@k is wrong and hard problems count less. Finish "
        "the rollouts (the same command goes on from where it stopped), say which number is due "
        "(-n), or leave these problems out by --only-complete"
    )


def _check(rollouts: pd.DataFrame, model: str) -> None:
    policies = rollouts["policy"].dropna().unique().tolist()
    if len(policies) > 1:
        raise GeomrlError(
            f"{model}: rollouts of {len(policies)} policies ({', '.join(map(str, policies[:4]))}) would "
            "be counted as one model's; evaluate them apart"
        )
    unclassed = rollouts[
        rollouts["answer_class"].isna()
        & rollouts["answer"].notna()
        & rollouts["verdict"].isin(["wrong", "timeout"])
    ]
    if len(unclassed):
        raise GeomrlError(
            f"{model}: rollout {unclassed['rollout_id'].iloc[0]} has an answer and no answer class, so "
            "no majority can be counted; import the rollouts again with `geomrl rollout --import`"
        )


def _row(group: pd.DataFrame) -> dict[str, Any]:
    text = group["problem"].iloc[0]
    right = (group["verdict"] == "correct").tolist()
    classes = [
        0 if correct else None if pd.isna(one) else int(one)
        for correct, one in zip(right, group["answer_class"], strict=True)
    ]
    silent, ended = group["verdict"] == "no_answer", group["finish_reason"]
    cut = int((silent & (ended == "length")).sum())
    return {
        "benchmark": group["benchmark"].iloc[0],
        "problem_id": group["problem_id"].iloc[0],
        "problem": text if isinstance(text, str) else group["prompt"].iloc[0],
        "correct": sum(right),
        "classes": tuple(classes),
        "no_answer": int(silent.sum()),
        "timeout": int((group["verdict"] == "timeout").sum()),
        "truncated": cut if ended.notna().all() else float("nan"),
    }


def check_same_problems(outcomes: Sequence[Outcomes]) -> list[str]:
    """Check that an id means the same problem for every model; return what differs between them.

    Raises:
        GeomrlError: two models have different texts under one id: pairing them would be nonsense.
    """
    notes = []
    first = outcomes[0].problems.set_index(["benchmark", "problem_id"])["problem"]
    for other in outcomes[1:]:
        theirs = other.problems.set_index(["benchmark", "problem_id"])["problem"]
        common = first.index.intersection(theirs.index)
        for key in common:
            one, two = first[key], theirs[key]
            if _letters(one) != _letters(two):
                raise GeomrlError(
                    f"problem '{key[1]}' of {key[0]} is not the same for {outcomes[0].model} and "
                    f"{other.model} ({str(one)[:50]!r} against {str(two)[:50]!r}): their differences "
                    "would pair different problems. Name the right ids with --column problem_id=NAME"
                )
        alone = len(first) + len(theirs) - 2 * len(common)
        if alone:
            notes.append(
                f"{other.model} and {outcomes[0].model} have {len(common)} problems in common and "
                f"{alone} that only one has: differences are over the common ones"
            )
    return notes


def _letters(text: object) -> str:
    return "".join(str(text).split())


def shared_problems(outcomes: Sequence[Outcomes]) -> list[Overlap]:
    """Return the problems that are in two benchmarks, exactly or nearly, or twice in one.

    An average over the benchmarks would count an exact one twice, and its interval would take two
    copies for two problems.
    """
    every = pd.concat([each.problems for each in outcomes]).drop_duplicates(
        ["benchmark", "problem_id"]
    )
    groups = {
        name: [
            Problem(str(key), str(name), str(text), "")
            for key, text in zip(part["problem_id"], part["problem"], strict=True)
        ]
        for name, part in every.groupby("benchmark", sort=False)
    }
    found = [o for a, b in combinations(groups.values(), 2) for o in find_contamination(a, b)]
    return found + [overlap for part in groups.values() for overlap in find_repeats(part)]
