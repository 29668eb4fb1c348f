"""Cleaning a training set: duplicates, contradictory answers, and overlap with benchmarks."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from geomrl.problems.problem import Problem

SHINGLE_WORDS = 8
NEAR_SHARE = 0.5


@dataclass(frozen=True)
class Deduplication:
    """What `deduplicate` found. `dropped` = `duplicates` plus all of the contradictory groups."""

    rows: int
    duplicates: int
    contradictory_groups: int
    kept: int

    def __str__(self) -> str:
        """One line for a log."""
        return (
            f"{self.rows} problems; {self.duplicates} repeat the text of another;"
            f" {self.contradictory_groups} texts have contradictory answers and were dropped;"
            f" {self.kept} kept"
        )


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """A training problem that a benchmark also has.

    "exact": the same text but for white space. "near": it contains at least half of the benchmark
    problem's 8-word sequences (`share`).
    """

    problem_id: str
    benchmark: str
    benchmark_id: str
    kind: Literal["exact", "near"]
    share: float


def deduplicate(problems: Sequence[Problem]) -> tuple[list[Problem], Deduplication]:
    """Keep the first of each text; drop every problem whose text has two different answers.

    Texts are compared without white space. Case counts, since it can tell variables apart.
    """
    groups: dict[str, list[Problem]] = defaultdict(list)
    keys: dict[str, str] = {}  # a set may contain each text a hundred times
    for problem in problems:
        text = problem.statement
        if text not in keys:
            keys[text] = _text_key(text)
        groups[keys[text]].append(problem)
    consistent = [group for group in groups.values() if len({p.gold for p in group}) == 1]
    report = Deduplication(
        rows=len(problems),
        duplicates=len(problems) - len(groups),
        contradictory_groups=len(groups) - len(consistent),
        kept=len(consistent),
    )
    return [group[0] for group in consistent], report


def find_contamination(training: Sequence[Problem], held_out: Sequence[Problem]) -> list[Overlap]:
    """Training problems that are also, exactly or nearly, in `held_out`.

    Near matches go by shared sequences of 8 words; a problem shorter than that can only match
    exactly. Paraphrases and translations are not found.
    """
    exact: dict[str, list[Problem]] = defaultdict(list)
    owners: dict[tuple[str, ...], set[int]] = defaultdict(set)
    sizes: list[int] = []
    for index, problem in enumerate(held_out):
        exact[_text_key(problem.statement)].append(problem)
        shingles = _shingles(problem.statement)
        sizes.append(len(shingles))
        for shingle in shingles:
            owners[shingle].add(index)
    overlaps: list[Overlap] = []
    for problem in training:
        same = exact.get(_text_key(problem.statement), [])
        overlaps += [
            Overlap(
                problem_id=problem.problem_id,
                benchmark=p.benchmark,
                benchmark_id=p.problem_id,
                kind="exact",
                share=1.0,
            )
            for p in same
        ]
        hits = Counter(
            index for shingle in _shingles(problem.statement) for index in owners.get(shingle, ())
        )
        for index, count in sorted(hits.items()):
            share = count / sizes[index]
            other = held_out[index]
            if share >= NEAR_SHARE and other not in same:
                overlaps.append(
                    Overlap(
                        problem_id=problem.problem_id,
                        benchmark=other.benchmark,
                        benchmark_id=other.problem_id,
                        kind="near",
                        share=share,
                    )
                )
    return overlaps


def find_repeats(problems: Sequence[Problem]) -> list[Overlap]:
    """Problems whose text occurs earlier in the same set, each with every earlier one, as "exact"."""
    earlier: dict[str, list[Problem]] = defaultdict(list)
    overlaps: list[Overlap] = []
    for problem in problems:
        same = earlier[_text_key(problem.statement)]
        overlaps += [
            Overlap(
                problem_id=problem.problem_id,
                benchmark=p.benchmark,
                benchmark_id=p.problem_id,
                kind="exact",
                share=1.0,
            )
            for p in same
        ]
        same.append(problem)
    return overlaps


def _text_key(text: str) -> str:
    return re.sub(r"\s+", "", unicodedata.normalize("NFC", text))


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1)}
