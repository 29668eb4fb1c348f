"""What `geomrl.integrations.trl` needs of TRL's GRPOTrainer: names, signatures, settings.

TRL promises none of it. What changed is named before a step is trained; what names cannot tell
(who divides the loss, how tokens lie) is checked while it runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from torch import nn
from transformers import ProcessorMixin

from geomrl.errors import GeomrlError, MissingExtra, reason_of

TRIED = "trl>=1.0,<1.17"
METHODS = {
    "_calculate_rewards": ("self", "inputs", "prompts", "completions", "completion_ids_list"),
    "_generate_and_score_completions": ("self", "inputs"),
    "_prepare_inputs": ("self", "generation_batch"),
    "_compute_loss": ("self", "model", "inputs"),
    "log": ("self", "logs", "start_time"),
}
"""What is overridden, and the parameters that it must begin with."""
ATTRIBUTES = (
    "_buffered_inputs", "_step", "accelerator", "is_deepspeed_enabled", "is_fsdp_enabled",
    "num_generations", "reward_func_names", "args.gradient_accumulation_steps",
    "args.steps_per_generation",
)  # fmt: skip
"""What is read of a trainer that is built."""
BATCH = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
"""What is read of a batch of rollouts: [rollouts, tokens], prompts padded on the left."""


def require_trl() -> None:
    """Import TRL's trainer.

    Raises:
        MissingExtra: TRL is not installed.
        GeomrlError: it is installed, and cannot be imported.
    """
    found = find_spec("trl")
    if found is None or found.origin is None:  # no origin: a folder that happens to be named trl
        raise MissingExtra("trl", "trl", "training with TRL")
    try:
        import_module("trl.trainer.grpo_trainer")
    except (ImportError, OSError, RuntimeError) as error:
        raise GeomrlError(
            f"trl is installed and cannot be imported ({reason_of(error)}): install '{TRIED}' and the"
            " transformers that it wants"
        ) from error


def changed(what: Iterable[str]) -> GeomrlError:
    """Return the error that names what of TRL is not as it was."""
    return GeomrlError(
        f"trl {version('trl')}: GRPOTrainer is not as geomrl knows it: {'; '.join(what)}. Install"
        f" '{TRIED}', which geomrl was tried with"
    )


def check_class(trainer: type) -> None:
    """Check the methods of a trainer's class, before one is built.

    Raises:
        GeomrlError: one is gone or has other parameters; it names them all.
    """
    if found := list(_methods(trainer)):
        raise changed(found)


def _methods(trainer: type) -> Iterator[str]:
    for name, wanted in METHODS.items():
        # transformers' Trainer, below TRL's, has some of the names with another meaning.
        homes = (
            home for home in trainer.__mro__ if not home.__module__.startswith("transformers.")
        )
        method = next((vars(home)[name] for home in homes if name in vars(home)), None)
        if method is None:
            yield f"it has no {name} any more"
            continue
        parameters = tuple(inspect.signature(method).parameters)
        if parameters[: len(wanted)] != wanted:
            yield f"{name}({', '.join(parameters)}) was {name}({', '.join(wanted)})"


def check_attributes(trainer: Any) -> None:
    """Check the attributes of a trainer that is built.

    Raises:
        GeomrlError: some are gone; it names them all.
    """
    absent = [name for name in ATTRIBUTES if not _has(trainer, name)]
    if absent:
        raise changed(f"it has no {name} any more" for name in absent)


def _has(thing: Any, dotted: str) -> bool:
    for name in dotted.split("."):
        if not hasattr(thing, name):
            return False
        thing = getattr(thing, name)
    return True


def check_batch(batch: Mapping[str, Any]) -> None:
    """Check the keys of a batch of rollouts.

    Raises:
        GeomrlError: some are gone; it names them all.
    """
    absent = [name for name in BATCH if name not in batch]
    if absent:
        raise changed(f"a batch of rollouts has no '{name}' any more" for name in absent)


def check_supported(trainer: Any, *, aligns: bool) -> None:
    """Check that the trainer's settings leave the gradient exact, or at weight 0 the states readable.

    Args:
        trainer: a GRPOTrainer that is built.
        aligns: whether the weight is not 0 at some step.

    Raises:
        GeomrlError: some do not; it names them all, and the cure of each.
    """
    if found := list(_unsupported(trainer, aligns)):
        raise GeomrlError("HiddenAlignGRPOTrainer cannot train so: " + "; ".join(found))


def _unsupported(trainer: Any, aligns: bool) -> Iterator[str]:
    args = trainer.args
    if isinstance(trainer.processing_class, ProcessorMixin):
        yield (
            "a vision-language model's tokens do not lie where those of its text do: train a text-only"
            " model, with its tokenizer as processing_class"
        )
    if getattr(args, "use_liger_kernel", False) or getattr(args, "use_liger_loss", False):
        yield (
            "Liger's kernels replace forwards, and in some versions of TRL the loss too: set"
            " use_liger_kernel=False"
        )
    if args.torch_compile:
        yield "hooks inside a compiled forward were not tried: set torch_compile=False"
    if dropping := _dropping(trainer.model):
        yield (
            f"dropout is on ({', '.join(dropping[:3])}{', ...' if dropping[3:] else ''}), so that the"
            " states of two forwards differ: set disable_dropout=True in the GRPOConfig, lora_dropout=0"
            " in an adapter's, attention_dropout=0 in the model's"
        )
    accumulated, generated = args.gradient_accumulation_steps, args.steps_per_generation
    if generated % accumulated:
        yield (
            f"an optimiser step of {accumulated} micro-batches takes them from several generation"
            f" batches of {generated}, whose groups are not known together: set steps_per_generation to"
            f" {accumulated}, or to a multiple of it"
        )
    if args.n_gpu > 1:
        yield (
            f"one process drives {args.n_gpu} GPUs by nn.DataParallel, whose copies have no hooks: start"
            " with `accelerate launch`, or show the process one GPU"
        )
    parallel = getattr(trainer.accelerator, "parallelism_config", None)
    split = [
        name for name in ("tp", "cp", "sp") if getattr(parallel, f"{name}_size", 1) not in (None, 1)
    ]
    if split:
        yield (
            f"{', '.join(f'{name}_size' for name in split)} above 1 splits a rollout over ranks: spread"
            " rollouts alone"
        )
    if aligns and (trainer.is_fsdp_enabled or _zero_stage(trainer) == 3):
        yield (
            "parameters are spread over ranks (FSDP, ZeRO-3), where a forward that ends early would leave"
            " ranks waiting for each other: use DDP or ZeRO-2, or weight 0, which only measures"
        )


def _dropping(model: nn.Module) -> list[str]:
    """Return the modules that drop activations in training."""
    return [
        name
        for name, module in model.named_modules()
        if (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
        or _positive(getattr(module, "attention_dropout", 0))
    ]


def _positive(value: Any) -> bool:
    return isinstance(value, float | int) and value > 0


def _zero_stage(trainer: Any) -> int:
    plugin = trainer.accelerator.state.deepspeed_plugin if trainer.is_deepspeed_enabled else None
    return 0 if plugin is None else int(plugin.zero_stage)
