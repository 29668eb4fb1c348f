"""The data side of a training step: which prompts come next, and which groups are trained on.

Bookkeeping only: generation and grading are behind one callable. Everything is a pure function
of the configuration, the cursor and the carried groups, so all ranks agree and a resumed run goes
on as an uninterrupted one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from geomrl.errors import GeomrlError
from geomrl.problems.problem import Problem
from geomrl.problems.prompts import default_template, render_prompt
from geomrl.problems.training_data import (
    Deduplication,
    Overlap,
    deduplicate,
    find_contamination,
)
from geomrl.seeds import derive_rng
from geomrl.train.batch import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from geomrl.train.sections import DapoConfig, DataConfig

Group = list[Sample]
"""The rollouts of one prompt."""


@dataclass(frozen=True, kw_only=True)
class TrainingPrompt:
    """A problem as the model is given it. `index` is its place among the training prompts."""

    index: int
    problem: Problem
    prompt: str
    prompt_kind: str
    prompt_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PromptReport:
    """What became of the training problems. Contaminated ones are reported and stay in.

    Args:
        problems: how many there were.
        deduplication: what was dropped as repeated or contradictory; None where all were kept.
        too_long: ids of problems whose prompt exceeds the limit; they were left out.
        contaminated: problems that the evaluation has too, exactly or nearly.
        kept: how many prompts there are.
    """

    problems: int
    deduplication: Deduplication | None
    too_long: tuple[str, ...]
    contaminated: tuple[Overlap, ...]
    kept: int

    def __str__(self) -> str:
        """One line for a log."""
        parts = [f"{self.kept} of {self.problems} training problems"]
        if self.deduplication is not None:
            parts.append(
                f"{self.deduplication.duplicates} repeated texts,"
                f" {self.deduplication.contradictory_groups} texts with contradictory answers"
            )
        parts.append(f"{len(self.too_long)} with too long a prompt")
        if self.contaminated:
            exact = [o.problem_id for o in self.contaminated if o.kind == "exact"]
            named = f" (first: {', '.join(exact[:3])})" if exact else ""
            parts.append(
                f"kept, though the evaluation holds the same: {len(exact)}{named}, or shares long"
                f" passages: {len(self.contaminated) - len(exact)}"
            )
        return "; ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a training step trains on, and what the next one begins with.

    Args:
        groups: the step's groups, carried ones first.
        carried: groups for the next step; they keep their policy step and log-probabilities.
        cursor: where the next step's prompts begin.
        counts: `rounds` and, as "groups/...": `sampled` in this step; of these `all_correct`,
            `all_wrong` (none correct) and `all_no_answer` (a part of `all_wrong`); `carried` in
            from earlier steps; `kept` to train on; `surplus` left over; `short` of the number wanted.
        all_correct: the groups that were dropped because all rollouts were correct.
        pass_rate: share of correct rollouts among all that were sampled in this step; NaN where
            none was.
    """

    groups: list[Group]
    carried: list[Group]
    cursor: int
    counts: dict[str, int]
    all_correct: list[Group]
    pass_rate: float


@dataclass(frozen=True)
class PromptOrder:
    """The order in which prompts are drawn, without end: a new permutation every epoch.

    A cursor counts prompts from the start of training: it lies in epoch `cursor // n_prompts`.

    Args:
        n_prompts: how many there are.
        round_prompts: how many a round of generation draws.
        seed: the run's seed.

    Raises:
        GeomrlError: a round would have to draw a prompt twice.
    """

    n_prompts: int
    round_prompts: int
    seed: int

    def __post_init__(self) -> None:
        if self.n_prompts < self.round_prompts:
            raise GeomrlError(
                f"{self.n_prompts} training prompts, but a round of generation draws"
                f" {self.round_prompts} different ones: lower data.prompts_per_step or give more"
                " problems"
            )

    def at(self, cursor: int) -> int:
        """Return the prompt at a cursor."""
        epoch, place = divmod(cursor, self.n_prompts)
        return _permutation(self.n_prompts, self.seed, epoch)[place]

    def draw(
        self, cursor: int, seen: Collection[int] = (), most: int | None = None
    ) -> tuple[list[int], int]:
        """Return the prompts of a round, `most` of them at most, and the cursor behind them.

        A prompt in `seen` is passed over, and so is one that an epoch's end has just drawn and the
        next epoch begins with: it waits for the epoch after. A step thus never contains a prompt
        twice. Fewer than a round come only where no other prompt is left.
        """
        passed = set(seen)
        drawn: list[int] = []
        size = self.round_prompts if most is None else min(most, self.round_prompts)
        while len(drawn) < size and len(passed) < self.n_prompts:
            index = self.at(cursor)
            cursor += 1
            if index not in passed:
                passed.add(index)
                drawn.append(index)
        return drawn, cursor


@lru_cache(maxsize=2)  # a round may lie in two epochs
def _permutation(n: int, seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(derive_rng(seed, "prompt order", epoch).permutation(n).tolist())


def training_prompts(
    problems: Sequence[Problem],
    tokenizer: PreTrainedTokenizerBase,
    data: DataConfig,
    held_out: Sequence[Problem] = (),
) -> tuple[list[TrainingPrompt], PromptReport]:
    """Render the prompts to train on, and say what was left out.

    Args:
        problems: from `load_problems`.
        tokenizer: the policy's.
        data: template, limits and whether to remove repeated statements.
        held_out: the evaluation's problems, to look for among the training problems.

    Raises:
        GeomrlError: a prompt has no tokens, or nothing is left to train on.
    """
    kept, deduplication = deduplicate(problems) if data.deduplicate else (list(problems), None)
    prompts: list[TrainingPrompt] = []
    too_long: list[str] = []
    for problem in kept:
        rendered = render_prompt(
            problem.statement,
            tokenizer,
            template=data.template or default_template(problem.benchmark),
            system=data.system,
            thinking=data.thinking,
        )
        if not rendered.ids:
            raise GeomrlError(
                f"problem {problem.problem_id} of {problem.benchmark}: its prompt has no tokens;"
                " check the template and the tokenizer"
            )
        if len(rendered.ids) > data.max_prompt_tokens:
            too_long.append(problem.problem_id)
            continue
        ids = tuple(rendered.ids)
        prompts.append(
            TrainingPrompt(
                index=len(prompts),
                problem=problem,
                prompt=rendered.text,
                prompt_kind=rendered.kind,
                prompt_ids=ids,
            )
        )
    if not prompts:
        raise GeomrlError(
            f"none of {len(problems)} training problems is left: {len(too_long)} prompts exceed"
            f" data.max_prompt_tokens {data.max_prompt_tokens}, {len(problems) - len(kept)} problems"
            " were repeated or contradictory; raise the limit or give other problems"
        )
    overlaps = find_contamination([prompt.problem for prompt in prompts], held_out)
    report = PromptReport(
        problems=len(problems),
        deduplication=deduplication,
        too_long=tuple(too_long),
        contaminated=tuple(overlaps),
        kept=len(prompts),
    )
    return prompts, report


def collect_groups(
    sample: Callable[[list[TrainingPrompt], int], list[Group]],
    prompts: Sequence[TrainingPrompt],
    order: PromptOrder,
    cursor: int,
    carried: Sequence[Group],
    *,
    wanted: int,
    dapo: DapoConfig,
) -> Collected:
    """Collect a step's groups by dynamic sampling (DAPO, arXiv 2503.14476, equation 11).

    Rounds of generation follow until `wanted` groups are there whose rollouts are partly correct,
    at most `dapo.max_rounds` of them. Carried groups come first and count. Where the rounds, or the
    prompts, run out, the step is made with the groups there are. What is asked is the verdict, never
    the shaped reward: wrong responses of different lengths are no reason to keep a group.

    Args:
        sample: makes and grades one group for each prompt of a round, whose number it is called with.
        prompts: all training prompts, by index.
        order: in which they come.
        cursor: where in it this step begins.
        carried: groups that the step before carried over.
        wanted: groups to train on.
        dapo: `filter_groups` (False keeps every group), `max_rounds`, `round_size` and `surplus`.

    Raises:
        GeomrlError: no group survives.
    """
    kept = list(carried)
    all_correct: list[Group] = []
    outcomes: Counter[str] = Counter()
    verdicts: list[bool] = []
    # A prompt that is carried is not drawn again: one step, one group of a prompt.
    seen = {group[0].group for group in carried}
    rounds = 0
    while len(kept) < wanted and rounds < dapo.max_rounds:
        missing, fresh = wanted - len(kept), len(kept) - len(carried)
        most = None
        if dapo.round_size == "needed":
            most = groups_to_draw(missing, kept=fresh, sampled=outcomes.total())
        drawn, cursor = order.draw(cursor, seen, most)
        if not drawn:
            break
        seen.update(drawn)
        groups = sample([prompts[index] for index in drawn], rounds)
        rounds += 1
        verdicts += [s.correct for group in groups for s in group]
        for _, group in zip(drawn, groups, strict=True):
            outcome = group_outcome(group)
            outcomes[outcome] += 1
            if outcome == "mixed" or not dapo.filter_groups:
                kept.append(group)
            elif outcome == "all_correct":
                all_correct.append(group)

    surplus = kept[wanted:]
    counts = {
        "rounds": rounds,
        "groups/sampled": outcomes.total(),
        "groups/all_correct": outcomes["all_correct"],
        "groups/all_wrong": outcomes["all_wrong"] + outcomes["all_no_answer"],
        "groups/all_no_answer": outcomes["all_no_answer"],
        "groups/carried": len(carried),
        "groups/kept": min(len(kept), wanted),
        "groups/surplus": len(surplus),
        "groups/short": max(wanted - len(kept), 0),
    }
    if not kept:
        raise GeomrlError(_nothing_kept(counts))
    return Collected(
        groups=kept[:wanted],
        carried=surplus if dapo.surplus == "carry" else [],
        cursor=cursor,
        counts=counts,
        all_correct=all_correct,
        pass_rate=sum(verdicts) / len(verdicts) if verdicts else math.nan,
    )


_SUFFICES = 1.645  # standard deviations: so many groups suffice 95 times in 100


def groups_to_draw(missing: int, *, kept: int, sampled: int) -> int:
    """Return how many groups to sample so that `missing` of them are likely kept.

    With p the share that is kept, n groups keep n p of them, give or take the binomial's standard
    deviation s = sqrt(n p (1 - p)). The answer is the least n with n p - 1.645 s >= missing. p is
    Laplace's estimate (kept + 1) / (sampled + 2): one half before anything was sampled.

    >>> groups_to_draw(100, kept=150, sampled=256), groups_to_draw(4, kept=252, sampled=256)
    (190, 5)
    """
    p = (kept + 1) / (sampled + 2)
    spread = _SUFFICES * math.sqrt(p * (1 - p))
    root = (spread + math.sqrt(spread**2 + 4 * p * missing)) / (2 * p)  # of n
    return math.ceil(root**2)


def group_outcome(
    group: Sequence[Sample],
) -> Literal["mixed", "all_correct", "all_wrong", "all_no_answer"]:
    """Return what a group's verdicts say: "mixed" has correct rollouts and others.

    "all_wrong" has none correct (wrong, without an answer, or timed out); "all_no_answer" has no
    answer at all.
    """
    correct = sum(s.correct for s in group)
    if 0 < correct < len(group):
        return "mixed"
    if correct:
        return "all_correct"
    return "all_no_answer" if all(s.verdict == "no_answer" for s in group) else "all_wrong"


def _nothing_kept(counts: dict[str, int]) -> str:
    """Say that no group survived, why, and what most likely helps."""
    sampled, silent = counts["groups/sampled"], counts["groups/all_no_answer"]
    right, wrong = counts["groups/all_correct"], counts["groups/all_wrong"]
    if 2 * silent > sampled:
        cure = "check data.marker and data.template, or raise rollout.max_tokens"
    elif right > wrong:
        cure = "the problems are too easy for this model: give harder ones, or more of them"
    else:
        cure = (
            "the problems are too hard for this model: give easier ones, or raise rollout.samples"
        )
    return (
        f"no group is left to train on: of {sampled} sampled in {counts['rounds']} rounds, {right}"
        f" were all correct and {wrong} had none correct ({silent} of these no answer at all), so"
        f" nothing can be compared within a group; {cure}"
    )
