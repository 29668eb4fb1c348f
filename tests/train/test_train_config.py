"""Training configurations: every fault is one clear sentence, said before a model is loaded."""

import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from transformers import AutoConfig, Qwen3Config
from typer.testing import CliRunner

from geomrl.cli.app import app
from geomrl.errors import GeomrlError
from geomrl.models.loading import load_model
from geomrl.models.names import resolve_model
from geomrl.train.config import TrainConfig, load_config, override, resolved_yaml
from geomrl.train.memory import estimate, model_shape, trainable_weights
from geomrl.train.policy import prepare_model
from geomrl.train.preflight import check

RECIPES = Path(__file__).parents[1].parent / "configs"
SMALL = """\
steps: 3
model: {name: reasoner, dtype: float32}
data: {problems: arithmetic_train, prompts_per_step: 8, max_prompt_tokens: 64}
rollout: {samples: 4, max_tokens: 96}
dapo: {updates_per_rollout: 2}
optimiser: {lr: 3e-4}
deepspeed: {zero: 0}
"""
# The published shapes of the models that the recipes train, so that no hub is needed.
QWEN = {
    "qwen3-1.7b": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28},
    "qwen3-4b": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36},
    "qwen3-14b": {"hidden_size": 5120, "intermediate_size": 17408, "num_hidden_layers": 40},
}
HEADS = {"qwen3-1.7b": 16, "qwen3-4b": 32, "qwen3-14b": 40}


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def fault(path, *sets):
    """Load, and return the sentence of the error."""
    with pytest.raises(GeomrlError) as caught:
        load_config(path, sets)
    return str(caught.value)


def train(*arguments, **environment):
    """Run `geomrl train` in this process."""
    done = CliRunner().invoke(app, ["train", *map(str, arguments)], env=environment)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


BAD = {
    # unknown keys, with the nearest
    "rollout.smaples=8": r"unknown key 'rollout.smaples'; the nearest is 'rollout.samples'",
    "optimizer.lr=1": r"unknown key 'optimizer'; the nearest is 'optimiser'",
    "rollout.clip_high=.3": r"unknown key 'rollout.clip_high'; the nearest is 'dapo.clip_high'",
    "training.stpes=5": r"unknown key 'stpes'; the nearest is 'steps'",
    "zzz=1": r"unknown key 'zzz'; there is seed, steps, model,",
    # impossible batch arithmetic
    "dapo.updates_per_rollout=3": r"prompts_per_step 8 cannot be cut into .* 3 .* take 6 or 9",
    "rollout.samples=1": r"rollout.samples: a group of 1 has nothing to compare",
    "rollout.chunk=0": r"rollout.chunk is 0: .* greater than or equal to 1",
    "data.limit=4": r"data.limit 4 leaves fewer problems than data.prompts_per_step 8",
    "dapo.overlong_buffer=96": r"overlong_buffer 96 is not below rollout.max_tokens 96",
    "steps=0": r"steps is 0: .* greater than or equal to 1",
    "evaluation={problems: arithmetic, samples: 4}": r"pass@8 cannot be had from samples 4",
    # values that cannot be
    "rollout.temperature=0": r"rollout.temperature: 0 is greedy",
    "optimiser.lr=.nan": r"optimiser.lr is nan: .* finite",
    "optimiser.betas=[0.9, 1]": r"optimiser.betas: \[0.9, 1.0\] are no decay rates",
    "dapo.reward_wrong=2": r"reward_correct 1 is not above reward_wrong 2",
    "model.dtype=float16": r"model.dtype is 'float16': .*'float32' or 'bfloat16'",
    "model.dtype=bfloat16": r"bfloat16 with deepspeed.zero 0 .* phantom first step",
    "model.lora.targets=3": r"model.lora.targets is 3",
    "data.marker=boxed": r"data.marker: answer marker 'boxed' is not a marker",
    "data.template=nothing": r"data.template: prompt template 'nothing' is neither",
    "alignment.kind=cosin": r"alignment.kind is 'cosin': .*'cosine'",
    "alignment.anchor=here": r"alignment.anchor: anchor 'here' is unknown",
    "alignment.layers=[top]": r"alignment.layers: layer 'top' is unknown",
    "alignment.layers=[1, 1]": r"names something twice",
    "alignment.rollouts=right": r"alignment.rollouts is 'right': .*'shuffled_groups'",
    "alignment={warmup_steps: 5, stop_after: 4}": r"stop_after 4 comes before the end of warmup_steps 5",
    # settings that contradict each other
    "alignment={kind: centred, table: groups}": r"table 'groups' holds one micro-batch, but .*'centred'",
    "alignment={table: groups, rollouts: shuffled_groups}": r"'shuffled_groups' are dealt over",
    "deepspeed.offload_optimiser=true": r"offload_optimiser needs ZeRO",
    "deepspeed.extra={optimizer: {}}": r"'optimizer' is set by geomrl: use the section optimiser",
    "deepspeed.extra={zero_optimization: {stage: 1}}": r"use deepspeed.zero instead",
    "rollout={engine: vllm, vllm: {max_model_len: 9}}": r"max_model_len 9 is below",
    # what is not written as it must be
    "steps": r"--set steps: write it as KEY=VALUE",
    "steps=[1": r"--set steps=\[1, line 1: this is not YAML",
    "model=reasoner": r"model is 'reasoner', but it is a section",
}


@pytest.mark.parametrize("change", BAD)
def test_every_fault_is_one_sentence_that_names_the_setting(small, change):
    told = fault(small, change)
    assert re.search(BAD[change], told), told
    assert "\n" not in told
    assert len(told) < 400


def test_faults_that_need_two_changes(small):
    told = fault(small, "alignment.table=groups", "micro_batch.keep_groups=false")
    assert "needs whole groups in a micro-batch" in told
    told = fault(small, "alignment.table=old_logprobs", "rollout.old_logprobs=engine")
    assert "rollout.old_logprobs 'engine' makes none" in told
    told = fault(small, "alignment.kind=relational", "dapo.updates_per_rollout=8")
    assert "an update has one group only" in told


def test_several_faults_are_all_told(small):
    told = fault(small, "rollout.samples=1", "optimiser.rl=1")
    assert "a group of 1" in told
    assert "'optimiser.rl'" in told


def test_faults_of_the_file_itself(tmp_path):
    path = tmp_path / "c.yaml"
    assert "no such file" in fault(path)
    path.write_text("steps: 3\nmodel: {name: x\nsteps: 4\n")
    assert re.search(r"c\.yaml, line 3: this is not YAML", fault(path))
    path.write_text("steps: 3\nmodel:\n  name: a\n  name: b\n")
    assert re.search(r"c\.yaml, line 4: 'name' stands twice", fault(path))
    path.write_text("- steps\n")
    assert "holds no settings by name" in fault(path)
    path.write_text("steps: 3\nmodel: {name: reasoner}\n")
    assert "'data' is missing" in fault(path)


def test_set_is_read_as_yaml_and_the_later_one_wins(small):
    config = load_config(
        small, ["steps=7", "training.steps=50", "alignment.layers=[0, final]", "data.system='a: b'"]
    )
    assert config.steps == 50
    assert config.alignment is not None
    assert config.alignment.layers == ["0", "final"]
    assert config.data.system == "a: b"
    assert config.optimiser.lr == 3e-4  # YAML 1.1 reads 3e-4 as text
    assert (
        load_config(small, ["evaluation.problems=arithmetic", "evaluation=null"]).evaluation is None
    )


def test_section_training_in_a_file_holds_steps_and_seed(small):
    small.write_text(SMALL.replace("steps: 3", "training: {steps: 9, seed: 4}"))
    assert (load_config(small).steps, load_config(small).seed) == (9, 4)


def test_resolved_yaml_reads_back_to_the_same(small, tmp_path):
    config = load_config(small, ["alignment.weight=.5", "model.lora.rank=4", "deepspeed.zero=1"])
    again = tmp_path / "resolved.yaml"
    again.write_text(resolved_yaml(config))
    assert load_config(again) == config
    assert set(yaml.safe_load(again.read_text())) == set(TrainConfig.model_fields)


def test_override_changes_a_copy_and_checks_it(small):
    config = load_config(small)
    changed = override(config, {"alignment.weight": 0.5, "training.seed": 3}, "arm")
    assert config.alignment is None
    assert changed.alignment is not None
    assert (changed.alignment.weight, changed.alignment.kind, changed.seed) == (0.5, "cosine", 3)
    with pytest.raises(
        GeomrlError, match=r"arm: unknown key 'alignment.wight'.*'alignment.weight'"
    ):
        override(config, {"alignment.wight": 1}, "arm")


def test_every_setting_is_described():
    def undescribed(model):
        for name, field in model.model_fields.items():
            kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
            inner = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
            if inner:
                yield from undescribed(inner[0])
            elif not field.description:
                yield f"{model.__name__}.{name}"

    assert list(undescribed(TrainConfig)) == []


# --- before weights are read -----------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--set", "rollout.smaples=8"], ["--set", "data.limit=1"]])
def test_faults_of_the_file_are_told_before_torch_is_loaded(small, arguments):
    code = (
        f"import sys; sys.argv = ['geomrl', 'train', {str(small)!r}, *{arguments!r}]\n"
        "from geomrl.cli import main\n"
        "try: main()\nexcept SystemExit as end: code = end.code\n"
        "assert not {'torch', 'transformers', 'deepspeed', 'pandas'} & set(sys.modules)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def preflight_fault(path, *sets, ranks=1):
    with pytest.raises(GeomrlError) as caught:
        check(load_config(path, sets), ranks)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_faults_against_the_surroundings(small, tmp_path):
    told = preflight_fault(small, "alignment.layers=[4]")
    assert "alignment.layers: layer '4' is unknown; this model has 0 to 3, and final" in told
    told = preflight_fault(small, "alignment.layers=[3, -1]")
    assert "names a layer twice in this model" in told
    told = preflight_fault(small, "rollout.max_tokens=500")
    assert "64 + rollout.max_tokens 500 = 564 tokens, but reasoner has positions for 512" in told
    told = preflight_fault(
        small,
        "evaluation.problems=arithmetic",
        "evaluation.max_tokens=450",
        "evaluation.layers=[9]",
    )
    assert "evaluation.layers: layer '9'" in told
    assert "no such folder" in preflight_fault(small, f"model.name={tmp_path}/none")
    assert "no config.json" in preflight_fault(small, f"model.name={tmp_path}")
    assert "no such file" in preflight_fault(small, f"data.problems={tmp_path}/none.jsonl")
    assert "no such file" in preflight_fault(small, f"data.problems=dapo17k={tmp_path}/none.jsonl")
    assert "'aime99' is neither a benchmark" in preflight_fault(small, "data.problems=aime99")
    told = preflight_fault(small, ranks=17)
    assert "an update has 16 rollouts (4 groups x 4), but there are 17 ranks" in told


@pytest.mark.skipif("vllm" in {d.name.lower() for d in distributions()}, reason="vLLM is here")
def test_vllm_is_asked_for_and_absent(small):
    told = preflight_fault(small, "rollout.engine=vllm")
    assert "generating with vLLM needs 'vllm', which is not installed" in told


def test_preflight_reads_no_weights(small, tmp_path):
    folder = tmp_path / "model"
    AutoConfig.from_pretrained(resolve_model("reasoner")).save_pretrained(folder)
    assert [file.name for file in folder.iterdir()] == ["config.json"]
    lines = check(load_config(small, [f"model.name={folder}"]), 2)
    assert "8 prompts x 4 samples = 32 rollouts" in lines[0]
    assert "2 updates of 4 groups = 16 rollouts; 3 steps = 6 updates" in lines[0]
    assert any("138,976 weights" in line for line in lines)


def test_dry_run_prints_the_resolved_file_and_starts_nothing(small, tmp_path):
    out = tmp_path / "run"
    done = train(small, "--set", "steps=5", "--out", out, "--dry-run", WORLD_SIZE="2")
    assert done.exit_code == 0, done.stderr
    assert yaml.safe_load(done.stdout) == load_config(small, ["steps=5"]).model_dump(mode="json")
    assert "ZeRO-0 over 2 ranks" in done.stdout
    assert not out.exists()


def test_only_rank_0_speaks(small, monkeypatch):
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    first = train(small, "--set", "rollout.samples=1", RANK="0", WORLD_SIZE="2")
    other = train(small, "--set", "rollout.samples=1", RANK="1", WORLD_SIZE="2")
    assert (first.exit_code, other.exit_code) == (1, 1)
    assert "a group of 1" in first.stderr
    assert other.output == ""
    assert waited  # or the launcher would kill rank 0 before it has spoken
    assert train(small, "--dry-run", RANK="1", WORLD_SIZE="2").output == ""


# --- sizes -----------------------------------------------------------------------------------


def test_weights_are_counted_exactly(small):
    model = load_model("reasoner", device="cpu").model
    shape = model_shape(model.config)
    assert shape.weights == sum(weight.numel() for weight in model.parameters())
    config = load_config(small, ["model.lora.rank=4"])
    prepare_model(model, lora=config.model.lora)
    trained = sum(w.numel() for w in model.parameters() if w.requires_grad)
    assert trainable_weights(shape, config) == trained


def test_memory_by_zero_stage(small):
    shape = model_shape(AutoConfig.from_pretrained(resolve_model("reasoner")))
    weights = shape.weights
    got = {}
    for zero in range(4):
        memory = estimate(shape, load_config(small, [f"deepspeed.zero={zero}"]), 4)
        got[zero] = [memory.weights / weights, memory.gradients / weights, memory.adam / weights]
    assert got == {0: [4, 4, 8], 1: [4, 4, 3], 2: [4, 1, 3], 3: [1, 1, 3]}
    offloaded = load_config(small, ["deepspeed.zero=2", "deepspeed.offload_optimiser=true"])
    assert estimate(shape, offloaded, 4).adam == 0


# --- recipes ---------------------------------------------------------------------------------


def test_recipes_are_these():
    recipes = {
        path.stem for path in RECIPES.glob("*.yaml") if "model" in yaml.safe_load(path.open())
    }
    assert recipes == {"quickstart", "smoke", *QWEN}


@pytest.mark.parametrize("name", ["quickstart", "smoke"])
def test_recipes_of_the_bundled_reasoner_pass_their_checks(name):
    done = train(RECIPES / f"{name}.yaml", "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "138,976 weights" in done.stdout


@pytest.mark.parametrize("name", QWEN)
def test_recipes_of_qwen3_fit_the_model_and_the_header_tells_the_memory(name, tmp_path):
    model = Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        vocab_size=151936,
        num_attention_heads=HEADS[name],
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        tie_word_embeddings=name != "qwen3-14b",
        **QWEN[name],
    )
    model.save_pretrained(tmp_path)
    path = RECIPES / f"{name}.yaml"
    config = load_config(path, [f"model.name={tmp_path}", "rollout.engine=transformers"])
    lines = check(config, 8)
    assert "256 prompts x 10 samples = 2560 rollouts, trained on in 4 updates of 64" in lines[0]
    memory = estimate(model_shape(model), config, 8)
    header = dict(re.findall(r"^#   (an update|\w+) +.* ([0-9.]+)$", path.read_text(), re.M))
    for part in ("weights", "gradients", "activations", "head"):
        assert float(header[part]) == pytest.approx(getattr(memory, part) / 1e9, abs=0.051)
    assert float(header["Adam"]) == pytest.approx(memory.adam / 1e9, abs=0.051)
    assert float(header["an update"]) == pytest.approx(memory.training / 1e9, abs=0.051)
    vllm = 80 * config.rollout.vllm.gpu_memory_utilization
    assert float(header["generation"]) == pytest.approx(memory.resident / 1e9 + vllm, abs=0.051)
