"""A launch rehearsed without weights: the policy and its engine's settings, on the meta device.

What cannot be built without storage cannot be built with it. Nothing is downloaded but the model's
configuration, and no process is started, so that any number of ranks can be rehearsed anywhere.
"""

from __future__ import annotations

from typing import Any

import torch

from geomrl.errors import GeomrlError, reason_of
from geomrl.models.decoder import find_decoder, next_token_logits
from geomrl.train.config import TrainConfig
from geomrl.train.deepspeed_engine import adamw, check_deepspeed
from geomrl.train.job import rollout_engine, training_job
from geomrl.train.policy import Policy, prepare_model
from geomrl.train.weights import named_weights

_META = torch.device("meta")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def rehearse(config: TrainConfig, model_config: Any) -> None:
    """Build what a run builds before its first step: policy, adapters, head, optimiser, engine.

    Args:
        config: the run's configuration.
        model_config: the model's transformers configuration.

    Raises:
        GeomrlError: a part cannot be built, or the trained weights would not be those that the
            engine which samples takes.
    """
    model = _empty_model(config, model_config)
    plain = {name for name, _ in model.named_parameters()}
    with _META:
        policy = _policy(model, config)
        _check_head(policy, model_config)
        adamw([weight for weight in policy.parameters() if weight.requires_grad], config)
        pushed = {name for name, _ in named_weights(policy)}
    _check_names(config, plain, pushed)
    check_deepspeed(config)


def _empty_model(config: TrainConfig, model_config: Any) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        with _META:
            return AutoModelForCausalLM.from_config(
                model_config,
                dtype=_DTYPES[config.model.dtype],
                attn_implementation=config.model.attention,
                trust_remote_code=config.model.trust_remote_code,
            )
    except (ImportError, ValueError) as error:
        raise GeomrlError(
            f"model.name {config.model.name}: transformers cannot build it ({reason_of(error)}); choose a"
            " causal language model, and a model.attention that is installed here"
        ) from error


def _policy(model: Any, config: TrainConfig) -> Policy:
    lora = config.model.lora
    find_decoder(model)
    try:
        prepared = prepare_model(
            model, activation_checkpointing=config.model.activation_checkpointing, lora=lora
        )
    except ValueError as error:  # peft's, of targets that it cannot adapt
        if lora is None:
            raise
        raise GeomrlError(
            f"model.lora.targets {lora.targets}: {reason_of(error)}; name linear modules of this model,"
            " such as q_proj, or all-linear"
        ) from error
    return Policy(
        prepared, head_chunk=config.model.head_chunk, temperature=config.rollout.temperature
    )


def _check_head(policy: Policy, model_config: Any) -> None:
    """Take one state through the head: what has none, or another width, fails here."""
    text = model_config.get_text_config()
    if policy.model.get_output_embeddings() is None:
        raise GeomrlError(
            f"{type(policy.model).__name__}: has no language-model head to score tokens with; choose a"
            " causal language model"
        )
    next_token_logits(policy.model, torch.zeros(1, text.hidden_size, dtype=policy.model.dtype))


def _check_names(config: TrainConfig, plain: set[str], pushed: set[str]) -> None:
    """Check that after each update every weight, and nothing else, reaches the engine that samples."""
    wrong = sorted(pushed ^ plain)
    if wrong:
        raise GeomrlError(
            f"model.lora.targets: with these adapters the weight {wrong[0]} has no counterpart in the"
            " model that samples; name other modules, such as [q_proj, k_proj, v_proj, o_proj]"
        )
    rollout_engine(config).check_names(training_job(config), plain)
