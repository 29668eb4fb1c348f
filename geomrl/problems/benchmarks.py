"""The named benchmarks: where they live on the hub, how many problems they have, known faults."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from geomrl.errors import GeomrlError, MissingExtra
from geomrl.problems.problem import Problem
from geomrl.problems.rows import file_rows, problems_of
from geomrl.problems.training_data import deduplicate

_logger = logging.getLogger("geomrl")


@dataclass(frozen=True)
class Benchmark:
    """One benchmark on the hub.

    `count` is the number of problems that a full load must have; None for training sets, which
    are de-duplicated instead. `columns` as in `load_problems`.
    """

    name: str
    hub_id: str
    split: str
    count: int | None
    _: KW_ONLY
    columns: Mapping[str, str] = field(default_factory=dict)
    config: str | None = None
    hint: str = ""


# Hub ids, splits and columns are those of the dataset cards and of public code that loads them.
# None of the downloads was tried by geomrl's authors; the local copies of aime24, aime25, amc23,
# hmmt_feb25, math500, minerva, olympiadbench, gsm8k and dapo17k were.
_PROBLEM_ANSWER = {"statement": "problem", "gold": "answer"}
_QUESTION_ANSWER = {"statement": "question", "gold": "answer"}
_TABLE = (
    Benchmark(
        "aime24", "HuggingFaceH4/aime_2024", "train", 30, columns=_PROBLEM_ANSWER | {"id": "id"}
    ),
    Benchmark(
        "aime25",
        "MathArena/aime_2025",
        "train",
        30,
        columns=_PROBLEM_ANSWER | {"id": "problem_idx"},
    ),
    Benchmark(
        "aime26",
        "MathArena/aime_2026",
        "train",
        30,
        columns=_PROBLEM_ANSWER | {"id": "problem_idx"},
    ),
    Benchmark("amc23", "math-ai/amc23", "test", 40, columns=_QUESTION_ANSWER | {"id": "id"}),
    Benchmark("amc24", "rawsh/2024_AMC12", "train", 45, columns=_PROBLEM_ANSWER),
    Benchmark(
        "hmmt_feb25",
        "MathArena/hmmt_feb_2025",
        "train",
        30,
        columns=_PROBLEM_ANSWER | {"id": "problem_idx"},
    ),
    Benchmark(
        "math500",
        "HuggingFaceH4/MATH-500",
        "test",
        500,
        columns=_PROBLEM_ANSWER | {"id": "unique_id"},
    ),
    Benchmark("minerva", "math-ai/minervamath", "test", 272, columns=_QUESTION_ANSWER),
    Benchmark(
        "olympiadbench",
        "Hothan/OlympiadBench",
        "train",
        674,
        columns={"statement": "question", "gold": "final_answer", "id": "id"},
        config="OE_TO_maths_en_COMP",
        hint="the copy with 675 holds 15 relay problems that nobody can answer; take the 674 of"
        " Hothan/OlympiadBench, OE_TO_maths_en_COMP",
    ),
    Benchmark("gsm8k", "openai/gsm8k", "test", 1319, columns=_QUESTION_ANSWER, config="main"),
    # 17,917 prompts, each 100 times over.
    Benchmark(
        "dapo17k",
        "BytedTsinghua-SIA/DAPO-Math-17k",
        "train",
        None,
        columns={
            "statement": "prompt",
            "gold": "reward_model.ground_truth",
            "id": "extra_info.index",
        },
    ),
)
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _TABLE}

# OlympiadBench's own ids. Faulty problems stay, so that scores compare with published ones, and
# say so in `meta["fault"]`; a gold answer that is plainly wrong is corrected.
_OLYMPIAD_GOLDS = {"2275": ("4", "published gold 1002001 is the number, not its digit sum")}
_OLYMPIAD_UNANSWERABLE = ("2655", "2967", "3095")
_UNANSWERABLE = "unanswerable: it needs numbers that other relay positions would pass on"


def load_benchmark(
    name: str, path: Path | None = None, columns: Mapping[str, str] | None = None
) -> list[Problem]:
    """Load a named benchmark, from the hub or from a local copy, and check its size.

    Raises:
        GeomrlError: `datasets` is missing, the hub cannot be reached, the size is wrong, or two
            problems of a training set share an id.
    """
    benchmark = BENCHMARKS[name]
    source = str(path) if path else f"hub dataset {benchmark.hub_id}"
    rows = file_rows(path) if path else _hub_rows(benchmark)
    named = columns if path else benchmark.columns
    if benchmark.count is None:
        return _training_set(problems_of(rows, name, source, named, repeats=True), source)
    problems = problems_of(rows, name, source, named)
    if len(problems) != benchmark.count:
        hint = f" ({benchmark.hint})" if benchmark.hint else ""
        raise GeomrlError(
            f"{source} holds {len(problems)} problems, but {name} has {benchmark.count}, and scores"
            f" on another set would not compare{hint}; load it by its file name instead if you"
            " mean a different set"
        )
    return [_mark_fault(problem) for problem in problems] if name == "olympiadbench" else problems


def _training_set(problems: list[Problem], source: str) -> list[Problem]:
    """Keep one problem of each text, and say what was dropped: aloud where answers contradict.

    Raises:
        GeomrlError: two different problems share an id.
    """
    kept, report = deduplicate(problems)
    level = logging.WARNING if report.contradictory_groups else logging.INFO
    _logger.log(level, "%s: %s", source, report)
    owners: dict[str, Problem] = {}
    for problem in kept:
        other = owners.setdefault(problem.problem_id, problem)
        if other is not problem:
            raise GeomrlError(
                f"{source}: the id '{problem.problem_id}' belongs to two problems"
                f" ('{other.statement[:60]}' and '{problem.statement[:60]}'), and their rollouts could"
                " not be told apart; map `id` to another column"
            )
    return kept


def _hub_rows(benchmark: Benchmark) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a hub dataset. Only data files are read; code in a dataset is never run."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "hub", f"loading {benchmark.name} from the hub") from error
    try:
        rows = datasets.load_dataset(benchmark.hub_id, benchmark.config, split=benchmark.split)
    except Exception as error:
        cause = str(error).strip().splitlines() or [type(error).__name__]
        raise GeomrlError(
            f"{benchmark.name}: the hub dataset {benchmark.hub_id} could not be loaded"
            f" ({cause[0][:200]}); check the network, or download it elsewhere and pass"
            f" '{benchmark.name}=FILE' with a .jsonl or .parquet file"
        ) from error
    for number, row in enumerate(rows):
        yield f"{benchmark.hub_id}, row {number}", dict(row)


def _mark_fault(problem: Problem) -> Problem:
    number = re.sub(r"^\D*", "", problem.problem_id)
    if number in _OLYMPIAD_GOLDS:
        gold, fault = _OLYMPIAD_GOLDS[number]
        return dataclasses.replace(problem, gold=gold, meta=problem.meta | {"fault": fault})
    if number in _OLYMPIAD_UNANSWERABLE:
        return dataclasses.replace(problem, meta=problem.meta | {"fault": _UNANSWERABLE})
    return problem
