"""Checked values of a training configuration: layers, anchors, markers, templates, and their names.

With them what all its sections have in common (`Section`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from geomrl.errors import GeomrlError
from geomrl.files import is_user_code
from geomrl.probe.anchors import check_anchor
from geomrl.problems.prompts import fill_template
from geomrl.rollout.engines import ENGINES
from geomrl.train.losses import LOSSES
from geomrl.verify.marker import parse_marker


class Section(BaseModel):
    """Settings that belong together: unknown keys are faults, and nothing changes once it is made."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


Arm = Literal["correct", "wrong", "shuffled_correct", "shuffled_groups"]
Table = Literal["auto", "groups", "refresh", "old_logprobs"]
RANDOM_ANCHOR = "random"

OWNED_BY_GEOMRL = {
    "train_batch_size": "data.prompts_per_step and dapo.updates_per_rollout",
    "train_micro_batch_size_per_gpu": "micro_batch.tokens",
    "gradient_accumulation_steps": "micro_batch.tokens",
    "gradient_clipping": "optimiser.clip_norm",
    "optimizer": "the section optimiser",
    "scheduler": "optimiser.warmup_updates",
    "zero_optimization.stage": "deepspeed.zero",
    "zero_optimization.offload_optimizer": "deepspeed.offload_optimiser",
    "bf16.enabled": "model.dtype",
    "fp16": "model.dtype",
}
"""DeepSpeed's keys that follow from a setting of ours, which is named."""


def _as_value_error(check: Any) -> Any:
    """Let pydantic collect a fault that a function of ours tells as a GeomrlError."""

    def run(value: Any) -> Any:
        try:
            check(value)
        except GeomrlError as error:
            raise ValueError(str(error)) from error
        return value

    return run


def _one_of(names: Collection[str], own: str) -> AfterValidator:
    """Accept the names of a table, and code of the user's: "FILE.py:" and what it is."""

    def check(name: str) -> str:
        if not is_user_code(name) and name not in names:
            listed = ", ".join(f"'{each}'" for each in names)
            raise PydanticCustomError(
                "literal_error", "Input should be {names} or {own}", {"names": listed, "own": own}
            )
        return name

    return AfterValidator(check)


def _check_training_anchor(name: str) -> None:
    if name != RANDOM_ANCHOR:
        check_anchor(name)


def _check_template(template: str) -> None:
    fill_template(template, "")


def _check_layer(name: str) -> str:
    if name != "final" and not name.removeprefix("-").isdigit():
        raise ValueError(
            f"layer '{name}' is unknown: give 0 (the first layer's input), 1, 2, ... (outputs of the"
            " decoder layers; -1 is the last) or final (after the final norm)"
        )
    return name


def _as_texts(value: Any) -> Any:
    """YAML reads the layer 0 as a number, and one name alone as a text."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, list):
        return [str(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in value]
    return value


def distinct(values: list[Any]) -> list[Any]:
    """Return the values if none is duplicated; raise a ValueError otherwise."""
    if len(set(values)) != len(values):
        raise ValueError(f"{values} names something twice: name each once")
    return values


def _check_extra(extra: dict[str, Any]) -> dict[str, Any]:
    for path, ours in OWNED_BY_GEOMRL.items():
        section, _, key = path.partition(".")
        inside = extra.get(section)
        if section in extra and (not key or (isinstance(inside, dict) and key in inside)):
            raise ValueError(f"DeepSpeed's '{path}' is set by geomrl: use {ours} instead")
    return extra


Kind = Annotated[str, _one_of(LOSSES, "FILE.py:FUNCTION")]
"""A row of `losses.LOSSES`, or a function of the user's."""
EngineName = Annotated[str, _one_of(ENGINES, "FILE.py:CLASS")]
"""A row of `rollout.engines.ENGINES`, or a class of the user's."""
EvalAnchor = Annotated[str, AfterValidator(_as_value_error(check_anchor))]
TrainAnchor = Annotated[str, AfterValidator(_as_value_error(_check_training_anchor))]
Layers = Annotated[
    list[Annotated[str, AfterValidator(_check_layer)]],
    BeforeValidator(_as_texts),
    AfterValidator(distinct),
    Field(min_length=1),
]
Marker = Annotated[str, AfterValidator(_as_value_error(parse_marker))]
Template = Annotated[str, AfterValidator(_as_value_error(_check_template))]
DeepSpeedExtra = Annotated[dict[str, Any], AfterValidator(_check_extra)]
Text = Annotated[str, Field(min_length=1)]
