"""The steps of probing: read anchor states, compute similarities, replace states.

Each reads what the step before wrote into the run directory, resumes where it stopped, and returns
the opened run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.files import (
    is_user_code,
    user_code_as_it_is,
    user_code_hashes,
    write_csv,
    write_json,
    write_parquet,
)
from geomrl.models.context import Context
from geomrl.models.loading import LoadedModel, set_aside
from geomrl.models.options import ModelOptions, loaded_model
from geomrl.models.token_ids import check_ids_fit
from geomrl.probe.analysis import replacement_parts, similarity_of, with_other_encoders
from geomrl.probe.devices import fill_store_on_devices
from geomrl.probe.extraction import (
    ExtractionConfig,
    ModelProbe,
    encoder_folder,
    fill_store,
    size_estimate,
    stale_shards,
    store_settings,
)
from geomrl.probe.intervention import replace as replace_states
from geomrl.probe.intervention import summarise_replacement
from geomrl.probe.summary import summarise
from geomrl.probe.trials import build_trials
from geomrl.progress import Say, progress_bar
from geomrl.runs.layout import ROLLOUTS, SIMILARITY, STATES, SUMMARY, USER_CODE
from geomrl.runs.locks import sole_process, turn
from geomrl.runs.manifest import read_manifest, record_step
from geomrl.runs.replacement import write_replacement
from geomrl.runs.run import Run, open_run, run_marker
from geomrl.runs.states import StateStore
from geomrl.stats.draws import Draws


def read_states(
    model: str | LoadedModel | ModelProbe,
    out: Path | str,
    *,
    config: ExtractionConfig | None = None,
    context: Context | None = None,
) -> tuple[Run, StateStore]:
    """Read anchor states of a run's rollouts into its store, without analysing them.

    Args:
        model: the encoder, or what reads it (`check_readable`); it may be another model than the
            policy, of the same vocabulary.
        out: a run directory with rollouts.
        config: layers, anchors, batch size.
        context: how to load the model (several devices share the shards), what is shown; its `say`
            is called with the size estimate.

    Raises:
        GeomrlError: see the message; finished shards are kept.
    """
    run = open_run(out)
    config, context = config or ExtractionConfig(), context or Context()
    reader = model_probe(model, context.options).as_filed(run.path / STATES)
    loaded = reader.loaded
    check_belongs(run, loaded)
    settings = store_settings(reader, run.rollouts, run_marker(run), config)
    context.say(
        f"states: {settings.n_rollouts} rollouts x {len(settings.anchors)} anchors x "
        f"{len(settings.layers)} layers, at most {size_estimate(settings) / 1e6:.1f} MB on disk"
    )
    folder = encoder_folder(run.path, loaded)
    folder.mkdir(parents=True, exist_ok=True)
    with user_code_as_it_is(), sole_process(folder / ".lock", "an extraction"):
        store = StateStore.create(folder, settings)
        loading = {"encoder": loaded.name, **context.options.loading()}
        if settings.user_code:
            loading[USER_CODE] = user_code_hashes(settings.user_code)
        record_step(run.path, f"states/{loaded.key}", loading, begun=False)
        for shard in stale_shards(reader, run.rollouts, run_marker(run), store):
            context.say(
                f"states: shard {shard} is read again: its rollouts' anchors are elsewhere now"
            )
            store.discard(shard)
        _extract(run, reader, store=store, batch_tokens=config.batch_tokens, context=context)
    return open_run(out), StateStore(store.path)


def probe_states(
    model: str | LoadedModel | ModelProbe,
    out: Path | str,
    *,
    config: ExtractionConfig | None = None,
    seed: int = 0,
    n_boot: int = 2000,
    n_perm: int = 1000,
    options: ModelOptions | None = None,
    jobs: int | None = None,
    show: bool = True,
    say: Say = lambda line: None,
) -> Run:
    """Read anchor states of a run's rollouts and compute similarity and summary.

    Args:
        model: the encoder, or what reads it (`check_readable`); it may be another model than the
            policy, of the same vocabulary.
        out: a run directory with rollouts.
        config: layers, anchors, batch size.
        seed: of every draw in the statistics.
        n_boot: bootstrap draws.
        n_perm: permutations.
        options: how to load the model; several devices share the shards.
        jobs: processes that share the layers and anchors of the analysis; None takes one a core. The
            table does not depend on it.
        show: show progress bars.
        say: called with a line for the user (size and time estimates, warnings).

    Raises:
        GeomrlError: see the message; finished shards are kept.
    """
    context, draws = (
        Context(options or ModelOptions(), show, say, jobs),
        Draws(seed, n_boot, n_perm),
    )
    reader = model_probe(model, context.options).as_filed(Path(out) / STATES)
    run, store = read_states(reader, out, config=config, context=context)
    loaded = reader.loaded
    table, notes = similarity_of(run, loaded, store=store, draws=draws, context=context)
    for note in notes:
        say(f"note: {note}")
    with turn(run.path):
        table = with_other_encoders(run.path / SIMILARITY, table, loaded.key)
        write_parquet(run.path / SIMILARITY, table)
        write_csv((run.path / SIMILARITY).with_suffix(".csv"), table)
    made_of = {"labels": run.labels, **asdict(draws)}
    record_step(run.path, f"similarity/{loaded.key}", made_of, begun=False)
    own = open_run(out, loaded.key)
    write_json(run.path / SUMMARY, summarise(own, loaded.key, notes, draws))
    return open_run(out)


def replace_anchor(
    model: str | LoadedModel | ModelProbe,
    out: Path | str,
    *,
    anchor: str = "before_marker",
    layers: Sequence[str | int] | None = None,
    seed: int = 0,
    n_boot: int = 2000,
    batch_tokens: int = 16384,
    options: ModelOptions | None = None,
    show: bool = True,
    say: Say = lambda line: None,
) -> pd.DataFrame:
    """Replace anchor states and measure the change in the correct answer's log-probability.

    Returns the summary by layer, arm and verdict; `replacement.parquet` and `.csv` contain it, and
    `replacement_rollouts.parquet` every rollout's change. Rows of other anchors and encoders in these
    files are kept, those of the same are replaced. `say` is called with a line where this model's
    forwards cannot begin at the anchor.

    Raises:
        GeomrlError: no group has two correct rollouts with this anchor, or it is the user's own.
    """
    if is_user_code(anchor):
        raise GeomrlError(
            f"{anchor}: states are replaced at geomrl's own anchors only; take one of these"
        )
    run = open_run(out)
    reader = model_probe(model, options).as_filed(run.path / STATES)
    loaded = reader.loaded
    check_belongs(run, loaded)
    names = reader.layers(layers)
    parts = replacement_parts(run, reader, anchor, seed)
    missing = [name for name in names if parts.read_frame(anchor, name) is None]
    if missing:
        trials = build_trials(reader, run.rollouts, run_marker(run), anchor)
        with progress_bar("replacing", "forwards", show=show) as bar:
            replace_states(
                reader, trials, missing, anchor=anchor, seed=seed, batch_tokens=batch_tokens,
                progress=bar.set, finished=lambda name, rows: parts.write_frame(rows, anchor, name),
                say=say,
            )  # fmt: skip
    each = pd.concat([parts.read_frame(anchor, name) for name in names], ignore_index=True)
    table = summarise_replacement(each, seed=seed, n_boot=n_boot)
    with turn(run.path):
        write_replacement(run.path, each, table, anchor=anchor, encoder=loaded.key)
    made_of = {"labels": run.labels, "seed": seed, "n_boot": n_boot}
    record_step(run.path, f"replacement/{loaded.key}/{anchor}", made_of, begun=False)
    return table.assign(encoder=loaded.key)


def check_belongs(run: Run, loaded: LoadedModel) -> None:
    """Refuse rollouts whose tokens are not this model's.

    Raises:
        GeomrlError: the vocabularies differ, or an id says something else than the text.
    """
    made_with = read_manifest(run.path).get("rollouts", {}).get("settings", {}).get("vocabulary")
    if made_with != loaded.vocabulary:
        raise GeomrlError(
            f"{run.path}: its rollouts were tokenised with another vocabulary than {loaded.name}'s. "
            f"Tokenise their text again: geomrl probe {loaded.name} --rollouts "
            f"{run.path / ROLLOUTS} --retokenize --out ANOTHER_RUN"
        )
    check_ids_fit(run.rollouts, loaded.tokenizer, run.path / ROLLOUTS, limit=20)


def model_probe(
    model: str | LoadedModel | ModelProbe, options: ModelOptions | None = None
) -> ModelProbe:
    """Return what reads a model, as it is where it is made already, and loaded where it is named."""
    return model if isinstance(model, ModelProbe) else ModelProbe(loaded_model(model, options))


def check_readable(loaded: LoadedModel, config: ExtractionConfig | None = None) -> ModelProbe:
    """Return what reads a model; refuse one whose states cannot be read before it is sampled from.

    Raises:
        GeomrlError: the model disagrees with itself, or a layer that is asked for cannot be read.
    """
    reader = ModelProbe(loaded)
    reader.layers((config or ExtractionConfig()).layers)
    return reader


def _extract(
    run: Run,
    reader: ModelProbe,
    store: StateStore,
    batch_tokens: int,
    context: Context,
) -> None:
    """Make the store's missing shards, on one device or several."""
    missing = store.missing_shards()
    todo = sum(len(store.shard_range(shard)) for shard in missing)
    with progress_bar("states", "rollouts", show=context.show) as bar:
        bar.set(len(run.rollouts) - todo, len(run.rollouts))
        marker = run_marker(run)
        if len(context.options.device_list) == 1 or not missing:
            fill_store(
                reader,
                run.rollouts,
                marker=marker,
                store=store,
                shards=missing,
                progress=bar.advance,
                batch_tokens=batch_tokens,
            )
        else:
            load = {"name": reader.loaded.name, **context.options.loading()}
            with set_aside(reader.loaded):  # a worker has its device
                fill_store_on_devices(
                    context.options.device_list,
                    run.path,
                    store=store.path,
                    marker=marker.spec,
                    load=load,
                    shards=missing,
                    progress=bar.advance,
                    batch_tokens=batch_tokens,
                )
