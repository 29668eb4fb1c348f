"""The steps that make rollouts: sampled from a model, or brought in from another tool's file.

Each reads what the run directory has, resumes where it stopped, and returns the opened run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from geomrl.models.identity import vocabulary_hash as hash_vocabulary
from geomrl.models.loading import (
    LoadedModel,
    NamedModel,
    load_tokenizer,
    quiet_transformers,
    set_aside,
)
from geomrl.models.options import ModelOptions, loaded_model
from geomrl.problems.load import load_problems
from geomrl.progress import Say, progress_bar
from geomrl.rollout.device_engines import DeviceEngines, device_groups
from geomrl.rollout.engine import Engine, SamplingJob
from geomrl.rollout.engines import choose_engine
from geomrl.rollout.engines.transformers import TransformersEngine
from geomrl.rollout.generate import (
    RolloutConfig,
    generate_rollouts,
    grade_again,
    rollouts_begun,
)
from geomrl.rollout.grading import golds_of, record_grading
from geomrl.rollout.imports.config import ImportConfig, import_settings
from geomrl.rollout.imports.earlier import comparable_settings
from geomrl.rollout.imports.formats import content_hash
from geomrl.rollout.imports.table import import_rollouts as read_foreign_rollouts
from geomrl.rollout.self_check import check_sampling
from geomrl.runs.layout import ROLLOUTS
from geomrl.runs.manifest import read_manifest, record_step
from geomrl.runs.rollouts import write_rollouts
from geomrl.runs.run import Run, open_run
from geomrl.verify.marker import BOXED, parse_marker
from geomrl.verify.verifier import MathVerifier


def make_rollouts(
    model: str | LoadedModel,
    problems: str,
    out: Path | str,
    *,
    config: RolloutConfig | None = None,
    limit: int | None = None,
    columns: dict[str, str] | None = None,
    marker: str = BOXED,
    options: ModelOptions | None = None,
    show: bool = True,
    say: Say = lambda line: None,
) -> Run:
    """Sample and grade rollouts of a model into a run directory.

    Rollouts that are there are not sampled again; they are graded again where a gold answer, the
    marker or the verifier has changed.

    Args:
        model: a hub id, a folder, "reasoner", or a model that is loaded, which is sampled where it is,
            with transformers, unless `config` names an engine or `options` several devices.
        problems: benchmark names with commas, or a JSONL/parquet file.
        out: the run directory.
        config: how many samples and how they are drawn.
        limit: the first so many problems only.
        columns: a problem file's column names, ours -> its.
        marker: the answer marker's specification.
        options: how to load the model; several devices share the problems.
        show: show a progress bar.
        say: called with a line for the user (what is graded again, and why).

    Raises:
        GeomrlError: see the message; the run keeps every chunk that was finished.
    """
    run, options = Path(out), options or ModelOptions()
    config = config or RolloutConfig()
    if isinstance(model, LoadedModel) and config.engine == "auto":
        config = replace(config, engine="transformers")  # its files need not be what is in memory
    config = with_engine(config, run, options)
    chosen = load_problems(problems, limit=limit, columns=columns)
    with (
        _engine(model, config, options, tried=(run / ROLLOUTS).exists()) as (named, engine),
        MathVerifier(marker=parse_marker(marker)) as verifier,
        progress_bar("rollouts", "rollouts", show=show) as bar,
    ):
        generate_rollouts(
            named,
            engine,
            verifier=verifier,
            problems=chosen,
            config=config,
            run=run,
            bar=bar,
            say=say,
        )
    return open_run(run)


def with_engine(config: RolloutConfig, run: Path, options: ModelOptions) -> RolloutConfig:
    """Return a configuration with an engine's name in the place of "auto".

    That is the engine that some of the run's rollouts were sampled with, or `choose_engine`'s.
    """
    recorded = read_manifest(run).get("rollouts", {}).get("settings", {})
    if config.engine == "auto" and rollouts_begun(run):
        return replace(config, engine=recorded.get("engine", "transformers"))
    return replace(config, engine=choose_engine(config.engine, options.device_list))


@contextmanager
def _engine(
    model: str | LoadedModel, config: RolloutConfig, options: ModelOptions, *, tried: bool
) -> Iterator[tuple[NamedModel, Engine]]:
    """Yield what is sampled and with what: here, or in processes of their own.

    Only transformers on one device computes here; an engine that was `tried` is not tried again.
    """
    groups = device_groups(options.device_list, config.tensor_parallel)
    if config.engine == "transformers" and len(groups) == len(groups[0]) == 1:
        loaded = loaded_model(model, options)
        engine = TransformersEngine(loaded)
        if not tried:
            check_sampling(loaded, engine)
        yield loaded, engine
        return
    named = model if isinstance(model, LoadedModel) else options.describe(model)
    job = SamplingJob(
        model=named.name,
        weights=named.weights,
        dtype=str(named.dtype).removeprefix("torch."),
        trust_remote_code=options.trust_remote_code,
        allow_pickle=options.allow_pickle,
        longest=named.max_length or 2**31,
        devices=config.tensor_parallel,
    )
    with set_aside(named):
        yield named, DeviceEngines(config.engine, groups, job)


def import_rollouts(
    file: Path | str,
    model: str | LoadedModel,
    out: Path | str,
    *,
    config: ImportConfig | None = None,
    marker: str = BOXED,
    options: ModelOptions | None = None,
    show: bool = True,
    say: Say = lambda line: None,
) -> Run:
    """Bring rollouts of another tool into a run directory, graded or with their own labels.

    Only the model's tokenizer is used. `say` is called with what was mended in reading.

    Raises:
        GeomrlError: the file or a row of it cannot be used; see the message.
    """
    run, file = Path(out), Path(file)
    config = config or ImportConfig()
    if isinstance(model, LoadedModel):
        name, tokenizer = model.name, model.tokenizer
    else:
        quiet_transformers()
        trust = (options or ModelOptions()).trust_remote_code
        name, tokenizer = model, load_tokenizer(model, trust_remote_code=trust)
    vocabulary = hash_vocabulary(tokenizer)
    settings = {
        "imported": str(file.resolve()),
        "file_hash": content_hash(file, config),
        "vocabulary": vocabulary,
        "tokenizer": name,
        "marker": parse_marker(marker).spec,
        **import_settings(config),
    }
    before = open_run(run).rollouts if (run / ROLLOUTS).exists() else None
    if before is not None:
        settings = comparable_settings(run, settings, before, tokenizer)
    record_step(run, "rollouts", settings, begun=before is not None, free=("marker",))
    with (
        MathVerifier(marker=parse_marker(marker)) as verifier,
        progress_bar("grading", "rollouts", show=show) as bar,
    ):
        if before is None:
            table = read_foreign_rollouts(
                file, tokenizer, verifier=verifier, config=config, progress=bar.set, say=say
            )
            write_rollouts(run / ROLLOUTS, table)
            record_grading(run, golds_of(table), verifier)
        elif not config.keep_labels and before["gold"].notna().all():
            grade_again(run, {}, verifier, say)
    return open_run(run)
