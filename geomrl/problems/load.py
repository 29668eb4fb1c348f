"""Load problems by name or from local files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

from geomrl.errors import GeomrlError
from geomrl.problems.arithmetic import BENCHMARK as ARITHMETIC
from geomrl.problems.arithmetic import MEDIUM, PRODUCT, heldout_problems, training_problems
from geomrl.problems.arithmetic import TRAINING_BENCHMARK as ARITHMETIC_TRAIN
from geomrl.problems.benchmarks import BENCHMARKS, load_benchmark
from geomrl.problems.problem import Problem
from geomrl.problems.rows import read_problems

FILE_SUFFIXES = (".jsonl", ".parquet")
ARITHMETIC_PROBLEMS = 200
ARITHMETIC_TRAIN_PROBLEMS = 20_000
TRAINED_LEVELS = (MEDIUM.name, PRODUCT.name)


def load_problems(
    spec: str, *, limit: int | None = None, columns: Mapping[str, str] | None = None
) -> list[Problem]:
    """Load problems by benchmark name or from local files.

    Args:
        spec: A comma-separated list of sources. A source is a benchmark's name (`aime24`, loaded
            from the hub; `arithmetic`, the bundled held-out split, and `arithmetic_train`, 20,000
            problems to train on, need no network), a `.jsonl` or `.parquet` file, whose stem
            becomes the benchmark's name, or `NAME=FILE`, which reads a local copy of a named
            benchmark and checks its size.
        limit: At most so many problems of each source, the first ones.
        columns: For files: the column of `statement`, `gold` and `id`, where the usual names do
            not fit; `a.b` reaches into a nested column. `{"gold": "reward_model.ground_truth"}`.

    Raises:
        GeomrlError: an unknown source, a faulty file (with its line), a benchmark of the wrong
            size, a hub that cannot be reached, or two sources that share a benchmark's name.
    """
    if limit is not None and limit <= 0:
        raise GeomrlError(f"limit {limit} leaves no problem: give a positive number, or none")
    problems: list[Problem] = []
    for source in [part.strip() for part in spec.split(",") if part.strip()]:
        loaded = _load_source(source, columns, limit)
        taken = {problem.benchmark for problem in problems}
        if loaded[0].benchmark in taken:
            raise GeomrlError(
                f"'{source}': the benchmark '{loaded[0].benchmark}' is in '{spec}' twice, and its"
                " problems would mix; name each source once, or rename the file"
            )
        problems += loaded[:limit]
    if not problems:
        raise GeomrlError("no problems named: give a benchmark or a file, such as 'arithmetic'")
    return problems


def _load_source(
    source: str, columns: Mapping[str, str] | None, limit: int | None
) -> list[Problem]:
    if source == ARITHMETIC:
        return heldout_problems(ARITHMETIC_PROBLEMS, seed=0)
    if source == ARITHMETIC_TRAIN:
        # The levels that the bundled reasoner solves sometimes: of the others nearly every group is
        # all correct or all wrong, and dynamic sampling would throw it away.
        mixed = (p for p in training_problems(seed=0) if p.meta["level"] in TRAINED_LEVELS)
        # Drawn one by one, so that few are had without the seconds that all of them take.
        drawn = islice(mixed, min(limit or ARITHMETIC_TRAIN_PROBLEMS, ARITHMETIC_TRAIN_PROBLEMS))
        return [replace(problem, benchmark=ARITHMETIC_TRAIN) for problem in drawn]
    name, equals, path = source.partition("=")
    if equals and name in BENCHMARKS:
        return load_benchmark(name, Path(path), columns)
    if source in BENCHMARKS:
        return load_benchmark(source)
    if source.endswith(FILE_SUFFIXES):
        return read_problems(Path(source), Path(source).stem, columns)
    names = ", ".join([ARITHMETIC, ARITHMETIC_TRAIN, *BENCHMARKS])
    raise GeomrlError(
        f"'{source}' is neither a benchmark ({names}) nor a"
        f" {' or '.join(FILE_SUFFIXES)} file, nor NAME=FILE with such a name: check the spelling"
    )
