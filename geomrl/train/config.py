"""The configuration of a training run: one YAML file, checked before anything heavy is loaded.

    config = load_config("configs/quickstart.yaml", ["steps=50", "alignment.weight=0"])
    print(resolved_yaml(config))

Imports neither torch nor transformers.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from geomrl.errors import GeomrlError, MissingExtra
from geomrl.train.losses import loss_row
from geomrl.train.record_sections import CheckpointConfig, EvaluationConfig, LogConfig
from geomrl.train.sections import (
    AlignmentConfig,
    DapoConfig,
    DataConfig,
    DeepSpeedConfig,
    LoraConfig,
    MicroBatchConfig,
    ModelConfig,
    OptimiserConfig,
    RolloutSettings,
    VllmSettings,
)
from geomrl.train.values import Section

__all__ = [
    "AlignmentConfig",
    "CheckpointConfig",
    "DapoConfig",
    "DataConfig",
    "DeepSpeedConfig",
    "EvaluationConfig",
    "LogConfig",
    "LoraConfig",
    "MicroBatchConfig",
    "ModelConfig",
    "OptimiserConfig",
    "RolloutSettings",
    "TrainConfig",
    "VllmSettings",
    "load_config",
    "override",
    "resolved_yaml",
]

S = TypeVar("S", bound=Section)
TRAINING = "training"
"""`training.steps` and `training.seed` may be written for the settings that are in no section."""


class TrainConfig(Section):
    """Everything that decides a training run, but for the number of ranks."""

    seed: int = Field(default=0, ge=0, description="Of every draw.")
    steps: int = Field(ge=1, description="Training steps: rollout batches.")
    model: ModelConfig
    data: DataConfig
    rollout: RolloutSettings = Field(default_factory=RolloutSettings)
    dapo: DapoConfig = Field(default_factory=DapoConfig)
    alignment: AlignmentConfig | None = None
    optimiser: OptimiserConfig = Field(default_factory=OptimiserConfig)
    micro_batch: MicroBatchConfig = Field(default_factory=MicroBatchConfig)
    deepspeed: DeepSpeedConfig = Field(default_factory=DeepSpeedConfig)
    evaluation: EvaluationConfig | None = None
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    log: LogConfig = Field(default_factory=LogConfig)

    @property
    def prompts_per_update(self) -> int:
        """Groups of one optimiser update."""
        return self.data.prompts_per_step // self.dapo.updates_per_rollout

    @property
    def max_sequence(self) -> int:
        """Tokens of the longest prompt with the longest response that is trained on."""
        return self.data.max_prompt_tokens + self.rollout.max_tokens

    @property
    def evaluated_tokens(self) -> int:
        """Tokens of an evaluation's longest response; 0 without evaluation."""
        if self.evaluation is None:
            return 0
        return self.evaluation.max_tokens or self.rollout.max_tokens

    @property
    def max_generated(self) -> int:
        """Tokens of the longest prompt with the longest response, in training or evaluation."""
        longest = max(self.rollout.max_tokens, self.evaluated_tokens)
        return self.data.max_prompt_tokens + longest

    @model_validator(mode="after")
    def _batch_arithmetic(self) -> Self:
        prompts, updates = self.data.prompts_per_step, self.dapo.updates_per_rollout
        if prompts % updates:
            below = prompts - prompts % updates
            near = " or ".join(str(n) for n in (below, below + updates) if n)
            raise ValueError(
                f"data.prompts_per_step {prompts} cannot be cut into dapo.updates_per_rollout"
                f" {updates} equal updates: take {near} prompts"
            )
        sources = len([part for part in self.data.problems.split(",") if part.strip()])
        if self.data.limit is not None and self.data.limit * sources < prompts:
            raise ValueError(
                f"data.limit {self.data.limit} leaves fewer problems than data.prompts_per_step"
                f" {prompts}, so a problem would stand twice in one step: raise the one or lower the"
                " other"
            )
        buffer = self.dapo.overlong_buffer
        if buffer is not None and buffer >= self.rollout.max_tokens:
            raise ValueError(
                f"dapo.overlong_buffer {buffer} is not below rollout.max_tokens"
                f" {self.rollout.max_tokens}, so every response would be punished: lower it"
            )
        return self

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        settings = self.rollout.engine_settings
        room = None if settings is None else settings.max_model_len
        if room is not None and room < self.max_generated:
            key = "rollout.max_tokens"
            if self.evaluated_tokens > self.rollout.max_tokens:
                key = "evaluation.max_tokens"
            raise ValueError(
                f"rollout.{self.rollout.engine}.max_model_len {room} is below data.max_prompt_tokens"
                f" {self.data.max_prompt_tokens} + {key}"
                f" {self.max_generated - self.data.max_prompt_tokens}: raise it, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _precision(self) -> Self:
        if self.model.dtype == "bfloat16" and self.deepspeed.zero == 0:
            raise ValueError(
                "model.dtype bfloat16 with deepspeed.zero 0 is wrong in DeepSpeed (it makes a"
                " phantom first step): take deepspeed.zero 1 or more, or model.dtype float32"
            )
        return self

    @model_validator(mode="after")
    def _alignment_fits(self) -> Self:
        if self.alignment is None:
            return self
        if loss_row(self.alignment.kind).needs_another_group and self.prompts_per_update < 2:
            raise ValueError(
                f"alignment.kind '{self.alignment.kind}' compares across problems, but an update has"
                " one group only: raise data.prompts_per_step or lower dapo.updates_per_rollout"
            )
        if self.alignment.table == "groups" and not self.micro_batch.keep_groups:
            raise ValueError(
                "alignment.table 'groups' needs whole groups in a micro-batch: set"
                " micro_batch.keep_groups true, or take alignment.table auto"
            )
        if self.alignment.table == "old_logprobs" and self.rollout.old_logprobs == "engine":
            raise ValueError(
                "alignment.table 'old_logprobs' reads its states in the trainer's pass for old"
                " log-probabilities, and rollout.old_logprobs 'engine' makes none: set that to auto"
                " or trainer, or take alignment.table auto"
            )
        return self


def load_config(path: Path | str, sets: Sequence[str] = ()) -> TrainConfig:
    """Read a configuration from a YAML file.

    Args:
        path: the file.
        sets: changes to it, "a.b=value", the value as in YAML; later ones win.

    Raises:
        GeomrlError: the file is absent or no YAML (with the line), a key is unknown (with the
            nearest one), a value is impossible, or settings contradict each other.
    """
    data = read_yaml(path)
    training = data.pop(TRAINING, {})
    for key, value in training.items() if isinstance(training, dict) else [(TRAINING, training)]:
        _put(data, _key_path(f"{TRAINING}.{key}"), value)
    for change in sets:
        key, equals, text = change.partition("=")
        if not equals or not key.strip():
            raise GeomrlError(f"--set {change}: write it as KEY=VALUE, such as alignment.weight=0")
        _put(data, _key_path(key.strip()), _parse_yaml(text, f"--set {change}"))
    return _validated(data, f"{path} with --set" if sets else str(path))


def override(config: TrainConfig, changes: Mapping[str, Any], source: str) -> TrainConfig:
    """Return the configuration with some settings changed, checked anew.

    Args:
        config: what is changed.
        changes: "a.b" -> value; a section that was None is made, with its defaults.
        source: what the changes come from, for the error.

    Raises:
        GeomrlError: as `load_config`.
    """
    data = config.model_dump(mode="json")
    for key, value in changes.items():
        _put(data, _key_path(key), value)
    return _validated(data, source)


def resolved_yaml(config: TrainConfig) -> str:
    """Return every setting as YAML that `load_config` reads back to an equal configuration."""
    import yaml

    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML file that contains settings by name.

    Raises:
        GeomrlError: it is absent, no YAML, has a duplicated key, or is no mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise GeomrlError(f"{path}: {reason}; check the path of the configuration") from error
    data = _parse_yaml(text, str(path))
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise GeomrlError(f"{path}: holds no settings by name; write lines such as 'steps: 25'")
    return data


def _parse_yaml(text: str, source: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtra("pyyaml", "train", "reading a configuration") from error
    try:
        _refuse_repeated_keys(yaml.compose(text, Loader=yaml.SafeLoader), source)
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise GeomrlError(
            f"{source}{where}: this is not YAML ({problem}); mend the line"
        ) from error


def _refuse_repeated_keys(node: Any, source: str) -> None:
    """Refuse a key that is duplicated in one section: YAML would silently take the last."""
    children = getattr(node, "value", None)
    if not isinstance(children, list):
        return
    seen: set[str] = set()
    for child in children:
        if not isinstance(child, tuple):
            _refuse_repeated_keys(child, source)
            continue
        key, value = child
        if str(key.value) in seen:
            line = key.start_mark.line + 1
            raise GeomrlError(
                f"{source}, line {line}: '{key.value}' stands twice; keep one of them"
            )
        seen.add(str(key.value))
        _refuse_repeated_keys(value, source)


def _key_path(key: str) -> list[str]:
    return key.removeprefix(f"{TRAINING}.").split(".")


def _put(data: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set one value in nested settings; sections on the way are made where they are absent."""
    for name in path[:-1]:
        if not isinstance(data.get(name), dict):
            data[name] = {}
        data = data[name]
    data[path[-1]] = value


def _validated(data: dict[str, Any], source: str) -> TrainConfig:
    return read_section(TrainConfig, data, source)


def read_section(
    section: type[S], data: Mapping[str, Any], source: str, under: tuple[str, ...] = ()
) -> S:
    """Check the settings of a section, or of the whole configuration.

    Args:
        section: its class.
        data: setting -> value.
        source: what they come from, for the error.
        under: the section's place in a configuration, such as ("alignment",).

    Raises:
        GeomrlError: as `load_config`.
    """
    try:
        return section.model_validate(data)
    except ValidationError as error:
        faults: dict[str, str] = {}  # the first of each key: a union tells one for each branch
        for fault in error.errors():
            key, message = _sentence({**fault, "loc": (*under, *fault["loc"])})
            faults.setdefault(key or message, message)
        raise GeomrlError(f"{source}: {'; '.join(faults.values())}") from error


def _sentence(fault: dict[str, Any]) -> tuple[str, str]:
    """Return the key of one of pydantic's faults, and what is wrong with it."""
    keys = set(_keys(TrainConfig))
    full = ".".join(str(part) for part in fault["loc"])
    path = [str(part) for part in fault["loc"]]
    while path and ".".join(path) not in keys:  # parts of a list, branches of a union
        path.pop()
    key = ".".join(path)
    message, shown = str(fault["msg"]).removeprefix("Value error, "), repr(fault["input"])[:60]
    match fault["type"]:
        case "extra_forbidden":
            return full, _unknown_key(full, keys)
        case "missing":
            return full, f"'{full}' is missing, and has no default"
        case "value_error":
            return key, f"{key}: {message}" if key else message
        case "model_type":
            return key, f"{key} is {shown}, but it is a section: write settings below it"
    return key, f"{key} is {shown}: {message[0].lower()}{message[1:]}"


def _unknown_key(key: str, keys: set[str]) -> str:
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.75)
    leaf = key.rpartition(".")[2]
    same_leaf = [known for known in sorted(keys) if known.rpartition(".")[2] == leaf]
    leaves = {known.rpartition(".")[2]: known for known in sorted(keys, reverse=True)}
    near_leaf = [leaves[name] for name in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.6)]
    best = [*same_leaf[:1], *near, *near_leaf]
    if best:
        return f"unknown key '{key}'; the nearest is '{best[0]}'"
    section = key.rpartition(".")[0]
    known = [name for name in _keys(TrainConfig) if name.rpartition(".")[0] == section]
    return f"unknown key '{key}'; there is {', '.join(known)}"


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a configuration, sections and settings, with dots."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _keys(kind, f"{prefix}{name}.")
