"""Models and tokenizers: loading them safely, and naming them by content."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from geomrl.errors import GeomrlError
from geomrl.files import safe_name, text_hash
from geomrl.models.files import check_folder
from geomrl.models.identity import config_hash, vocabulary_hash, weights_hash
from geomrl.models.names import resolve_model
from geomrl.models.turns import end_ids

SMALL = 5_000_000  # weights
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class NamedModel(ABC):
    """A causal language model's tokenizer and number format, and what identifies it.

    `name` is what the user typed; `weights` a hash of the weight files and `config` of what in
    config.json decides computations, so that states are never read for another checkpoint of the same
    name; `vocabulary` a hash of the tokenizer's vocabulary. `config` is "" where it is not known.
    """

    name: str
    tokenizer: Any
    dtype: torch.dtype
    weights: str
    vocabulary: str
    config: str = ""

    @property
    @abstractmethod
    def model_config(self) -> Any:
        """Transformers' configuration of the model."""

    @property
    @abstractmethod
    def generation_config(self) -> Any:
        """Transformers' generation configuration; None where there is none."""

    @property
    def identity(self) -> str:
        """A hash of weights and configuration; of the weights alone where the latter is not known."""
        return text_hash(self.weights, self.config) if self.config else self.weights

    @property
    def key(self) -> str:
        """The encoder's key on disk: its short name and eight digits of its identity."""
        return f"{short_name(self.name)}-{self.identity[:8]}"

    def as_recorded(self, identity: str | None) -> Self:
        """Return the model as an older geomrl knew it, by its weights alone, where that is recorded."""
        return replace(self, config="") if identity == self.weights else self

    def as_filed(self, folder: Path) -> Self:
        """Return the model under the key that `folder` has: an older geomrl's, where only that is there."""
        older = replace(self, config="")
        new = (folder / self.key).exists() or not (folder / older.key).exists()
        return self if new else older

    @property
    def max_length(self) -> int | None:
        """The longest sequence that the model has positions for; None where it states none."""
        return getattr(self.model_config.get_text_config(), "max_position_embeddings", None)

    @property
    def steady_length(self) -> int | None:
        """The longest sequence whose states do not depend on its length; None where none do."""
        return steady_length(self.model_config)

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end a response."""
        return end_ids(self.generation_config, self.tokenizer)


@dataclass(frozen=True, kw_only=True)
class LoadedModel(NamedModel):
    """A causal language model in memory."""

    model: Any
    device: torch.device

    @property
    def model_config(self) -> Any:
        """Transformers' configuration of the model."""
        return self.model.config

    @property
    def generation_config(self) -> Any:
        """Transformers' generation configuration; None where there is none."""
        return self.model.generation_config


@dataclass(frozen=True, kw_only=True)
class UnloadedModel(NamedModel):
    """A causal language model as its files describe it, for a process that does not compute with it."""

    described: Any
    generation: Any

    @property
    def model_config(self) -> Any:
        """Transformers' configuration of the model."""
        return self.described

    @property
    def generation_config(self) -> Any:
        """Transformers' generation configuration; None where there is none."""
        return self.generation


def steady_length(config: Any) -> int | None:
    """Return up to which length a model's rotary frequencies are the same for every sequence.

    Phi-3's LongRoPE (arXiv 2402.13753) takes other frequencies for all tokens, the first ones too, as
    soon as a sequence, or the padded batch around it, is longer than the length of its first
    training. Dynamic NTK scaling does so past `max_position_embeddings`, where contexts end anyway.

    Args:
        config: a transformers configuration.

    Returns:
        The length in tokens; None where the model's whole context is steady.
    """
    text = config.get_text_config()
    found = getattr(text, "rope_parameters", None) or {}
    # One set of parameters, or one a type of layer.
    sets = [found] if "rope_type" in found else [p for p in found.values() if isinstance(p, dict)]
    steady = [
        parameters.get("original_max_position_embeddings")
        or getattr(text, "original_max_position_embeddings", None)
        for parameters in sets
        if parameters.get("rope_type") == "longrope"
    ]
    known = [length for length in steady if length]
    room = getattr(text, "max_position_embeddings", None)
    return min(known) if known and (room is None or min(known) < room) else None


def short_name(name: str) -> str:
    """Return the last part of a hub id or path, in characters fit for a folder's name."""
    return safe_name(Path(name).name or name)


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of a hub id or folder.

    Raises:
        GeomrlError: there is none, or it cannot be read.
    """
    source = resolve_model(name)
    if (
        Path(source).is_dir()
        and not any(Path(source).glob("*token*"))
        and not any(Path(source).glob("vocab*"))
    ):
        raise GeomrlError(
            f"{source}: no tokenizer files in this folder; copy those of its base model into it"
        )
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise GeomrlError(load_message("tokenizer", name, error)) from error


def load_model(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    tokenizer: Any = None,
    attention: str | None = None,
) -> LoadedModel:
    """Load a causal language model for inference.

    Args:
        name: a hub id, a folder, "reasoner", or a training run or a step of it (`model_names`).
        device: "auto" (the first GPU, else the CPU), "cpu", "cuda:1", ...
        dtype: "auto" (the checkpoint's own on a GPU, float32 on a CPU), or a key of `DTYPES`.
        trust_remote_code: run modelling code that the checkpoint brings along.
        allow_pickle: read `.bin` weights, which can run code when they are read.
        tokenizer: one that is loaded already.
        attention: transformers' `attn_implementation`; its own choice by default.

    Raises:
        GeomrlError: a shard is missing or torn, weights are absent from the files, or the name
            is unknown.
    """
    source = resolve_model(name)
    where, wanted = _placed(device, dtype)
    check_folder(source, allow_pickle)
    tokenizer = tokenizer or load_tokenizer(name, trust_remote_code=trust_remote_code)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=wanted,
            trust_remote_code=trust_remote_code,
            use_safetensors=None if allow_pickle else True,
            output_loading_info=True,
            attn_implementation=attention,
        )
    except Exception as error:
        raise GeomrlError(load_message("model", name, error)) from error
    model, info = loaded
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise GeomrlError(
            f"{name}: {len(missing)} weights are in no file (first: {missing[0]}), and transformers "
            "would fill them at random; the checkpoint is incomplete or of another architecture"
        )
    model = model.to(where).eval().requires_grad_(False)
    return LoadedModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        device=where,
        dtype=next(model.parameters()).dtype,
        weights=weights_hash(source),
        vocabulary=vocabulary_hash(tokenizer),
        config=config_hash(source),
    )


def describe_model(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> UnloadedModel:
    """Return what `load_model` would, without its weights; they are hashed. Arguments as there.

    Raises:
        GeomrlError: as for `load_model`, as far as files and configuration tell.
    """
    source = resolve_model(name)
    _, wanted = _placed(device, dtype)
    check_folder(source, allow_pickle)
    tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
    try:
        config: Any = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise GeomrlError(load_message("model", name, error)) from error
    own = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    return UnloadedModel(
        name=name,
        tokenizer=tokenizer,
        dtype=(own or torch.float32) if wanted == "auto" else wanted,
        weights=weights_hash(source),
        vocabulary=vocabulary_hash(tokenizer),
        config=config_hash(source),
        described=config,
        generation=load_generation_config(source, config),
    )


def load_generation_config(source: str, config: Any) -> GenerationConfig:
    """Return the generation configuration that `load_model`'s model would have.

    Args:
        source: a hub id or folder.
        config: the model's transformers configuration, used where there is no file of its own.
    """
    try:
        return GenerationConfig.from_pretrained(source)
    except OSError:  # there is no generation_config.json
        return GenerationConfig.from_model_config(config)


@contextmanager
def set_aside(model: NamedModel) -> Iterator[None]:
    """Keep a loaded model in the CPU's memory while other processes use its device."""
    if not isinstance(model, LoadedModel) or model.device.type == "cpu":
        yield
        return
    model.model.to("cpu")
    torch.cuda.empty_cache()
    try:
        yield
    finally:
        model.model.to(model.device)


def _placed(device: str, dtype: str) -> tuple[torch.device, Any]:
    """Return device and number format ("auto": the checkpoint's own) of two options."""
    where = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    )
    if dtype not in ("auto", *DTYPES):
        raise GeomrlError(f"dtype '{dtype}' is unknown; use auto, {', '.join(DTYPES)}")
    return where, DTYPES.get(dtype) or ("auto" if where.type == "cuda" else torch.float32)


def load_message(what: str, name: str, error: Exception) -> str:
    """Return what a user should know of a failed load: the model, the reason, the cure."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"{name}: this {what} cannot be loaded ({reason}). Give a Hugging Face hub id or a folder "
        "with config.json, tokenizer and safetensors weights; `.bin` weights need --allow-pickle, "
        "a model with code of its own --trust-remote-code"
    )


def spare_threads(model: Any, device: torch.device) -> None:
    """Use one thread for a tiny model on a CPU: more were measured 2 to 10 times slower."""
    if device.type == "cpu" and sum(w.numel() for w in model.parameters()) < SMALL:
        torch.set_num_threads(1)


def quiet_transformers() -> None:
    """Silence transformers' loading chatter: geomrl prints its own progress."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
