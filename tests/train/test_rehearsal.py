"""A launch that cannot start says so in its dry run; what a dry run passes can be built."""

import pytest
import torch
import yaml
from transformers import AutoConfig, Qwen3MoeConfig, Qwen3MoeForCausalLM
from typer.testing import CliRunner

from geomrl.cli.app import app
from geomrl.errors import GeomrlError
from geomrl.models.loading import LoadedModel
from geomrl.models.names import resolve_model
from geomrl.problems.problem import Problem
from geomrl.rollout.engine import Completion, Request, Sampling
from geomrl.rollout.engines.transformers import TransformersEngine
from geomrl.train.config import load_config
from geomrl.train.dynamic_sampling import TrainingPrompt
from geomrl.train.policy import Policy, prepare_model
from geomrl.train.preflight import batch_lines
from geomrl.train.sampling import Sampler
from geomrl.train.sections import LoraConfig
from geomrl.train.weights import named_weights
from geomrl.train.world import World

MOE = Qwen3MoeConfig(
    vocab_size=160, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, intermediate_size=64, moe_intermediate_size=32,
    num_experts=4, num_experts_per_tok=2,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A model folder that holds a configuration and no weights."""
    AutoConfig.from_pretrained(resolve_model("reasoner")).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def config_file(folder, **sections):
    settings = {
        "steps": 2,
        "model": {"name": str(folder), "dtype": "float32"},
        "data": {"problems": "arithmetic_train", "prompts_per_step": 4, "max_prompt_tokens": 64},
        "rollout": {"samples": 4, "max_tokens": 96},
        "dapo": {"updates_per_rollout": 2},
        "deepspeed": {"zero": 2},
    }
    for name, values in sections.items():
        settings[name] = {**settings.get(name, {}), **values}
    path = folder.parent / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def dry_run(path, ranks=1):
    done = CliRunner().invoke(
        app, ["train", str(path), "--dry-run"], env={"WORLD_SIZE": str(ranks)}
    )
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, " ".join(done.stderr.split())


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 8])
def test_without_weights_and_on_any_number_of_ranks(folder, zero, ranks):
    path = config_file(
        folder, deepspeed={"zero": zero}, model={"lora": {"rank": 2}}, alignment={"weight": 0.1}
    )
    assert dry_run(path, ranks) == (0, "")


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"model": {"lora": {"targets": ["nothing"]}}}, r"model.lora.targets ['nothing']"),
        ({"model": {"attention": "nonsense"}}, "transformers cannot build it"),
        (
            {"deepspeed": {"extra": {"zero_optimization": {"nonsense": 1}}}},
            "mend deepspeed.extra",
        ),
        ({"deepspeed": {"extra": {"sparse_attention": {}}}}, "mend deepspeed.extra"),
    ],
    ids=["targets", "attention", "section", "removed"],
)
def test_what_cannot_be_built_is_told(folder, sections, said):
    code, error = dry_run(config_file(folder, **sections))
    assert code == 1
    assert said in error
    assert error.startswith("error: ")


def test_a_model_without_a_head_or_stack_is_told(folder):
    AutoConfig.for_model("bert").save_pretrained(folder)
    code, error = dry_run(config_file(folder))
    assert code == 1
    assert "Traceback" not in error


def test_adapters_on_all_linear_modules_of_a_mixture_of_experts_can_be_pushed(tmp_path):
    torch.manual_seed(0)
    model, other = Qwen3MoeForCausalLM(MOE), Qwen3MoeForCausalLM(MOE)
    policy = Policy(prepare_model(model, lora=LoraConfig(rank=2)))
    assert any(weight.requires_grad for weight in policy.parameters())
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.3)
    loaded = LoadedModel(
        name="moe",
        model=other.eval(),
        tokenizer=None,
        device=torch.device("cpu"),
        dtype=torch.float32,
        weights="",
        vocabulary="",
    )
    engine = TransformersEngine.__new__(TransformersEngine)
    engine.loaded = loaded
    engine.load_weights(named_weights(policy))
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        torch.testing.assert_close(other(input_ids=ids).logits, policy.model(input_ids=ids).logits)


# --- room for a response -----------------------------------------------------------------------


def test_an_evaluation_longer_than_training_is_given_its_room(folder):
    evaluation = {"problems": "arithmetic", "max_tokens": 300, "samples": 8}
    path = config_file(folder, evaluation=evaluation)
    capped = ["rollout.engine=vllm", "rollout.vllm.max_model_len=200"]
    with pytest.raises(
        GeomrlError, match=r"max_model_len 200 is below .* evaluation.max_tokens 300"
    ):
        load_config(path, capped)
    config = load_config(path)
    assert any("responses of at most 300 tokens" in line for line in batch_lines(config, 1))
    assert config.max_generated == 64 + 300


class Cutting:
    """An engine that has room for three tokens, whatever it is asked for."""

    def __init__(self, schedules=False):
        self.schedules, self.calls = schedules, []

    def generate(self, requests, sampling, progress=None):
        self.calls.append(len(requests))
        return [Completion([5, 6, 7], [-1.0] * 3, "length") for _ in requests]


def sampler_of(engine, config):
    sampler = Sampler(
        engine,
        None,
        tokenizer=None,
        policy=None,
        config=config,
        world=World(0, 1, torch.device("cpu")),
    )
    sampler._fresh = True
    return sampler


@pytest.mark.parametrize(("schedules", "calls"), [(False, [4, 4, 2]), (True, [10])])
def test_an_engine_that_schedules_is_given_the_whole_round(schedules, calls, folder):
    engine = Cutting(schedules)
    sampler = sampler_of(engine, load_config(config_file(folder), ["rollout.chunk=4"]))
    requests = [Request((1, 2), seed) for seed in range(10)]
    assert len(sampler._generate(requests, Sampling(max_tokens=3), None)) == 10
    assert engine.calls == calls


def test_a_response_that_an_engine_cuts_is_no_wrong_answer(folder):
    sampler = sampler_of(Cutting(), load_config(config_file(folder)))
    problem = Problem("1", "b", "?", "1", meta={})
    prompt = TrainingPrompt(
        index=0, problem=problem, prompt="?", prompt_kind="raw", prompt_ids=(1, 2)
    )
    with pytest.raises(GeomrlError, match="cut after 3 tokens, where 96 were asked for"):
        sampler.sample(
            [prompt], 2, Sampling(max_tokens=96), policy_step=0, seed=0, purpose=("eval",)
        )
