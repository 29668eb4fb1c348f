"""The sections of a training configuration. Each says what can be wrong in it by itself.

Defaults are DAPO's published reference configuration (arXiv 2503.14476 and its script), as far as
it has one; the section `alignment` and all that is not in the reference are our assumptions. This
module imports neither torch nor transformers: a faulty file is reported at once.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from geomrl.train.losses import loss_row
from geomrl.train.planning import Packing
from geomrl.train.values import (
    Arm,
    DeepSpeedExtra,
    EngineName,
    Kind,
    Layers,
    Marker,
    Section,
    Table,
    Template,
    Text,
    TrainAnchor,
)
from geomrl.verify.marker import BOXED


class LoraConfig(Section):
    """Low-rank adapters through peft, merged at export. Dropout is fixed at 0.

    With dropout the old and the new log-probability of one token would differ by chance alone.
    """

    rank: int = Field(default=16, ge=1, description="Rank of each adapter.")
    alpha: int = Field(
        default=32, gt=0, description="Scale: adapters are multiplied by alpha / rank."
    )
    targets: Literal["all-linear"] | list[Text] = Field(
        default="all-linear",
        description="Names of the modules to adapt, or all linear ones but the head (no stacked experts).",
    )


class ModelConfig(Section):
    """The policy, and how its forward is run."""

    name: Text = Field(description="Hub id, folder, or 'reasoner' (bundled).")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="bfloat16",
        description="Of the weights in the forward; Adam's master copy is float32.",
    )
    attention: str | None = Field(
        default=None,
        description="transformers' attn_implementation: sdpa, flash_attention_2, eager.",
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="Recompute each layer in the backward: less memory, a third more time.",
    )
    head_chunk: int = Field(
        default=2048, ge=1, description="Tokens whose logits are in memory at once."
    )
    trust_remote_code: bool = Field(
        default=False, description="Run code that a checkpoint brings along."
    )
    lora: LoraConfig | None = Field(default=None, description="Train adapters only.")


class DataConfig(Section):
    """Training problems and their prompts."""

    problems: Text = Field(
        description="Sources with commas: arithmetic_train, dapo17k, a file, NAME=FILE."
    )
    limit: int | None = Field(
        default=None, ge=1, description="Only the first so many of each source."
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="For files: the column of statement, gold and id."
    )
    template: Template | None = Field(
        default=None,
        description="boxed, dapo, plain, or text with {problem}; None: the source's own.",
    )
    system: str | None = Field(default=None, description="System prompt.")
    thinking: bool | None = Field(
        default=None, description="Qwen3's thinking mode; None leaves it out."
    )
    marker: Marker = Field(default=BOXED, description="What opens the answer.")
    prompts_per_step: int = Field(
        default=512, ge=1, description="Groups that a training step trains on."
    )
    max_prompt_tokens: int = Field(
        default=2048, ge=1, description="Longer prompts are left out, and counted."
    )
    deduplicate: bool = Field(
        default=True,
        description="Keep one of equal statements; drop those with contradictory answers.",
    )


class VllmSettings(Section):
    """vLLM in the trainer's process, on the trainer's GPU."""

    gpu_memory_utilization: float = Field(
        default=0.4, gt=0, le=1, description="Share of the GPU for its weights and KV cache."
    )
    sleep: bool = Field(default=True, description="Give its memory back while the policy trains.")
    max_model_len: int | None = Field(
        default=None, ge=1, description="None: the longest prompt with the longest response."
    )
    enforce_eager: bool = Field(default=False, description="No CUDA graphs: slower, starts sooner.")


class RolloutSettings(Section):
    """How a training step samples. top-p is 1 and top-k off: the policy itself is sampled."""

    engine: EngineName = Field(
        default="transformers", description="Who generates; or FILE.py:CLASS."
    )
    samples: int = Field(default=16, description="Rollouts a problem: the group's size.")
    max_tokens: int = Field(default=20480, ge=1, description="Response tokens at most.")
    temperature: float = Field(
        default=1.0, description="Of the draws; log-probabilities are taken at it."
    )
    chunk: int = Field(
        default=256,
        ge=1,
        description="Rollouts generated together, on each rank. vLLM is given a whole round at once and"
        " schedules it itself.",
    )
    old_logprobs: Literal["auto", "trainer", "engine"] = Field(
        default="auto",
        description="Whose log-probabilities are the old policy's; auto: the trainer's where they"
        " differ from the engine's or are read again.",
    )
    importance_cap: float | None = Field(
        default=2.0,
        gt=0,
        description="With vLLM, or an engine that is not exact: cap of a token's p_trainer / p_engine;"
        " None: off.",
    )
    mismatch_stop: float = Field(
        default=0.5,
        gt=0,
        description="Mean |log p_trainer - log p_engine| in nats above which it stops.",
    )
    vllm: VllmSettings = Field(default_factory=VllmSettings, description="Used with engine: vllm.")

    @property
    def engine_settings(self) -> VllmSettings | None:
        """The section that has the engine's name; None where there is none."""
        section = getattr(self, self.engine, None)
        return section if isinstance(section, VllmSettings) else None

    @field_validator("samples")
    @classmethod
    def _group(cls, samples: int) -> int:
        if samples < 2:
            raise ValueError(
                f"a group of {samples} has nothing to compare, so its advantage is always 0:"
                " sample 2 or more a problem"
            )
        return samples

    @field_validator("temperature")
    @classmethod
    def _sampled(cls, temperature: float) -> float:
        if temperature <= 0:
            raise ValueError(
                f"{temperature:g} is greedy, and equal rollouts teach nothing: give more than 0"
                " (the reference has 1.0)"
            )
        return temperature


class DapoConfig(Section):
    """DAPO's loss, reward and dynamic sampling; GRPO's and Dr.GRPO's normalisations as settings."""

    clip_low: float = Field(
        default=0.2, gt=0, lt=1, description="Ratios below 1 - this are clipped."
    )
    clip_high: float = Field(default=0.28, gt=0, description="Ratios above 1 + this are clipped.")
    dual_clip: float | None = Field(
        default=10.0,
        gt=1,
        description="Cap of the ratio where the advantage is negative; None: no cap.",
    )
    normalisation: Literal["token", "sequence", "constant"] = Field(
        default="token",
        description="Mean over all tokens of the update (DAPO), mean of each response's mean (GRPO),"
        " or the sum over a constant (Dr.GRPO).",
    )
    std_advantage: bool = Field(
        default=True, description="Divide by the group's standard deviation."
    )
    reward_correct: float = Field(default=1.0, description="Reward of the verdict correct.")
    reward_wrong: float = Field(default=-1.0, description="Reward of every other verdict.")
    overlong_buffer: int | None = Field(
        default=None,
        ge=1,
        description="The last so many tokens before max_tokens are punished; None: off.",
    )
    kl: float = Field(
        default=0.0, ge=0, description="Weight of the divergence from the first model."
    )
    filter_groups: bool = Field(
        default=True, description="Dynamic sampling: train only on groups whose verdicts differ."
    )
    max_rounds: int = Field(default=10, ge=1, description="Generation rounds of a step at most.")
    surplus: Literal["discard", "carry"] = Field(
        default="discard",
        description="Kept groups beyond prompts_per_step: dropped, or for the next step.",
    )
    round_size: Literal["full", "needed"] = Field(
        default="full",
        description="Prompts of a generation round: prompts_per_step, or only as many as should give"
        " the groups still missing, by the share of groups kept so far.",
    )
    updates_per_rollout: int = Field(
        default=16, ge=1, description="Optimiser updates on a rollout batch."
    )

    @model_validator(mode="after")
    def _rewards_differ(self) -> Self:
        if self.reward_correct <= self.reward_wrong:
            raise ValueError(
                f"reward_correct {self.reward_correct:g} is not above reward_wrong"
                f" {self.reward_wrong:g}, so training would reward wrong answers: raise it"
            )
        return self


class AlignmentConfig(Section):
    """Hidden-Align: draw together the states of one problem's rollouts at an anchor."""

    kind: Kind = Field(default="cosine", description="The loss, or FILE.py:FUNCTION.")
    weight: float = Field(
        default=0.1, ge=0, description="Of the loss beside the policy's; 0 only measures."
    )
    warmup_steps: int = Field(
        default=0, ge=0, description="Training steps over which the weight rises."
    )
    stop_after: int | None = Field(
        default=None, ge=1, description="Training step from which the weight is 0; None: never."
    )
    layers: Layers = Field(
        default_factory=lambda: ["final"], description="Layers whose losses are averaged."
    )
    anchor: TrainAnchor = Field(
        default="before_marker", description="Where states are read; random: a negative control."
    )
    rollouts: Arm = Field(
        default="correct",
        description="Which rollouts are aligned; all but correct are negative controls.",
    )
    table: Table = Field(
        default="auto",
        description="Where the gradient's table comes from: whole groups in a micro-batch, a forward"
        " before each update, or the old log-probabilities' pass.",
    )
    temperature: float = Field(default=0.1, gt=0, description="Of the contrastive kinds.")
    all_correct_groups: bool = Field(
        default=False,
        description="Groups that dynamic sampling drops as all correct are aligned too.",
    )

    @model_validator(mode="after")
    def _schedule(self) -> Self:
        if self.stop_after is not None and self.stop_after < self.warmup_steps:
            raise ValueError(
                f"stop_after {self.stop_after} comes before the end of warmup_steps"
                f" {self.warmup_steps}, so the weight would never be reached: raise the one or lower"
                " the other"
            )
        return self

    @model_validator(mode="after")
    def _whole_groups_suffice(self) -> Self:
        if self.table == "groups" and loss_row(self.kind).across_groups:
            raise ValueError(
                f"table 'groups' holds one micro-batch, but the loss '{self.kind}' compares across"
                " problems: take table auto or refresh"
            )
        if self.table == "groups" and self.rollouts == "shuffled_groups":
            raise ValueError(
                "table 'groups' holds one micro-batch, but rollouts 'shuffled_groups' are dealt over"
                " all of an update: take table auto or refresh"
            )
        return self


class OptimiserConfig(Section):
    """AdamW with a linear warm-up, then a constant rate."""

    lr: float = Field(default=1e-6, gt=0, description="Learning rate after the warm-up.")
    weight_decay: float = Field(default=0.1, ge=0, description="Decoupled weight decay.")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="Adam's decay rates.")
    warmup_updates: int = Field(
        default=10, ge=0, description="Optimiser updates until the full rate."
    )
    clip_norm: float | None = Field(
        default=1.0, gt=0, description="Gradient norm at most; None: no clip."
    )

    @field_validator("betas")
    @classmethod
    def _rates(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"{list(betas)} are no decay rates: each lies from 0 to below 1")
        return betas


class MicroBatchConfig(Section):
    """How an update is cut into forwards."""

    tokens: int = Field(
        default=16384,
        ge=1,
        description="Padded tokens of a micro-batch; a longer rollout is one by itself.",
    )
    keep_groups: bool = Field(
        default=True, description="Keep a problem's rollouts together where they fit."
    )
    packing: Packing = Field(
        default="by_length",
        description="by_length: each rank packs rollouts of similar length; balanced: the best of"
        " several plans for ranks that wait for each other, which is less padding on several.",
    )


class DeepSpeedConfig(Section):
    """How parameters, gradients and optimiser states are spread over ranks."""

    zero: Literal[0, 1, 2, 3] = Field(default=2, description="ZeRO stage.")
    processes: int = Field(
        default=1,
        ge=1,
        description="Ranks that `geomrl train` starts on this machine where no launcher started it.",
    )
    offload_optimiser: bool = Field(
        default=False, description="Keep Adam's states in the host's memory."
    )
    extra: DeepSpeedExtra = Field(
        default_factory=dict, description="Merged into the DeepSpeed configuration."
    )

    @model_validator(mode="after")
    def _needs_zero(self) -> Self:
        if self.offload_optimiser and self.zero == 0:
            raise ValueError("offload_optimiser needs ZeRO: set zero to 1, 2 or 3")
        return self
