"""Whether two models were asked in the same words: prompts, compared problem by problem.

The same weights behind another chat template give other answers, so a difference between two models is
one of weights only where both were given the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.models.identity import vocabulary_hash
from geomrl.models.loading import load_tokenizer
from geomrl.problems.problem import Problem
from geomrl.rollout.generate import RolloutConfig, problem_prompt
from geomrl.rollout.imports.chats import as_chat

_BEFORE, _AFTER = 24, 48  # characters shown of where two prompts part
_KEY = ["benchmark", "problem_id"]


@dataclass(frozen=True)
class Asked:
    """The prompts that a model was given.

    `table` has one row a problem: benchmark, problem_id, prompt (text; null where it is not known) and
    prompt_ids (null where they are not known). `vocabulary` is the tokenizer's hash, where it is known.
    """

    label: str
    table: pd.DataFrame
    vocabulary: str | None = None


@dataclass(frozen=True, kw_only=True)
class PromptDifference:
    """Where two models' prompts differ: the first such problem, and how many of those in common.

    `exact`: both are known to the token, and mean the same by a token; otherwise texts alone tell.
    """

    benchmark: str
    problem_id: str
    one: str
    other: str
    n: int
    n_common: int
    exact: bool

    def sentence(self, first: str, second: str) -> str:
        """Return what differs, in words, for two models of these names."""
        return (
            f"{first} and {second} were not asked in the same words: the prompt of problem "
            f"'{self.problem_id}' of {self.benchmark} is {self.one} for {first} and {self.other} for "
            f"{second} ({self.n} of {self.n_common} problems in common have another prompt)"
        )


def asked_of(label: str, rollouts: pd.DataFrame, vocabulary: str | None = None) -> Asked:
    """Return the prompts of a rollout table."""
    return Asked(label, rollouts.drop_duplicates(_KEY), vocabulary)


def rendered(
    label: str, tokenizer: Any, problems: Sequence[Problem], config: RolloutConfig
) -> Asked:
    """Return the prompts that a model of this tokenizer would be given."""
    prompts = [problem_prompt(problem, tokenizer, config) for problem in problems]
    table = pd.DataFrame(
        {
            "benchmark": [problem.benchmark for problem in problems],
            "problem_id": [problem.problem_id for problem in problems],
            "prompt": [prompt.text for prompt in prompts],
            "prompt_ids": pd.Series([prompt.ids for prompt in prompts], dtype=object),
        }
    )
    return Asked(label, table, vocabulary_hash(tokenizer))


def prompt_difference(one: Asked, other: Asked) -> PromptDifference | None:
    """Return where two models' prompts differ, over the problems that both have; None if nowhere.

    Texts are compared, and behind equal texts the token ids, unless the vocabularies are known to
    differ. A chat that is stored as messages is not compared with a text.
    """
    columns = [*_KEY, "prompt", "prompt_ids"]
    both = one.table[columns].merge(other.table[columns], on=_KEY, suffixes=("_1", "_2"))
    families = None not in (one.vocabulary, other.vocabulary)
    foreign = families and one.vocabulary != other.vocabulary
    parted = []
    for row in both.to_dict("records"):
        shown = _parting(row, ids=not foreign, same=families and not foreign)
        if shown is not None:
            parted.append((row, shown))
    if not parted:
        return None
    row, (mine, theirs) = parted[0]
    known = all(isinstance(_ids(row[name]), list) for name in ("prompt_ids_1", "prompt_ids_2"))
    return PromptDifference(
        benchmark=str(row["benchmark"]),
        problem_id=str(row["problem_id"]),
        one=mine,
        other=theirs,
        n=len(parted),
        n_common=len(both),
        exact=known and not foreign,
    )


def _parting(row: dict[Any, Any], *, ids: bool, same: bool) -> tuple[str, str] | None:
    """Return both prompts around the first place where they differ; None where they do not.

    Args:
        row: both prompts, and both lists of ids.
        ids: whether ids behind equal texts are compared.
        same: whether the vocabularies are known to be one.
    """
    texts = row["prompt_1"], row["prompt_2"]
    if not all(isinstance(text, str) for text in texts):
        return None
    if texts[0] != texts[1]:
        chats = [as_chat(text) is not None for text in texts]
        return _shown(*texts) if chats[0] == chats[1] else None
    one, other = _ids(row["prompt_ids_1"]), _ids(row["prompt_ids_2"])
    if not ids or one is None or other is None or one == other:
        return None
    short, long = sorted((one, other), key=len)
    front = len(long) > len(short) and long[len(long) - len(short) :] == short
    if not same and not front:
        return None  # the same text in the tokens of another vocabulary
    return f"tokens {_listed(one)}", f"tokens {_listed(other)} of the same text"


def _ids(value: Any) -> list[int] | None:
    return [int(i) for i in value] if hasattr(value, "__len__") else None


def _listed(ids: list[int]) -> str:
    return f"[{', '.join(map(str, ids[:4]))}, ...]"


def _shown(one: str, other: str) -> tuple[str, str]:
    """Return both texts around the first character that differs.

    >>> _shown("Q: 1+1?", "Q: 1+2?")
    ("'Q: 1+1?'", "'Q: 1+2?'")
    """
    place = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    start = max(0, place - _BEFORE)

    def part(text: str) -> str:
        cut = text[start : place + _AFTER]
        return f"{'...' if start else ''}{cut!r}{'...' if len(text) > place + _AFTER else ''}"

    return part(one), part(other)


def check_prompts(every: Sequence[Asked], *, own: bool) -> list[str]:
    """Return a note a model that was asked otherwise than the first, or refuse where that is certain.

    Args:
        every: the models' prompts; the first is the reference.
        own: the user wants each model to have its own prompt: nothing is refused.

    Raises:
        GeomrlError: two models of one vocabulary were given different tokens for one problem.
    """
    notes = []
    for other in every[1:]:
        found = prompt_difference(every[0], other)
        if found is None:
            continue
        said = found.sentence(every[0].label, other.label)
        if found.exact and not own:
            raise GeomrlError(
                f"{said}. What differs between them would be prompt and weights together. Let one "
                "tokenizer's chat template render the prompts of both: --tokenizer MODEL_OR_FOLDER "
                "(prompt_tokenizer in RolloutConfig); rollouts that are only read have to be sampled "
                "again for that. Or say that each model is to have its own prompt: --own-prompts "
                "(own_prompts=True)"
            )
        notes.append(f"{said}: their difference is of prompts and models together")
    return notes


def model_prompts(
    label: str,
    name: str,
    problems: Sequence[Problem],
    config: RolloutConfig,
    *,
    trust_remote_code: bool = False,
) -> Asked:
    """Return the prompts that a model will be given, before it is loaded.

    Args:
        label: its name in messages.
        name: the model.
        problems: what it will be asked.
        config: template, system prompt, thinking, and whose tokenizer renders the prompts.
        trust_remote_code: run code that a tokenizer brings along.

    Raises:
        GeomrlError: there is no such tokenizer.
    """
    tokenizer = load_tokenizer(config.prompt_tokenizer or name, trust_remote_code=trust_remote_code)
    return rendered(label, tokenizer, problems, config)
