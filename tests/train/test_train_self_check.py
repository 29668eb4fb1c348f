"""The policy that trains is the model, and the engine that samples is the policy; else no run starts."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from tiny import build_model, character_tokenizer
from training import build_config
from zoo import zoo_model

from geomrl.errors import GeomrlError
from geomrl.models.loading import LoadedModel
from geomrl.probe.extractor import Extractor
from geomrl.probe.self_check import trial_rows
from geomrl.rollout.engines.transformers import TransformersEngine
from geomrl.train.policy import Policy, prepare_model
from geomrl.train.sampling import Sampler
from geomrl.train.self_check import check_policy, check_rollouts
from geomrl.train.world import World

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Alone:
    """A policy without an engine around it, on one rank."""

    policy: Policy
    world: World = field(default_factory=lambda: World(0, 1, CPU))
    call: None = None


def check(model, layers=("final",), **prepare):
    engine = Alone(Policy(prepare_model(model, **prepare), head_chunk=8))
    trial = trial_rows(model.config, CPU)
    check_policy("tiny", engine, extractor=Extractor(engine.policy), trial=trial, layers=layers)


@pytest.mark.parametrize("kind", ["llama", "nanochat", "falcon", "jamba", "gemma3", "phimoe"])
def test_what_agrees_passes(kind):
    layers = ("0", "1", -1, "final")
    check(zoo_model(kind), layers)
    check(zoo_model(kind).to(torch.bfloat16), layers, activation_checkpointing=kind != "jamba")


def looks_ahead(module, args, output):
    return output + 0.3 * output.mean(1, keepdim=True)


def test_each_disagreement_is_told_apart():
    draw = torch.Generator().manual_seed(0)
    for words, change in {
        "a row's states change when it is padded on the right": looks_ahead,
        "states that are read differ from those of a plain forward": lambda _, args, out: (
            out + 1e-2 * torch.randn(out.shape, generator=draw)
        ),
    }.items():
        model = build_model("Qwen3")
        model.model.layers[1].mlp.register_forward_hook(change)
        with pytest.raises(GeomrlError, match=words):
            check(model)
    with pytest.raises(GeomrlError, match=r"layer 1 cannot be read: it gives \[4, 3, 13, 32\]"):
        check(zoo_model("gemma3n_text"), ["1", "final"])
    check(zoo_model("gemma3n_text"), ["final"])


class Stale(TransformersEngine):
    """An engine that keeps the weights it began with."""

    def load_weights(self, named):
        for _ in named:
            pass


def check_engine(kind, build, engine=TransformersEngine, seed=1):
    """Push a policy's weights into an engine that began with others, and compare."""
    policy = Alone(Policy(prepare_model(build(kind))))
    loaded = LoadedModel(
        name="tiny",
        model=build(kind, seed=seed),
        tokenizer=character_tokenizer(),
        device=CPU,
        dtype=torch.float32,
        weights="",
        vocabulary="",
    )
    sampler = Sampler(
        engine(loaded),
        None,
        tokenizer=loaded.tokenizer,
        policy=policy.policy,
        config=build_config(),
        world=policy.world,
    )
    check_rollouts(build_config(), policy, sampler, trial_rows(loaded.model.config, CPU))


def test_an_engine_with_other_weights_than_the_policy_is_refused():
    check_engine("Qwen3", build_model)
    check_engine("jamba", zoo_model)
    with pytest.raises(GeomrlError, match="gives other log-probabilities than the policy"):
        check_engine("Qwen3", build_model, engine=Stale)


def test_checking_draws_nothing_from_global_generators():
    """A run's draws are what they were without the check."""
    torch.manual_seed(7)
    wanted = torch.rand(3)
    model = build_model("Qwen3")
    torch.manual_seed(7)
    check(model)
    assert torch.equal(torch.rand(3), wanted)
