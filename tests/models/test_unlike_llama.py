"""Training on architectures unlike Llama: no noise, the model's own logits, the policy's rollouts."""

import sys
from pathlib import Path

import pytest
import torch
from processes import run_process
from tiny import VOCABULARY, build_model, character_tokenizer
from zoo import zoo_model

from geomrl.errors import GeomrlError
from geomrl.models.loading import LoadedModel
from geomrl.probe.extractor import Extractor, Rows
from geomrl.rollout.engine import Request, Sampling
from geomrl.rollout.engines.transformers import TransformersEngine
from geomrl.rollout.steps import make_rollouts
from geomrl.train.config import LoraConfig
from geomrl.train.policy import Policy, prepare_model
from geomrl.train.weights import named_weights

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"
CPU = torch.device("cpu")
NOISY = ("opt", "falcon", "starcoder2", "phimoe")  # the last one's router is noisy by default


def batch(lengths=(7, 13, 4), seed=2):
    """What the policy takes: rows padded on the right, every token but the first scored."""
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.randint(10, VOCABULARY, (n,), generator=draw) for n in lengths]
    where = [(i, p) for i, n in enumerate(lengths) for p in range(n - 1)]
    sequence, position = (torch.tensor(x) for x in zip(*where, strict=True))
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    targets = torch.cat([row[1:] for row in rows])
    return {"input_ids": ids, "sequence": sequence, "position": position, "targets": targets}


def plain_logprobs(model, inputs):
    with torch.no_grad():
        every = model(input_ids=inputs["input_ids"], use_cache=False).logits.log_softmax(-1)
    rows = every[inputs["sequence"], inputs["position"]]
    return rows.gather(-1, inputs["targets"][:, None])[:, 0]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", NOISY)
def test_no_noise_of_any_name_is_left(kind, checkpointing):
    """Two forwards agree to the bit, with those of evaluation; so do gradients, run again or not."""
    model = zoo_model(kind, head=20.0)
    inputs = batch()
    wanted = plain_logprobs(model, inputs)
    policy = Policy(prepare_model(model, activation_checkpointing=checkpointing))
    runs = []
    layer = Extractor(policy)
    for _ in range(2):
        model.zero_grad()
        reading = layer.read(inputs, Rows(torch.tensor([0, 1]), torch.tensor([5, 6])), ["1"])
        (reading.output[0].mean() + reading.states["1"].square().mean()).backward()
        grads = {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}
        runs.append((reading.output[0].detach(), grads))
    torch.testing.assert_close(runs[0][0], wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(runs[0][0], runs[1][0])
    assert all(torch.equal(runs[0][1][name], g) for name, g in runs[1][1].items())


@pytest.mark.parametrize("kind", ["opt", "starcoder2", "phimoe"])
def test_layers_that_run_again_give_the_same_gradients(kind):
    found = []
    for checkpointing in (False, True):
        model = prepare_model(zoo_model(kind), activation_checkpointing=checkpointing)
        seen = []
        stack = model.get_decoder()
        stack = getattr(stack, "decoder", stack)
        stack.layers[0].self_attn.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        Policy(model, head_chunk=4)(**batch())[0].sum().backward()
        grads = {n: w.grad for n, w in model.named_parameters() if w.grad is not None}
        found.append((len(seen), grads))
    assert [calls for calls, _ in found] == [1, 2]
    assert found[0][1].keys() == found[1][1].keys()
    assert all(torch.equal(found[1][1][name], g) for name, g in found[0][1].items())


@pytest.mark.parametrize("kind", ["falcon_h1", "recurrent_gemma", "nanochat", "jamba"])
def test_log_probabilities_are_those_of_the_model_s_own_logits(kind):
    model = zoo_model(kind, head=20.0)
    inputs = batch()
    wanted = plain_logprobs(model, inputs)
    with torch.no_grad():
        found = Policy(prepare_model(model))(**inputs)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("targets", [["lm_head", "q_proj"], ["embed_tokens"]])
def test_adapters_on_tied_weights_are_refused_and_others_are_pushed_right(targets):
    """What is pushed must be the policy; a tied weight has one value for two adapters."""
    tied, untied = (build_model("Qwen3", tie_word_embeddings=tie) for tie in (True, False))
    lora = LoraConfig(rank=4, targets=targets)
    with pytest.raises(GeomrlError, match=r"model.lora.targets.* is tied to another module"):
        prepare_model(tied, lora=lora)
    policy = Policy(prepare_model(untied, lora=lora))
    for name, weight in policy.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    engine = build_model("Qwen3", seed=1, tie_word_embeddings=False)
    loaded = LoadedModel(
        name="tiny",
        model=engine,
        tokenizer=character_tokenizer(),
        device=CPU,
        dtype=torch.float32,
        weights="",
        vocabulary="",
    )
    TransformersEngine(loaded).load_weights(named_weights(policy))
    inputs = batch()
    with torch.no_grad():
        found = policy(**inputs)[0]
    torch.testing.assert_close(found, plain_logprobs(engine, inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["jamba", "falcon_h1", "nanochat", "gemma3"])
def test_rollouts_are_the_model_s(kind):
    """From ragged prompts, of which rows share some; some layers keep no keys and values."""
    model = zoo_model(kind)
    loaded = LoadedModel(
        name="tiny",
        model=model,
        tokenizer=character_tokenizer(),
        device=CPU,
        dtype=torch.float32,
        weights="",
        vocabulary="",
    )
    prompts = [(20, 21, 22, 23, 24), (30, 31), (40, 41, 42, 43)]
    requests = [Request(prompt, seed) for seed, prompt in enumerate(prompts * 6)]
    drawn = TransformersEngine(loaded).generate(requests, Sampling(max_tokens=60))
    assert len({len(completion.ids) for completion in drawn}) > 1  # rows left the batch
    for request, completion in zip(requests, drawn, strict=True):
        ids = torch.tensor([[*request.prompt_ids, *completion.ids]])
        with torch.no_grad():
            every = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        at = torch.arange(len(request.prompt_ids), ids.shape[1])
        wanted = every[at - 1, ids[0, at]]
        torch.testing.assert_close(torch.tensor(completion.logprobs), wanted, rtol=0, atol=1e-3)


def test_a_model_without_a_cache_to_share_is_refused():
    model = zoo_model("recurrent_gemma")
    loaded = LoadedModel(
        name="tiny",
        model=model,
        tokenizer=character_tokenizer(),
        device=CPU,
        dtype=torch.float32,
        weights="",
        vocabulary="",
    )
    with pytest.raises(GeomrlError, match=r"keeps its past in a way of its own.*--rollouts FILE"):
        TransformersEngine(loaded).generate([Request((20, 21), 0)], Sampling(max_tokens=4))


def test_a_model_whose_rollouts_depend_on_their_neighbours_is_refused(tmp_path):
    """One that attends to padding: rows of a batch would be sampled from another distribution."""
    model = build_model("Qwen3")
    plain = model.forward

    def forward(input_ids, attention_mask=None, **options):
        return plain(input_ids, **options)

    model.forward = forward
    loaded = LoadedModel(
        name="odd",
        model=model,
        tokenizer=character_tokenizer(),
        device=CPU,
        dtype=torch.float32,
        weights="",
        vocabulary="",
    )
    with pytest.raises(GeomrlError, match=r"odd .*samples from prompts of several lengths"):
        make_rollouts(loaded, "arithmetic", tmp_path / "run", limit=2, show=False)
    assert not (tmp_path / "run" / "rollouts.parquet").exists()


def test_no_run_starts_with_a_policy_that_is_not_its_model(tmp_path):
    """ModernBERT's decoder has a dense layer between the last state and the head."""
    model, run = tmp_path / "model", tmp_path / "run"
    zoo_model("modernbert-decoder").save_pretrained(model)
    character_tokenizer().save_pretrained(model)
    settings = [f"model.name={model}", "evaluation=null", "steps=1", "data.limit=4"]
    settings += ["data.max_prompt_tokens=200", "rollout.max_tokens=8"]
    command = ["train", str(SMOKE), "--out", str(run)]
    command += [word for setting in settings for word in ("--set", setting)]
    ended = run_process([sys.executable, "-m", "geomrl.cli", *command])
    said = " ".join((ended.stdout + ended.stderr).split())
    assert ended.returncode == 1, said
    assert "(ModernBertDecoderForCausalLM): log-probabilities of the policy are not those" in said
    assert not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text()
