"""`geomrl eval`: accuracies of several models on the same problems, side by side and paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.evaluate.accuracy import accuracy_table, mixed_warning, problem_scores
from geomrl.evaluate.differences import COLUMNS, difference_table
from geomrl.evaluate.identical import identical
from geomrl.evaluate.outcomes import (
    Outcomes,
    check_same_problems,
    count_outcomes,
    shared_problems,
)
from geomrl.evaluate.presets import Preset, preset
from geomrl.evaluate.prompts import asked_of, check_prompts, model_prompts
from geomrl.evaluate.sources import Samples, Source, parse_source, read_source
from geomrl.files import read_json, read_parquet, write_csv, write_json, write_parquet
from geomrl.models.loading import short_name
from geomrl.models.options import ModelOptions
from geomrl.problems.load import load_problems
from geomrl.problems.problem import Problem
from geomrl.problems.training_data import Overlap
from geomrl.progress import Say
from geomrl.rollout.generate import RolloutConfig
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.steps import make_rollouts
from geomrl.runs.layout import ACCURACY, DIFFERENCES, SUMMARY
from geomrl.runs.manifest import record_step, versions
from geomrl.stats.power import LEVEL, POWER
from geomrl.stats.sign_flip import N_FLIPS
from geomrl.verify.marker import BOXED

PROBLEMS = "problems.parquet"
_SAMPLING = ("temperature", "top_p", "top_k", "max_tokens", "template", "system")
_NAMED = 5  # shared problems named in a note


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found: the tables and the summary of its folder.

    `accuracy`: see `accuracy.accuracy_table`; `differences`: see `differences.difference_table`,
    empty where there is one model; `problems`: every problem's scores (`accuracy.problem_scores`).
    """

    path: Path
    accuracy: pd.DataFrame
    differences: pd.DataFrame
    problems: pd.DataFrame
    summary: dict[str, Any]


def evaluate_models(
    models: Sequence[str],
    out: Path | str,
    *,
    problems: str | None = None,
    read: bool = False,
    sampling: Preset | None = None,
    n: int | None = None,
    ks: Sequence[int] = (),
    only_complete: bool = False,
    own_prompts: bool = False,
    rollouts: RolloutConfig | None = None,
    limit: int | None = None,
    importing: ImportConfig | None = None,
    benchmark: str | None = None,
    marker: str = BOXED,
    seed: int = 0,
    n_boot: int = 2000,
    n_flips: int = N_FLIPS,
    options: ModelOptions | None = None,
    show: bool = True,
    say: Say = lambda line: None,
) -> Evaluation:
    """Evaluate models, runs or foreign rollouts, compare them with the first, and write the tables.

    OUT/eval.parquet and differences.parquet (and .csv), problems.parquet, summary.json; what is
    sampled or imported lies in OUT/rollouts/MODEL, and is not made again. Its parameters are those
    of `geomrl eval`, in groups.

    Args:
        models: hub ids, folders, "reasoner", RUN, RUN@STEP (`model_names`), folders with rollouts,
            files of rollouts; "LABEL=WHAT" gives a name. The first is the reference.
        out: the folder.
        problems: benchmark names with commas, or a file; for models that are sampled.
        read: all of `models` are rollouts; RUN@STEP is an evaluation during training.
        sampling: how models are sampled; the preset "edas" by default.
        n: samples due for every problem of rollouts that are read; a run's own number, else the
            most frequent one, by default.
        ks: k of pass@k and majority@k, besides the powers of two.
        only_complete: leave out problems with another number of samples instead of refusing.
        own_prompts: let models have different prompts (each its own chat template) instead of
            refusing; the difference is then of prompts and models together, and a note says so.
        rollouts: chunk, seed, template, system prompt, thinking and tokenizer of the prompts of what is
            sampled; its n and sampling are taken from `sampling`.
        limit: the first so many problems only.
        importing: how foreign files are read; its `columns` name those of a problem file, too.
        benchmark: the benchmark's name for foreign files.
        marker: the answer marker's specification.
        seed: of the bootstrap and the tests; that of the samples is in `rollouts`.
        n_boot: bootstrap draws.
        n_flips: sign patterns of a test.
        options: how to load models.
        show: show progress bars.
        say: called with a line for the user.

    Raises:
        GeomrlError: a problem has a missing sample, an id means different problems, models were asked
            in different words, nothing is to be read or sampled; see the message.
    """
    out, importing = Path(out), importing or ImportConfig()
    sampling = sampling or preset("edas")
    any_file = importing.format is not None
    sources = [parse_source(text, read=read, any_file=any_file) for text in models]
    _check_sources(sources, problems, say)
    options = options or ModelOptions()
    for source in sources:
        if source.kind == "model":
            options.outline(source.text)  # what is missing is said before anything is sampled
    config = replace(rollouts or RolloutConfig(), n=sampling.n, sampling=sampling.sampling)
    _check_options(sources, config)
    place = out / "rollouts"
    found_ones = [
        None
        if source.kind == "model"
        else read_source(
            source, place, config=importing, marker=marker, benchmark=benchmark, show=show
        )
        for source in sources
    ]
    columns = dict(importing.columns)
    sampled = None in found_ones
    if sampled and len(sources) > 1:
        chosen = load_problems(str(problems), limit=limit, columns=columns)
        _check_asked(
            sources, found_ones, problems=chosen, config=config, options=options, own=own_prompts
        )
    every: list[Samples] = []
    for source, read_ones in zip(sources, found_ones, strict=True):
        if read_ones is not None:
            every += read_ones
            continue
        samples = "one sample" if sampling.n == 1 else f"{sampling.n} samples"
        say(f"{source.label}: {samples} a problem")
        run = make_rollouts(
            source.text, str(problems), place / short_name(source.label), config=config,
            limit=limit, columns=columns, marker=marker, options=options, show=show, say=say,
        )  # fmt: skip
        vocabulary = run.manifest["rollouts"]["settings"].get("vocabulary")
        every.append(
            Samples(source.label, source.text, run.rollouts, n=sampling.n, vocabulary=vocabulary)
        )
    labels = [samples.label for samples in every]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise GeomrlError(f"two models are called '{twice}'; name them: LABEL=MODEL")
    settings = {
        "models": [{"model": s.label, "source": s.source} for s in every],
        "problems": problems,
        "only_complete": only_complete,
        "own_prompts": own_prompts,
        "k": list(ks),
        "n": n,
        "seed": seed,
        "n_boot": n_boot,
        "n_flips": n_flips,
    }
    record_step(out, "eval", settings, begun=False)  # tables are made anew each time
    found = compare_samples(
        every, n=n, ks=ks, only_complete=only_complete, own_prompts=own_prompts, seed=seed,
        n_boot=n_boot, n_flips=n_flips,
    )  # fmt: skip
    return _write(out, *found, {"sampling": sampling.source} if sampled else {})


def compare_samples(
    every: Sequence[Samples],
    *,
    n: int | None = None,
    ks: Sequence[int] = (),
    only_complete: bool = False,
    own_prompts: bool = False,
    seed: int = 0,
    n_boot: int = 2000,
    n_flips: int = N_FLIPS,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Return accuracies, differences to the first model, problem scores, and the summary.

    Arguments as in `evaluate_models`.

    Raises:
        GeomrlError: a problem has a missing sample, an id means different problems, or models were
            asked in different words.
    """
    outcomes = [
        count_outcomes(each.table, each.label, n=n or each.n, only_complete=only_complete)
        for each in every
    ]
    notes = list(dict.fromkeys(note for each in every for note in each.notes))
    notes += _left_out(outcomes) + check_same_problems(outcomes)
    asked = [asked_of(each.label, each.table, each.vocabulary) for each in every]
    notes += check_prompts(asked, own=own_prompts)
    notes += _different_benchmarks(outcomes) + _different_sampling(every) + _identical(every)
    shared = shared_problems(outcomes)
    exact = [overlap for overlap in shared if overlap.kind == "exact"]
    average = not exact
    notes += _shared_notes(shared, several=_benchmarks(outcomes) > 1)
    scores = [problem_scores(each, ks) for each in outcomes]
    accuracy = pd.concat(
        [accuracy_table(s, average=average, seed=seed, n_boot=n_boot) for s in scores],
        ignore_index=True,
    )
    notes += filter(None, map(mixed_warning, scores))
    tables = [
        difference_table(
            other, scores[0], average=average, seed=seed, n_boot=n_boot, n_flips=n_flips
        )
        for other in scores[1:]
    ]
    for table, other in zip(tables, scores[1:], strict=True):
        if table.empty:
            notes.append(_nothing_common(other, scores[0]))
    kept = [table for table in tables if len(table)]
    differences = pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=COLUMNS)
    summary = {
        "models": [
            _model_summary(samples, outcome)
            for samples, outcome in zip(every, outcomes, strict=True)
        ],
        "reference": every[0].label,
        "accuracy": _nested(accuracy, ["model", "benchmark"], ["value", "low", "high"]),
        "differences": _nested(
            differences,
            ["model", "benchmark"],
            ["value", "low", "high", "p", "p_holm", "detectable"],
        ),
        "shared_problems": [asdict(overlap) for overlap in shared],
        "notes": notes,
        "seed": seed,
        "n_boot": n_boot,
        "n_flips": n_flips,
        "level": LEVEL,
        "power": POWER,
        "versions": versions(),
    }
    return accuracy, differences, pd.concat(scores, ignore_index=True), summary


def open_evaluation(path: Path | str) -> Evaluation:
    """Read what an evaluation left in its folder.

    Raises:
        GeomrlError: the folder contains none.
    """
    path = Path(path)
    accuracy, differences, problems = (
        read_parquet(path / name) for name in (ACCURACY, DIFFERENCES, PROBLEMS)
    )
    return Evaluation(
        path=path,
        accuracy=accuracy,
        differences=differences,
        problems=problems,
        summary=read_json(path / SUMMARY),
    )


def _write(
    out: Path,
    accuracy: pd.DataFrame,
    differences: pd.DataFrame,
    problems: pd.DataFrame,
    summary: dict[str, Any],
    more: dict[str, Any],
) -> Evaluation:
    write_parquet(out / PROBLEMS, problems)
    for name, table in ((DIFFERENCES, differences), (ACCURACY, accuracy)):
        write_parquet(out / name, table)
        write_csv((out / name).with_suffix(".csv"), table.round(6))
    summary = {**summary, **more}
    write_json(out / SUMMARY, summary)
    return Evaluation(
        path=out, accuracy=accuracy, differences=differences, problems=problems, summary=summary
    )


def _check_sources(sources: Sequence[Source], problems: str | None, say: Say) -> None:
    """Say what is missing before anything is loaded."""
    if not sources:
        raise GeomrlError("nothing to evaluate: name a model, a run, or a file of rollouts")
    sampled = [source for source in sources if source.kind == "model"]
    if sampled and problems is None:
        raise GeomrlError(
            f"{sampled[0].text}: a model has to be sampled; give --problems NAME_OR_FILE"
        )
    if problems is not None and len(sampled) < len(sources):
        listed = ", ".join(s.text for s in sources if s.kind != "model")
        say(f"{listed}: rollouts are read as they are; --problems is for models that are sampled")


def _check_options(sources: Sequence[Source], config: RolloutConfig) -> None:
    """Refuse options of prompts where nothing is asked."""
    given = {
        "--template": config.template, "--system": config.system,
        "--thinking/--no-thinking": config.thinking, "--tokenizer": config.prompt_tokenizer,
    }  # fmt: skip
    named = [name for name, value in given.items() if value is not None]
    if named and not any(source.kind == "model" for source in sources):
        raise GeomrlError(
            f"{' and '.join(named)} would change nothing, since rollouts are read and no model is asked; "
            "leave it out"
        )


def _check_asked(
    sources: Sequence[Source],
    found: Sequence[Sequence[Samples] | None],
    problems: Sequence[Problem],
    config: RolloutConfig,
    options: ModelOptions,
    *,
    own: bool,
) -> None:
    """Compare the prompts of all models before any is sampled: hours later would be too late.

    Raises:
        GeomrlError: see `check_prompts`.
    """
    asked = []
    for source, samples in zip(sources, found, strict=True):
        if samples is None:
            trust = options.trust_remote_code
            asked.append(
                model_prompts(source.label, source.text, problems, config, trust_remote_code=trust)
            )
        else:
            asked += [asked_of(each.label, each.table, each.vocabulary) for each in samples]
    check_prompts(asked, own=own)


def _benchmarks(outcomes: Sequence[Outcomes]) -> int:
    return len({name for each in outcomes for name in each.problems["benchmark"]})


def _left_out(outcomes: Sequence[Outcomes]) -> list[str]:
    return [
        f"{each.model}: {len(each.left_out)} problems without exactly {each.n} samples are left out "
        f"({', '.join(each.left_out[:_NAMED])}{', ...' if len(each.left_out) > _NAMED else ''}); "
        "figures are of the others"
        for each in outcomes
        if each.left_out
    ]


def _different_benchmarks(outcomes: Sequence[Outcomes]) -> list[str]:
    """Say where an average is over other benchmarks than the first model's."""
    first = outcomes[0]
    names = [list(dict.fromkeys(each.problems["benchmark"])) for each in outcomes]
    return [
        f"{other.model}'s average is over {', '.join(theirs)}, {first.model}'s over "
        f"{', '.join(names[0])}: the two averages are not comparable, their difference (over what "
        "both have) is"
        for other, theirs in zip(outcomes[1:], names[1:], strict=True)
        if set(theirs) != set(names[0])
    ]


def _identical(every: Sequence[Samples]) -> list[str]:
    """Say which models are the first one under another name, or answered exactly alike."""
    found = [(other.label, identical(every[0].table, other.table)) for other in every[1:]]
    return [f"{every[0].label} and {label}: {words}" for label, words in found if words]


def _different_sampling(every: Sequence[Samples]) -> list[str]:
    """Say where models were sampled differently: their difference is then of both."""
    first, notes = every[0], []
    for other in every[1:]:
        for column in _SAMPLING:
            one, two = _values(first.table, column), _values(other.table, column)
            if one and two and one != two:
                notes.append(
                    f"{first.label} and {other.label} were sampled with different {column} "
                    f"({', '.join(one)[:60]} against {', '.join(two)[:60]}): their difference is of "
                    "models and sampling together"
                )
    return notes


def _values(table: pd.DataFrame, column: str) -> list[str]:
    return sorted({f"{value}" for value in table[column].dropna()})


def _shared_notes(shared: Sequence[Overlap], *, several: bool) -> list[str]:
    """Report problems that occur twice, and that there is no average where one is exact."""
    notes = []
    for kind, words in (("exact", "the same problem"), ("near", "nearly the same problem")):
        found = [
            f"{o.benchmark}/{o.benchmark_id} = {o.problem_id}" for o in shared if o.kind == kind
        ]
        if not found:
            continue
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        cure = (
            ". There is no average over benchmarks, since it would count them twice: leave out one of "
            "the copies"
            if kind == "exact" and several
            else "; they count as different problems"
        )
        notes.append(f"{words} stands twice: {', '.join(found[:_NAMED])}{more}{cure}")
    return notes


def _nothing_common(other: pd.DataFrame, first: pd.DataFrame) -> str:
    names = [", ".join(each["benchmark"].astype(str).unique()[:4]) for each in (other, first)]
    return (
        f"{other['model'].iloc[0]} and {first['model'].iloc[0]} have no problem in common (benchmarks "
        f"{names[0]} against {names[1]}): no differences. Files without a benchmark column are named "
        "after the file: give both one name by --benchmark"
    )


def _model_summary(samples: Samples, outcome: Outcomes) -> dict[str, Any]:
    table = samples.table
    return {
        "model": samples.label,
        "source": samples.source,
        "policy": next(iter(table["policy"].dropna()), "unknown"),
        "weights": next(iter(table["policy_hash"].dropna()), "unknown"),
        "sampled_with": {column: _values(table, column) for column in _SAMPLING},
        "n_problems": len(outcome.problems),
        "n_samples": outcome.n,
        "verdicts": {str(k): int(v) for k, v in table["verdict"].value_counts().items()},
        "left_out": list(outcome.left_out),
    }


def _nested(table: pd.DataFrame, by: list[str], columns: list[str]) -> dict[str, Any]:
    """Return a tidy table as nested dicts, measure last ("pass@8"), in JSON's types."""
    nested: dict[str, Any] = {}
    for row in table.to_dict("records"):
        place = nested
        for key in by:
            place = place.setdefault(str(row[key]), {})
        name = row["measure"] if pd.isna(row["k"]) else f"{row['measure']}@{row['k']}"
        numbers = {c: None if pd.isna(row[c]) else round(float(row[c]), 6) for c in columns}
        place[name] = {**numbers, "n_problems": int(row["n_problems"])}
    return nested
