"""Is the policy that trains the model, and the engine that samples the policy? Tried at the start.

What `geomrl.probe.self_check` compares a model with in probing, through the training engine's own
call, so that it is true of every ZeRO stage; and the rollout engine after a push of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from geomrl.errors import GeomrlError
from geomrl.models.decoder import layer_name
from geomrl.models.trial import DRAWN, NATS, nats, require
from geomrl.probe.extractor import Extractor, Rows
from geomrl.probe.self_check import (
    Trial,
    refuse_unreadable,
    require_same_states,
    trial_rows,
    watch,
)
from geomrl.rollout.engine import Request, Sampling
from geomrl.seeds import derive_seed
from geomrl.train.config import TrainConfig
from geomrl.train.deepspeed_engine import Runner
from geomrl.train.minibatch import pad
from geomrl.train.passes import run_policy
from geomrl.train.sampling import Sampler
from geomrl.train.world import World


def check_training(
    config: TrainConfig, engine: Runner, extractor: Extractor, sampler: Sampler, tokenizer: Any
) -> None:
    """Hold the policy against its model, and the rollout engine against the policy.

    All ranks take part, with the same rows; nothing is drawn from a global generator.

    Args:
        config: the run's configuration.
        engine: the engine around the policy.
        extractor: of the policy, called through the engine.
        sampler: the rollout engine with what fills it; asleep afterwards.
        tokenizer: the model's.

    Raises:
        GeomrlError: says what disagrees, by how much, and what to do.
    """
    model = engine.policy.model
    trial = trial_rows(model.config, engine.world.device, len(tokenizer))
    check_policy(
        f"{config.model.name} ({type(model).__name__})",
        engine,
        extractor=extractor,
        trial=trial,
        layers=_layers(config),
    )
    check_rollouts(config, engine, sampler, trial)


@torch.no_grad()
def check_policy(
    name: str, engine: Runner, extractor: Extractor, trial: Trial, layers: Sequence[str | int]
) -> None:
    """Hold the policy against its model: the same twice, without padding, and with its own logits.

    Args:
        name: the model, for messages.
        engine: the engine around the policy.
        extractor: of the policy, called through the engine.
        trial: the rows.
        layers: what training will read; all of "final" at least.

    Raises:
        GeomrlError: see `check_training`.
    """
    policy, decoder = engine.policy, extractor.decoder
    wanted = list(dict.fromkeys(layer_name(layer, decoder.n_layers) for layer in layers))
    inputs = _scored(trial.ids, trial.rows)
    with watch(policy, decoder, trial) as seen:
        own, own_entropy = run_policy(engine, {**inputs, "whole": True})
    unreadable = seen.unreadable(decoder.n_layers)
    _on_all_ranks(engine.world, lambda: refuse_unreadable(name, wanted, unreadable))
    reading = extractor.read(inputs, trial.rows, wanted)
    ids, rows, mine = trial.alone()
    alone = extractor.read(_scored(ids, rows), rows, wanted)
    # The last token of a row predicts one that differs between the two batches.
    inner = mine & (trial.rows.position < ids.shape[1] - 1)
    logprobs, entropy = reading.output
    dtype = next(iter(reading.states.values())).dtype
    allowed = NATS.get(dtype, 1e-3)

    def compare() -> None:
        require_same_states(
            name, reading.states, seen=seen, alone=alone.states, mine=mine, dtype=dtype
        )
        require(
            nats(logprobs[inner], alone.output[0][:-1]), allowed,
            f"{name}: a row's log-probabilities change when it is padded on the right",
            "gradients would depend on the micro-batch: train another architecture",
        )  # fmt: skip
        require(
            max(nats(logprobs, own), nats(entropy, own_entropy)), allowed,
            f"{name}: log-probabilities of the policy are not those of the model's own logits",
            "the model changes logits behind its head, or states before it, in a way that geomrl does "
            "not know: train another architecture, and report this one",
        )  # fmt: skip

    _on_all_ranks(engine.world, compare)


@torch.no_grad()
def check_rollouts(config: TrainConfig, engine: Runner, sampler: Sampler, trial: Trial) -> None:
    """Hold the rollout engine, with the weights that it was given, against the policy.

    The prompts are ragged, as those of a training are.

    Raises:
        GeomrlError: see `check_training`.
    """
    longest = config.data.max_prompt_tokens
    prompts = [tuple(ids.tolist())[:longest] for ids in trial.sequences]
    seed = derive_seed(config.seed, "self-check")
    requests = [Request(prompt, seed + row) for row, prompt in enumerate(prompts)]
    sampling = Sampling(config.rollout.temperature, 1.0, 0, min(DRAWN, config.rollout.max_tokens))
    # Every rank has an engine of its own, and every rank scores what all of them drew.
    drawn = [
        (prompt, completion)
        for mine in engine.world.gather(sampler.draw(requests, sampling))
        for prompt, completion in zip(prompts, mine, strict=True)
    ]
    sampler.sleep()
    device = engine.world.device
    at = [(row, len(p) + t) for row, (p, c) in enumerate(drawn) for t in range(len(c.ids))]
    sequence, position = (torch.tensor(x, device=device) for x in zip(*at, strict=True))
    inputs = {
        "input_ids": pad([(*prompt, *completion.ids) for prompt, completion in drawn], device),
        "sequence": sequence,
        "position": position - 1,
        "targets": torch.tensor([i for _, c in drawn for i in c.ids], device=device),
    }
    ours, _ = run_policy(engine, inputs)
    theirs = torch.tensor([lp for _, c in drawn for lp in c.logprobs], device=device)
    allowed = NATS.get(engine.policy.model.dtype, 1e-3)
    name = f"{config.model.name} ({type(engine.policy.model).__name__})"
    _on_all_ranks(
        engine.world,
        lambda: require(
            nats(ours, theirs), allowed,
            f"{name}: the rollout engine ({config.rollout.engine}) with the policy's weights gives "
            "other log-probabilities than the policy",
            "rollouts would not be the policy's: weights were pushed or merged wrongly, or the "
            "engine runs another architecture or number format; compare model.dtype with the engine's",
        ),
    )  # fmt: skip


def _layers(config: TrainConfig) -> list[str | int]:
    """Return the layers that training and evaluation read; "final" is what the head reads."""
    asked: list[str | int] = ["final"]
    for section in (config.alignment, config.evaluation):
        asked += section.layers if section is not None else []
    return asked


def _scored(ids: Tensor, rows: Rows) -> dict[str, Tensor | int]:
    """Return what the policy needs to score every token's successor; the last's is the first."""
    targets = ids.roll(-1, dims=1)[rows.sequence, rows.position]
    return {
        "input_ids": ids,
        "sequence": rows.sequence,
        "position": rows.position,
        "targets": targets,
    }


def _on_all_ranks(world: World, compare: Callable[[], None]) -> None:
    """Let all ranks raise what any of them finds: one that went on alone would wait for ever."""
    try:
        compare()
        words = None
    except GeomrlError as error:
        words = str(error)
    found = next((text for text in world.gather(words) if text is not None), None)
    if found is not None:
        raise GeomrlError(found)
