"""Load problems by name or from local files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

from geomrl.errors import GeomrlError
from geomrl.problems.arithmetic import BENCHMARK as ARITHMETIC
from geomrl.problems.arithmetic import MEDIUM, PRODUCT, heldout_problems, training_problems
from geomrl.problems.arithmetic import TRAINING_BENCHMARK as ARITHMETIC_TRAIN
from geomrl.problems.benchmarks import BENCHMARKS, load_benchmark
from geomrl.problems.problem import Problem
from geomrl.problems.rows import read_problems
from geomrl.problems.variants import VARIANTS

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
            from the hub; `arithmetic`, the bundled held-out split, its variants
            `arithmetic_reworded`, `arithmetic_reordered` and `arithmetic_renumbered`, and
            `arithmetic_train`, 20,000 problems to train on, need no network), a `.jsonl` or
            `.parquet` file, whose stem becomes the benchmark's name, or `NAME=FILE`, which reads a
            local copy of a named benchmark and checks its size.
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


def load_variants(
    spec: str, originals: Sequence[Problem], columns: Mapping[str, str] | None = None
) -> list[Problem]:
    """Load variants of problems: the same problem in other words, or with other numbers.

    A file of variants is one of problems (`load_problems`) with a column `variant_of`, the original's
    id, and optionally `variant`, the kind of change. A problem may have several variants of a kind.

    Args:
        spec: as in `load_problems`: files, or the bundled sets.
        originals: the problems that are varied. Where an id is in several of their benchmarks
            the column must contain "BENCHMARK/ID".
        columns: as in `load_problems`, and also those of `variant_of` and `variant`.

    Returns:
        The variants; their `meta` contains `variant_of`, as "BENCHMARK/ID", and `variant`, which is the
        file's stem where the column is missing.

    Raises:
        GeomrlError: no such column, an original that is not known or not told apart (with the
            number of the row), or what `load_problems` raises.
    """
    columns = dict(columns or {})
    of, kind = columns.pop("variant_of", "variant_of"), columns.pop("variant", "variant")
    known: dict[str, set[str]] = {}
    for problem in originals:
        full = f"{problem.benchmark}/{problem.problem_id}"
        for name in (problem.problem_id, full):
            known.setdefault(name, set()).add(full)
    found: list[Problem] = []
    rows: dict[str, int] = {}
    for problem in load_problems(spec, columns=columns):
        row = rows[problem.benchmark] = rows.get(problem.benchmark, 0) + 1
        where = f"{spec}: {problem.benchmark}, problem {row} ('{problem.problem_id}')"
        named = problem.meta.get(of)
        if named is None:
            raise GeomrlError(
                f"{where}: no column '{of}' with the id of the problem that it is a variant of"
                f" (found {', '.join(map(str, problem.meta)) or 'none besides the problem itself'});"
                " add it, or name it as in columns={'variant_of': 'COLUMN'}"
            )
        meant = sorted(known.get(str(named), ()))
        if len(meant) != 1:
            reason = f"may be {' or '.join(meant)}" if meant else "is none of the original problems"
            example = meant[0] if meant else next(iter(known), "none were given")
            raise GeomrlError(
                f"{where}: '{of}' is '{named}', which {reason}; write an original's id, such as"
                f" '{example}'"
            )
        sort = problem.meta.get(kind)
        meta = problem.meta | {"variant_of": meant[0]}
        meta["variant"] = problem.benchmark if sort is None else str(sort)
        found.append(replace(problem, meta=meta))
    return found


@cache
def _bundled_variants(source: str) -> tuple[Problem, ...]:
    """Return a bundled set of variants; other numbers take a second to find."""
    return tuple(VARIANTS[source](heldout_problems(ARITHMETIC_PROBLEMS, seed=0), 0))


def _load_source(
    source: str, columns: Mapping[str, str] | None, limit: int | None
) -> list[Problem]:
    if source == ARITHMETIC:
        return heldout_problems(ARITHMETIC_PROBLEMS, seed=0)
    if source in VARIANTS:
        return [replace(problem, meta=dict(problem.meta)) for problem in _bundled_variants(source)]
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
    names = ", ".join([ARITHMETIC, ARITHMETIC_TRAIN, *VARIANTS, *BENCHMARKS])
    raise GeomrlError(
        f"'{source}' is neither a benchmark ({names}) nor a"
        f" {' or '.join(FILE_SUFFIXES)} file, nor NAME=FILE with such a name: check the spelling"
    )
