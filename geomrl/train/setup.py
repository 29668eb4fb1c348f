"""What a training run is made of before its first step: models, engine, prompts, log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from geomrl.errors import GeomrlError
from geomrl.models.decoder import find_decoder, layer_name
from geomrl.models.loading import (
    LoadedModel,
    load_model,
    load_tokenizer,
    quiet_transformers,
    spare_threads,
)
from geomrl.models.token_bytes import TokenBytes
from geomrl.models.turns import turn_end_ids
from geomrl.probe.extractor import Extractor
from geomrl.problems.load import load_problems
from geomrl.rollout.engine import TrainingEngine
from geomrl.seeds import derive_seed
from geomrl.train.adapters import adapters_off
from geomrl.train.config import TrainConfig, override
from geomrl.train.deepspeed_engine import DeepSpeedEngine, numel, partitioned_loading
from geomrl.train.display import TrainDisplay
from geomrl.train.dynamic_sampling import PromptOrder, TrainingPrompt, training_prompts
from geomrl.train.job import rollout_engine, training_job
from geomrl.train.metrics_log import MetricsLog
from geomrl.train.policy import Policy, prepare_model
from geomrl.train.positions import AnchorFinder
from geomrl.train.rates import ModelFlops, model_flops, peak_here
from geomrl.train.sampling import Sampler
from geomrl.train.self_check import check_training
from geomrl.train.world import World
from geomrl.verify.marker import parse_marker
from geomrl.verify.verifier import MathVerifier


@dataclass(frozen=True)
class FrozenPolicy:
    """The first policy, for the KL term: what `Runner` needs, and never a step."""

    policy: Policy
    world: World
    call: Callable[..., Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The parts of a run that do not change from step to step."""

    config: TrainConfig
    run: Path
    world: World
    engine: DeepSpeedEngine
    reference: FrozenPolicy | None
    extractor: Extractor
    sampler: Sampler
    tokenizer: Any
    finder: AnchorFinder
    prompts: list[TrainingPrompt]
    order: PromptOrder
    held_out: list[TrainingPrompt]
    log: MetricsLog
    display: TrainDisplay
    flops: ModelFlops
    peak: float | None
    """TFLOP/s of a device; None where unknown."""


@contextmanager
def build(
    config: TrainConfig, run: Path, world: World, lines: Sequence[str], display: TrainDisplay
) -> Iterator[Setup]:
    """Load the models and make everything that the loop needs; close it again at the end.

    Args:
        config: the run's configuration.
        run: its folder.
        world: the ranks.
        lines: what preflight had to say, to be shown.
        display: where it is shown.
    """
    quiet_transformers()
    with ExitStack() as stack:
        verifier = stack.enter_context(MathVerifier(marker=parse_marker(config.data.marker)))
        log = stack.enter_context(MetricsLog(run, config.log))
        engine, tokenizer, held_out = _rollout_engine(config, world)
        stack.callback(engine.close)  # before the ranks part: vLLM's end must not part them
        policy = _policy(config, world)
        spare_threads(policy, world.device)
        config = _with_layer_names(config, policy)
        trained = DeepSpeedEngine(policy, config, world)
        stack.callback(trained.close)
        extractor = Extractor(policy, call=trained.raw)
        sampler = Sampler(
            engine, verifier, tokenizer=tokenizer, policy=policy, config=config, world=world
        )
        check_training(config, trained, extractor=extractor, sampler=sampler, tokenizer=tokenizer)
        problems = load_problems(
            config.data.problems, limit=config.data.limit, columns=config.data.columns
        )
        prompts, report = training_prompts(
            problems, tokenizer, config.data, [prompt.problem for prompt in held_out]
        )
        for line in [*lines, str(report)]:
            display.say(line)
        yield Setup(
            config=config,
            run=run,
            world=world,
            engine=trained,
            reference=_reference(config, trained) if config.dapo.kl else None,
            extractor=extractor,
            sampler=sampler,
            tokenizer=tokenizer,
            finder=AnchorFinder(
                TokenBytes(tokenizer),
                parse_marker(config.data.marker),
                turn_end_ids(policy.model.generation_config, tokenizer),
            ),
            prompts=prompts,
            order=PromptOrder(len(prompts), config.data.prompts_per_step, config.seed),
            held_out=held_out,
            log=log,
            display=display,
            flops=_flops(config, policy),
            peak=peak_here(config.log.peak),
        )


def _rollout_engine(
    config: TrainConfig, world: World
) -> tuple[TrainingEngine, Any, list[TrainingPrompt]]:
    """Return the engine that samples, with weights of its own, the tokenizer, and held-out prompts.

    The policy's weights are pushed into the engine; sampling from the policy itself would gather them
    for every token under ZeRO-3. Held-out prompts come first: they decide how much room it needs.
    """
    tokenizer = load_tokenizer(config.model.name, trust_remote_code=config.model.trust_remote_code)
    held_out = _held_out(config, tokenizer)
    kind = rollout_engine(config)
    longest = _longest(held_out, config, kind.max_length(training_job(config)))
    return (
        kind.for_training(training_job(config, longest), tokenizer, world.device),
        tokenizer,
        held_out,
    )


def _longest(held_out: Sequence[TrainingPrompt], config: TrainConfig, room: int | None) -> int:
    """Return the tokens of the longest prompt with the longest response, of training and evaluation.

    Held-out prompts may be longer than `data.max_prompt_tokens`, since none is left out.

    Raises:
        GeomrlError: one of them has too little room for its response.
    """
    needed = config.max_generated
    for prompt in held_out:
        tokens = len(prompt.prompt_ids) + config.evaluated_tokens
        if room is not None and tokens > room:
            raise GeomrlError(
                f"evaluation.problems: the prompt of {prompt.problem.problem_id} has"
                f" {len(prompt.prompt_ids)} tokens, and with {config.evaluated_tokens} of a response"
                f" it would need {tokens} of {room}: lower evaluation.max_tokens, or leave it out"
            )
        needed = max(needed, tokens)
    return needed


def _policy(config: TrainConfig, world: World) -> Policy:
    """Load the policy, trainable; under ZeRO-3 each rank reads its own share."""
    with partitioned_loading(config, world):
        model = _load(config, str(world.device)).model
    prepared = prepare_model(
        model,
        activation_checkpointing=config.model.activation_checkpointing,
        lora=config.model.lora,
        seed=derive_seed(config.seed, "adapters"),
    )
    return _scorer(prepared, config)


def _flops(config: TrainConfig, policy: Policy) -> ModelFlops:
    """Return what the policy's matrix products are made of."""
    trained = [numel(weight) for weight in policy.parameters() if weight.requires_grad]
    return model_flops(
        policy.model.config,
        adapters=sum(trained) if config.model.lora is not None else None,
        trust_remote_code=config.model.trust_remote_code,
    )


def _with_layer_names(config: TrainConfig, policy: Policy) -> TrainConfig:
    """Return the configuration with layers by their names in this model: -1 is its last one's number."""
    n_layers = find_decoder(policy).n_layers
    sections = {"alignment": config.alignment, "evaluation": config.evaluation}
    changes = {
        f"{key}.layers": [layer_name(layer, n_layers) for layer in section.layers]
        for key, section in sections.items()
        if section is not None
    }
    return override(config, changes, "layers")


def _reference(config: TrainConfig, engine: DeepSpeedEngine) -> FrozenPolicy:
    """Return the first policy, to measure the divergence from it.

    With adapters it is the policy without them; otherwise it is loaded once more, whole on every rank.
    """
    world = engine.world
    if config.model.lora is None:
        model = prepare_model(_load(config, str(world.device)).model)
        return FrozenPolicy(_scorer(model.requires_grad_(False), config), world)

    def without_adapters(**inputs: Any) -> Any:
        with adapters_off(engine.policy):
            return engine.raw(**inputs)

    return FrozenPolicy(engine.policy, world, without_adapters)


def _scorer(model: nn.Module, config: TrainConfig) -> Policy:
    return Policy(model, head_chunk=config.model.head_chunk, temperature=config.rollout.temperature)


def _load(config: TrainConfig, device: str) -> LoadedModel:
    return load_model(
        config.model.name,
        device=device,
        dtype=config.model.dtype,
        trust_remote_code=config.model.trust_remote_code,
        attention=config.model.attention,
    )


def _held_out(config: TrainConfig, tokenizer: Any) -> list[TrainingPrompt]:
    """Render the evaluation's problems as the training's are; none is left out."""
    settings = config.evaluation
    if settings is None:
        return []
    problems = load_problems(settings.problems, limit=settings.limit, columns=settings.columns)
    whole = config.data.model_copy(update={"deduplicate": False, "max_prompt_tokens": 2**31})
    return training_prompts(problems, tokenizer, whole)[0]
