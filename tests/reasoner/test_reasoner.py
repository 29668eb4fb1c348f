"""The bundled checkpoint as a user gets it, and the command that makes another."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomrl.errors import GeomrlError
from geomrl.models.names import checkpoint_path
from geomrl.problems.arithmetic import heldout_problems, operation_path, written_steps
from geomrl.reasoner.measure import MeasureConfig, correct_pair_cosines, distinct_share
from geomrl.reasoner.train import (
    IGNORED,
    RECORD,
    ReasonerConfig,
    build_model,
    encode_example,
    learning_rate_factor,
    train_reasoner,
    training_batches,
)

torch = pytest.importorskip("torch")
pd = pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def bundled():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = checkpoint_path()
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(
        folder
    )


def tiny(**overrides) -> ReasonerConfig:
    small = ReasonerConfig(
        steps=4,
        batch_size=4,
        warmup_steps=2,
        hidden_size=16,
        intermediate_size=16,
        layers=1,
        heads=2,
        key_value_heads=1,
        head_dim=8,
        measure=MeasureConfig(problems=2, samples=8),
    )
    return replace(small, **overrides)


# --- the bundled folder ----------------------------------------------------------------------


def test_the_bundled_folder_is_small_and_plain():
    files = [file for file in checkpoint_path().rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 4_000_000
    names = {file.name for file in files}
    assert {"model.safetensors", "config.json", "generation_config.json"} <= names
    assert {"tokenizer.json", "tokenizer_config.json", RECORD} <= names
    assert not {file.suffix for file in files} - {".json", ".safetensors"}  # no code, no pickle


def test_the_bundled_model_is_a_small_float32_qwen3_that_caches(bundled):
    model, tokenizer = bundled
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.config.use_cache is True
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert 100_000 <= sum(p.numel() for p in model.parameters()) <= 400_000
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert None not in (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id)
    assert tokenizer.eos_token_id != tokenizer.pad_token_id


@settings(deadline=None, max_examples=200)
@given(text=st.text())
def test_decoding_an_encoding_gives_the_text_back(bundled, text):
    _, tokenizer = bundled
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_marker_is_ordinary_text_and_digits_are_single(bundled):
    _, tokenizer = bundled
    pieces = [tokenizer.decode([i]) for i in tokenizer(r", so we get \boxed{137}").input_ids]
    assert pieces == [",", " so", " we", " get", " \\", "boxed", "{", "1", "3", "7", "}"]


def test_the_chat_template_makes_the_prompt_of_training(bundled):
    _, tokenizer = bundled
    (problem,) = heldout_problems(1)
    message = [{"role": "user", "content": problem.statement}]
    prompt, response = encode_example(problem, r"Thus \boxed{1}", tokenizer)
    assert tokenizer.apply_chat_template(message, add_generation_prompt=True).input_ids == prompt
    text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    assert text == f"<|im_start|>user\n{problem.statement}<|im_end|>\n<|im_start|>assistant\n"
    assert response[-1] == tokenizer.eos_token_id


def test_sampled_pass_at_1_lies_where_the_record_says(bundled):
    model, tokenizer = bundled
    problems = heldout_problems(64)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.statement}],
            add_generation_prompt=True,
            tokenize=False,
        )
        for problem in problems
    ]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ids = model.generate(
            **inputs, do_sample=True, temperature=1.0, top_p=1.0, top_k=0,
            num_return_sequences=4, max_new_tokens=192,
        )  # fmt: skip
    responses = tokenizer.batch_decode(
        ids[:, inputs.input_ids.shape[1] :], skip_special_tokens=True
    )
    golds = [problem.gold for problem in problems for _ in range(4)]
    correct = [
        text.endswith(rf"\boxed{{{gold}}}") for text, gold in zip(responses, golds, strict=True)
    ]
    assert 0.3 <= np.mean(correct) <= 0.5
    assert np.mean([r"\boxed{" in text for text in responses]) > 0.95
    assert np.mean([bool(operation_path(text)) for text in responses]) > 0.95
    # Wrong answers come of slips: nearly every correct one is backed by steps that lead to it.
    led = [
        written_steps(text)[-1].result == int(gold)
        for text, gold, right in zip(responses, golds, correct, strict=True)
        if right
    ]
    assert np.mean(led) > 0.9


def test_the_record_holds_the_bounds_the_checkpoint_was_made_for():
    report = json.loads((checkpoint_path() / RECORD).read_text())["report"]
    assert 0.3 <= report["pass_at_1"]["low"] <= report["pass_at_1"]["high"] <= 0.5
    assert report["pass_at_8"]["high"] <= 0.93
    assert 0.1 <= report["solved_rarely"]["value"] <= 0.3
    assert report["distinct_paths"]["low"] >= 0.9
    assert report["no_answer"]["high"] < 0.05
    assert report["cosines"]["before_marker"]["high"] <= 0.92
    assert sum(count > 50 for count in report["anchor_tokens"].values()) >= 5
    assert report["config"] == {"problems": 200, "samples": 16, "seed": 0}


# --- training --------------------------------------------------------------------------------


def test_training_twice_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        report = train_reasoner(tiny(), tmp_path / name, show_progress=False)
    first, second = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        for name in ("one", "two")
    )
    assert first == second
    assert json.loads(first[RECORD])["report"] == json.loads(json.dumps(report.as_dict()))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]  # no temporary left


def test_weights_and_data_follow_the_seed(bundled):
    _, tokenizer = bundled
    one, again, two = (build_model(tiny(seed=seed), tokenizer).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], two["lm_head.weight"])
    first, other = (next(training_batches(tiny(seed=seed), tokenizer)) for seed in (0, 1))
    assert first.input_ids.tolist() != other.input_ids.tolist()


def test_training_leaves_the_global_random_state_and_thread_count_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    threads = torch.get_num_threads()
    train_reasoner(tiny(steps=1), tmp_path / "out", show_progress=False)
    assert torch.rand(1) == expected
    assert torch.get_num_threads() == threads


def test_a_full_folder_is_refused_and_overwritten_on_demand(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    with pytest.raises(GeomrlError, match="--overwrite"):
        train_reasoner(tiny(), out, show_progress=False)
    assert (out / "mine.txt").read_text() == "kept"
    train_reasoner(tiny(steps=1), out, overwrite=True, show_progress=False)
    assert not (out / "mine.txt").exists()
    assert (out / "model.safetensors").exists()
    with pytest.raises(GeomrlError, match="is a file"):
        train_reasoner(tiny(), out / "config.json", show_progress=False)


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("kept")

    def fail(*_args):
        raise RuntimeError("measuring failed")

    monkeypatch.setattr("geomrl.reasoner.train.measure_reasoner", fail)
    with pytest.raises(RuntimeError, match="measuring failed"):
        train_reasoner(tiny(steps=1), out, overwrite=True, show_progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in out.iterdir()] == ["mine.txt"]


def test_loss_is_on_responses_only(bundled):
    config = tiny()
    _, tokenizer = bundled
    start = tokenizer("<|im_start|>assistant\n").input_ids
    for batch in itertools.islice(training_batches(config, tokenizer), 20):
        for ids, labels in zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True):
            first = next(i for i, label in enumerate(labels) if label != IGNORED)
            assert ids[first - len(start) : first] == start
            end = ids.index(tokenizer.eos_token_id, first)
            assert labels[first : end + 1] == ids[first : end + 1]
            assert set(labels[:first] + labels[end + 1 :]) <= {IGNORED}


def test_the_learning_rate_warms_up_and_ends_at_zero():
    config = ReasonerConfig(steps=100, warmup_steps=10)
    factors = [learning_rate_factor(step, config) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0)


def test_nothing_to_train_on_is_refused():
    with pytest.raises(GeomrlError, match="steps = 0"):
        ReasonerConfig(steps=0)
    with pytest.raises(GeomrlError, match="samples = 4"):
        MeasureConfig(samples=4)


# --- measuring -------------------------------------------------------------------------------


def group(*rows: tuple[str, str]) -> "pd.DataFrame":
    return pd.DataFrame(rows, columns=["verdict", "response"])


def test_distinct_share_counts_paths_of_correct_rollouts_only():
    same = ("correct", "First 1+2=3. Thus")
    reworded = ("correct", "I take 2 and 1 make 3, making")
    other = ("correct", "First 1+1=2, then 2+1=3. Thus")
    assert distinct_share(group(same, reworded, other, ("wrong", "First 1+2=4"))) == 2 / 3
    assert distinct_share(group(same, ("wrong", "First 1+2=4"))) is None


@given(n=st.integers(2, 6), seed=st.integers(0, 1000))
def test_correct_pair_cosines_are_the_mean_over_pairs(n, seed):
    states = np.random.default_rng(seed).normal(size=(n + 1, 5))
    rollouts = pd.DataFrame(
        {
            "rollout_id": [f"r{i}" for i in range(n + 1)],
            "problem_id": "p",
            "verdict": ["correct"] * n + ["wrong"],
        }
    )
    rows = pd.DataFrame({"rollout_id": rollouts["rollout_id"], "state_row": range(n + 1)})
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    pairs = [unit[i] @ unit[j] for i, j in itertools.combinations(range(n), 2)]
    assert correct_pair_cosines(rollouts, rows, states) == pytest.approx([np.mean(pairs)])
