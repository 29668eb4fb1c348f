"""What `geomrl eval` is given: models to sample, runs to read, files of other tools."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.files import read_json, write_json
from geomrl.models.loading import short_name
from geomrl.models.names import model_label, resolve_model, split_label, split_step
from geomrl.progress import progress_bar
from geomrl.rollout.imports.config import ImportConfig, import_settings
from geomrl.rollout.imports.earlier import comparable_settings
from geomrl.rollout.imports.files import SUFFIXES, named_files
from geomrl.rollout.imports.formats import content_hash
from geomrl.rollout.imports.table import import_verdicts
from geomrl.runs.layout import ROLLOUTS, is_training_run
from geomrl.runs.manifest import read_manifest, record_step
from geomrl.runs.rollouts import COLUMNS, read_rollouts, write_rollouts
from geomrl.verify.marker import BOXED, parse_marker
from geomrl.verify.verifier import MathVerifier

_POLICIES = "policies.json"
_NOTES = "notes.json"


@dataclass(frozen=True)
class Source:
    """One thing that the user named. `label` is its name in tables; `named` says the user chose it.

    "model": to be sampled. "table": a rollout table of geomrl's, at `path`. "foreign": another
    tool's file, at `path`.
    """

    text: str
    label: str
    named: bool
    _: KW_ONLY
    kind: Literal["model", "table", "foreign"]
    path: Path | None = None


@dataclass(frozen=True)
class Samples:
    """One model's rollout table: its name, where it came from, and how many samples are due.

    `notes`: what was mended when the table was imported. `vocabulary`: the hash of the tokenizer's
    that made the prompts, where it is known.
    """

    label: str
    source: str
    table: pd.DataFrame
    _: KW_ONLY
    n: int | None = None
    notes: tuple[str, ...] = ()
    vocabulary: str | None = None


def parse_source(text: str, *, read: bool = False, any_file: bool = False) -> Source:
    """Say what a word of the command line stands for.

    "LABEL=WHAT" names it for the tables. A file, and a folder with rollouts, are read; anything
    else is a model (`model_names`). With `read` nothing is a model, and RUN@STEP names the rollouts
    of a training run's evaluation after that step. With `any_file` a file of any kind is read, since
    the user has a format for it.

    Raises:
        GeomrlError: the file does not exist, `read` and there are no rollouts, or a training run
            has no such step.
    """
    label, what = split_label(text)
    named = label is not None
    path = Path(what)
    if "*" in what:
        return Source(what, label or path.parent.name, named, kind="foreign", path=path)
    if path.suffix in SUFFIXES or (any_file and path.is_file()):
        if not path.is_file():
            raise GeomrlError(f"{path}: no such file; check the path")
        kind: Literal["table", "foreign"] = "table" if _is_table(path) else "foreign"
        own = path.parent.name or path.stem if path.name == ROLLOUTS else path.stem
        return Source(what, label or own, named, kind=kind, path=path)
    own = model_label(what)
    if (path / ROLLOUTS).is_file():
        return Source(what, label or own, named, kind="table", path=path / ROLLOUTS)
    if not read:
        resolve_model(what)  # a step that does not exist is named before anything is sampled
        return Source(what, label or own, named, kind="model")
    step = split_step(what)
    run = step[0] if step else path
    if step and (found := run / "eval" / f"step-{step[1]:06d}" / ROLLOUTS).is_file():
        return Source(what, label or own, named, kind="table", path=found)
    if is_training_run(run):
        steps = sorted(int(p.parent.name[5:]) for p in run.glob(f"eval/step-*/{ROLLOUTS}"))
        raise GeomrlError(
            f"{what}: a training run; name the rollouts of one of its evaluations, {run}@STEP (there "
            f"is: {', '.join(map(str, steps)) or 'none'})"
        )
    if path.is_dir() and _holds_files(path):
        return Source(what, label or path.name, named, kind="foreign", path=path)
    raise GeomrlError(
        f"{what}: holds no rollouts to read; give a .jsonl or .parquet file or a folder with "
        f"{ROLLOUTS}, or leave --rollouts out to sample a model"
    )


def _holds_files(folder: Path) -> bool:
    """Say whether a folder contains files of SUFFIXES; which of them are read is found out later."""
    try:
        return bool(named_files(folder))
    except GeomrlError:
        return False


def _is_table(path: Path) -> bool:
    if path.suffix != ".parquet":
        return False
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return set(COLUMNS) <= set(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError):
        return True  # torn: `read_rollouts` says so


def read_source(
    source: Source,
    out: Path,
    *,
    config: ImportConfig,
    marker: str = BOXED,
    benchmark: str | None = None,
    show: bool = True,
) -> list[Samples]:
    """Return the rollouts of a table or a foreign file; the latter may contain several models.

    What is imported is kept in `out`, so that it is graded once.

    Args:
        source: not a model.
        out: a folder for what is imported.
        config: how a foreign file is read.
        marker: what marks a foreign file's answers.
        benchmark: the benchmark's name for foreign files, whatever they say.
        show: show a progress bar.

    Raises:
        GeomrlError: a file cannot be used, or a run lacks a problem.
    """
    if source.path is None:
        raise ValueError(f"{source.text} is a model")
    if source.kind == "table":
        table = read_rollouts(source.path)
        settings = read_manifest(source.path.parent).get("rollouts", {}).get("settings", {})
        _check_whole(source, table, settings.get("n_problems"))
        return [
            Samples(
                source.label,
                str(source.path),
                table,
                n=settings.get("n"),
                vocabulary=settings.get("vocabulary"),
            )
        ]
    folder = out / short_name(source.label)
    settings = {
        "imported": str(source.path.resolve()),
        "file_hash": content_hash(source.path, config),
        "marker": parse_marker(marker).spec,
        "benchmark": benchmark,
        **import_settings(config),
    }
    done = folder / _POLICIES
    if done.exists():
        for place in read_json(done).values():
            settings = comparable_settings(
                folder, settings, read_rollouts(folder / place / ROLLOUTS)
            )
    record_step(folder, "rollouts", settings, begun=done.exists())
    if not done.exists():
        _import(source.path, folder, config=config, marker=marker, benchmark=benchmark, show=show)
    places: dict[str, str] = read_json(done)
    one = len(places) == 1
    notes = tuple(read_json(folder / _NOTES)) if (folder / _NOTES).exists() else ()
    return [
        Samples(
            _label(source, policy, one),
            str(source.path),
            read_rollouts(folder / place / ROLLOUTS),
            notes=notes,
        )
        for policy, place in places.items()
    ]


def _import(
    path: Path,
    folder: Path,
    config: ImportConfig,
    marker: str,
    benchmark: str | None,
    show: bool,
) -> None:
    """Grade a foreign file into one table a policy; the list of them is written last."""
    notes: list[str] = []
    with (
        MathVerifier(marker=parse_marker(marker)) as verifier,
        progress_bar("grading", "rollouts", show=show) as bar,
    ):
        tables = import_verdicts(
            path, verifier, config, bar.set, benchmark=benchmark, say=notes.append
        )
    one = len(tables) == 1
    places = {p: "." if one else f"{i:02d}-{short_name(p)}" for i, p in enumerate(tables)}
    for policy, table in tables.items():
        write_rollouts(folder / places[policy] / ROLLOUTS, table)
    write_json(folder / _NOTES, [note.removeprefix("note: ") for note in notes])
    write_json(folder / _POLICIES, places)


def _label(source: Source, policy: str, one: bool) -> str:
    if source.named:
        return source.label if one else f"{source.label}/{model_label(policy)}"
    return model_label(policy)


def _check_whole(source: Source, table: pd.DataFrame, due: Any) -> None:
    """Refuse a run that lacks whole problems: which ones nobody would see in the rest."""
    found = len(table[["benchmark", "problem_id"]].drop_duplicates())
    if isinstance(due, int) and found != due:
        raise GeomrlError(
            f"{source.path}: holds {found} problems where its manifest says {due}; it was changed "
            "after it was made. Make it again, or give the table alone, outside its run folder"
        )
