"""The sections of a training configuration that say what is measured, kept and logged on the way."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from geomrl.files import user_code_name
from geomrl.train.values import EvalAnchor, Layers, Section, Text, distinct


class EvaluationConfig(Section):
    """Held-out problems: pass@1, pass@k and the geometry at the anchors, with intervals."""

    problems: Text = Field(description="Sources with commas, as in data.problems.")
    limit: int | None = Field(
        default=None, ge=1, description="Only the first so many of each source."
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="For files: the column of statement, gold and id."
    )
    samples: int = Field(default=8, ge=1, description="Rollouts a problem.")
    every: int = Field(
        default=10, ge=1, description="After every so many training steps, and the last."
    )
    at_start: bool = Field(default=True, description="Also before training.")
    k: list[int] = Field(default_factory=lambda: [1, 8], min_length=1, description="pass@k.")
    anchors: list[EvalAnchor] = Field(
        default_factory=lambda: ["before_marker", "marker_end"], description="Read at these."
    )
    layers: Layers = Field(default_factory=lambda: ["final"], description="Read from these layers.")
    temperature: float = Field(default=1.0, ge=0, description="0 is greedy.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="1 is off.")
    max_tokens: int | None = Field(default=None, ge=1, description="None: rollout.max_tokens.")
    seed: int = Field(default=0, ge=0, description="Of the samples; equal at every evaluation.")

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        bad = [k for k in self.k if not 1 <= k <= self.samples]
        if bad:
            raise ValueError(
                f"pass@{bad[0]} cannot be had from samples {self.samples}: k goes from 1 to samples"
            )
        distinct(self.k)
        distinct(list(map(user_code_name, self.anchors)))
        return self


class CheckpointConfig(Section):
    """What is kept on disk to resume from."""

    every: int = Field(
        default=10, ge=1, description="After every so many training steps, and the last."
    )
    keep: int = Field(default=2, ge=0, description="How many besides the last one; older ones go.")
    model: bool = Field(
        default=True,
        description="Also a plain Hugging Face folder in each, for probe, eval and export.",
    )


class LogConfig(Section):
    """What is logged beside metrics.jsonl."""

    tensorboard: bool = Field(default=False, description="Write RUN/tensorboard too.")
    wandb: Text | None = Field(default=None, description="Project at Weights & Biases.")
    rollouts_every: int = Field(
        default=1, ge=0, description="Write every so many steps' rollouts; 0 never."
    )
    show_rollouts: int = Field(default=2, ge=0, description="Sample rollouts shown a step.")
    stalled_after: float | None = Field(
        default=900.0,
        gt=0,
        description="Seconds without progress after which a rank says what it does, or whom it waits"
        " for; None: never.",
    )
    peak: float | None = Field(
        default=None,
        gt=0,
        description="Dense bfloat16 TFLOP/s of a device, for time/mfu; None: by its name.",
    )
