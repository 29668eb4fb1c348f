"""What can be known of a training run before a model's weights are read: faults, sizes, warnings.

`load_config` has reported what is wrong in the file itself. Here its settings meet the model's
configuration, the files on disk, the installed libraries and the number of ranks.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geomrl.errors import GeomrlError, MissingExtra
from geomrl.runs.layout import METRICS
from geomrl.runs.manifest import read_manifest
from geomrl.train.config import TrainConfig
from geomrl.train.user_code import try_user_code

if TYPE_CHECKING:
    from geomrl.train.memory import ModelShape


def check(
    config: TrainConfig, world_size: int, run: Path | None = None, *, dry_run: bool = False
) -> list[str]:
    """Check a run against its surroundings; return what the user should know, a line each.

    Reads the model's configuration and no weights.

    Args:
        config: a configuration that is right by itself.
        world_size: number of ranks.
        run: the run's folder, whose disk is looked at.
        dry_run: nothing will be started here: a disk without room is a line, and no error.

    Raises:
        GeomrlError: a library, file or model folder is absent, a layer is out of range, the longest
            rollout does not fit the model, the ranks are more than the rollouts of an update, or a
            part of the run cannot be built (`rehearsal`), code of the user's is not what it should
            be (`user_code`), or the disk has no room for a checkpoint.
    """
    from geomrl.train.memory import disk, memory_lines, model_shape
    from geomrl.train.rehearsal import rehearse
    from geomrl.train.room import disk_notes, require_disk

    _check_ranks(config, world_size)
    _check_libraries(config)
    _check_problems(config)
    model_config = read_model_config(config)
    _check_layers(config, model_config)
    _check_context(config, model_config)
    rehearse(config, model_config)
    tried = try_user_code(config)
    shape = model_shape(model_config, trust_remote_code=config.model.trust_remote_code)
    lines = [*batch_lines(config, world_size), *tried, *memory_lines(shape, config, world_size)]
    if run is not None:
        sizes = disk(shape, config)
        if not dry_run:
            require_disk(sizes, run)
        lines += disk_notes(sizes, run)
    return [*lines, *_memory_notes(shape, config, world_size)]


def check_folder(run: Path, *, resume: bool) -> bool:
    """Say whether a folder contains a training run.

    Raises:
        GeomrlError: it does and is not to be resumed, or is to be and does not; or it contains parts
            of one, without the record.
    """
    begun = "train" in read_manifest(run)
    if begun and not resume:
        raise GeomrlError(
            f"{run}: holds a training run; add --resume to go on with it, or give another --out"
        )
    left = [name for name in ("checkpoints", METRICS) if (run / name).exists()]
    if left and not begun:
        raise GeomrlError(
            f"{run}: holds {left[0]} of a training, but no record of it in manifest.json; copy the"
            " folder again from where it is whole, or give another --out"
        )
    if resume and not begun:
        raise GeomrlError(f"{run}: holds no training run to resume; leave --resume out")
    return begun


def batch_lines(config: TrainConfig, world_size: int) -> list[str]:
    """Return the batch arithmetic in words, and what in it may surprise."""
    prompts, samples = config.data.prompts_per_step, config.rollout.samples
    updates, groups = config.dapo.updates_per_rollout, config.prompts_per_update
    lines = [
        f"a step: {prompts} prompts x {samples} samples = {prompts * samples} rollouts, trained on in"
        f" {updates} update{'s' if updates > 1 else ''} of {groups} groups = {groups * samples}"
        f" rollouts; {config.steps} steps = {config.steps * updates} updates",
        f"a rollout: at most {config.data.max_prompt_tokens} + {config.rollout.max_tokens} ="
        f" {config.max_sequence} tokens; a micro-batch: {config.micro_batch.tokens} padded tokens on"
        f" each of {world_size} rank{'s' if world_size > 1 else ''}",
    ]
    if config.evaluated_tokens > config.rollout.max_tokens:
        lines.append(
            f"an evaluation: responses of at most {config.evaluated_tokens} tokens, so sequences of"
            f" {config.max_generated}"
        )
    if config.dapo.filter_groups:
        most = prompts * config.dapo.max_rounds
        lines.append(
            f"dynamic sampling: at most {config.dapo.max_rounds} rounds, {most * samples} rollouts"
        )
    if config.max_sequence > config.micro_batch.tokens:
        lines.append(
            f"note: a rollout may be longer than micro_batch.tokens {config.micro_batch.tokens}; such a"
            " one is a micro-batch by itself"
        )
    if config.micro_batch.keep_groups and groups < world_size:
        lines.append(
            f"note: an update has {groups} groups for {world_size} ranks; where groups fit a"
            " micro-batch whole, ranks stand idle (micro_batch.keep_groups=false shares them out)"
        )
    if updates == 1:
        lines.append(
            "note: with one update a rollout batch every ratio is 1, and nothing is clipped"
        )
    return lines


def read_model_config(config: TrainConfig) -> Any:
    """Return the transformers configuration of the model, without its weights.

    Raises:
        GeomrlError: there is no such folder or hub id, or it cannot be read.
    """
    from transformers import AutoConfig

    from geomrl.models.names import resolve_model

    name = config.model.name
    source = resolve_model(name)
    folder = Path(source)
    # A hub id has one slash at most, and never begins like a path.
    is_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    if not folder.exists() and is_path:
        raise GeomrlError(
            f"model.name {name}: no such folder; give a folder with config.json and weights, a hub id,"
            " or 'reasoner'"
        )
    if folder.exists() and not (folder / "config.json").exists():
        raise GeomrlError(
            f"model.name {name}: no config.json in it; this is not a Hugging Face model folder"
        )
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=config.model.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GeomrlError(
            f"model.name {name}: its configuration cannot be read ({reason}); check the name and the"
            " network, or give a folder; a model with code of its own needs model.trust_remote_code"
        ) from error


def _check_ranks(config: TrainConfig, world_size: int) -> None:
    rollouts = config.prompts_per_update * config.rollout.samples
    if rollouts < world_size:
        raise GeomrlError(
            f"an update has {rollouts} rollouts ({config.prompts_per_update} groups x"
            f" {config.rollout.samples}), but there are {world_size} ranks, so some would have nothing"
            " to train on: raise data.prompts_per_step, lower dapo.updates_per_rollout, or start fewer"
        )


def _check_libraries(config: TrainConfig) -> None:
    from geomrl.train.job import rollout_engine, training_job
    from geomrl.train.metrics_log import require_loggers

    rollout_engine(config).preflight(training_job(config))
    if find_spec("deepspeed") is None:
        raise MissingExtra("deepspeed", "train", "training")
    if config.model.lora is not None and find_spec("peft") is None:
        raise MissingExtra("peft", "train", "training with LoRA (model.lora)")
    require_loggers(config.log)


def _check_problems(config: TrainConfig) -> None:
    """Check that files exist and names are known; hub sets are read later."""
    from geomrl.problems.arithmetic import BENCHMARK as ARITHMETIC
    from geomrl.problems.arithmetic import TRAINING_BENCHMARK as ARITHMETIC_TRAIN
    from geomrl.problems.benchmarks import BENCHMARKS
    from geomrl.problems.load import FILE_SUFFIXES, load_problems

    specs = {"data.problems": config.data.problems}
    if config.evaluation is not None:
        specs["evaluation.problems"] = config.evaluation.problems
    for key, spec in specs.items():
        sources = [part.strip() for part in spec.split(",") if part.strip()]
        if not sources:
            raise GeomrlError(f"{key} '{spec}' names no problems: give a benchmark or a file")
        for source in sources:
            name, equals, path = source.partition("=")
            local = path if equals and name in BENCHMARKS else source
            if local.endswith(FILE_SUFFIXES) or local != source:
                if not Path(local).is_file():
                    raise GeomrlError(f"{key}: {local}: no such file; check the path")
            elif source in BENCHMARKS:
                if find_spec("datasets") is None:
                    raise MissingExtra("datasets", "hub", f"{key}: loading {source} from the hub")
            elif source not in (ARITHMETIC, ARITHMETIC_TRAIN):
                load_problems(source)  # raises the error that lists the names


def _check_layers(config: TrainConfig, model_config: Any) -> None:
    from geomrl.models.decoder import layer_name

    n_layers = model_config.get_text_config().num_hidden_layers
    asked = {}
    if config.alignment is not None:
        asked["alignment.layers"] = config.alignment.layers
    if config.evaluation is not None:
        asked["evaluation.layers"] = config.evaluation.layers
    for key, layers in asked.items():
        try:
            named = [layer_name(layer, n_layers) for layer in layers]
        except GeomrlError as error:
            raise GeomrlError(f"{key}: {error}") from error
        if len(set(named)) != len(named):
            raise GeomrlError(f"{key} {layers} names a layer twice in this model: name each once")


def _check_context(config: TrainConfig, model_config: Any) -> None:
    from geomrl.models.loading import steady_length

    room = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    steady = steady_length(model_config)
    if room is None:
        return
    prompt = config.data.max_prompt_tokens
    lengths = {"rollout.max_tokens": config.rollout.max_tokens}
    if config.evaluation is not None and config.evaluation.max_tokens is not None:
        lengths["evaluation.max_tokens"] = config.evaluation.max_tokens
    for key, response in lengths.items():
        if prompt + response > room:
            raise GeomrlError(
                f"data.max_prompt_tokens {prompt} + {key} {response} = {prompt + response} tokens, but"
                f" {config.model.name} has positions for {room}: lower one of them"
            )
        if steady is not None and prompt + response > steady:
            raise GeomrlError(
                f"data.max_prompt_tokens {prompt} + {key} {response} = {prompt + response} tokens, but"
                f" beyond {steady} {config.model.name} takes other rotary frequencies (LongRoPE) for a"
                " whole batch, so that a rollout's gradient would depend on its micro-batch: lower one"
                " of them, or train a model with one set of frequencies"
            )


def _memory_notes(shape: ModelShape, config: TrainConfig, world_size: int) -> list[str]:
    import psutil
    import torch

    from geomrl.train.memory import estimate, trainable_weights
    from geomrl.train.room import memory_notes, ranks_here

    gpu, here = None, ranks_here(world_size)
    if torch.cuda.is_available():
        gpu = float(torch.cuda.get_device_properties(0).total_memory)
    offloaded = 0.0
    if config.deepspeed.offload_optimiser:
        offloaded = 12.0 * trainable_weights(shape, config) * here / world_size
    notes = memory_notes(
        estimate(shape, config, world_size),
        gpu=gpu,
        host=float(psutil.virtual_memory().available),
        ranks_here=here,
        offloaded=offloaded,
    )
    if gpu is None and config.model.dtype == "bfloat16":
        notes.append("note: bfloat16 on a CPU is several times slower than float32")
    return notes
