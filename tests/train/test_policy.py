"""The policy's forward against full logits, and what makes a loaded model trainable."""

import copy

import pytest
import torch
from tiny import VOCABULARY, build_model
from transformers import GPT2Config, GPT2LMHeadModel

from geomrl.probe.extractor import Extractor, Rows
from geomrl.train.config import LoraConfig
from geomrl.train.policy import Policy, prepare_model
from geomrl.train.weights import named_weights

# Tied and untied heads, and Conv1D layers with biases.
FAMILIES = {
    "Qwen3, tied": ("Qwen3", {"tie_word_embeddings": True}),
    "Llama, untied": ("Llama", {"tie_word_embeddings": False}),
    "GPT2, tied": ("GPT2", {}),
}
each_family = pytest.mark.parametrize("family", list(FAMILIES))
LORA = LoraConfig(rank=4, alpha=6)


def build(family, dtype=torch.float64, **overrides):
    architecture, options = FAMILIES[family]
    return build_model(architecture, **options, **overrides).to(dtype)


def tokens(lengths=(14, 6, 9), prompt=3, seed=0):
    """Sequences, padded on the right, and the arguments that score all but their first tokens."""
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.randint(3, VOCABULARY, (n,), generator=draw) for n in lengths]
    where = [(r, p) for r, n in enumerate(lengths) for p in range(prompt - 1, n - 1)]
    sequence, position = (torch.tensor(x) for x in zip(*where, strict=True))
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    targets = torch.tensor([rows[r][p + 1] for r, p in where])
    return {"input_ids": ids, "sequence": sequence, "position": position, "targets": targets}


def full_logits(model, inputs, temperature):
    """Log-probabilities and entropies by the plainest means: all logits of every token."""
    logits = model(input_ids=inputs["input_ids"], use_cache=False).logits / temperature
    every = logits.log_softmax(-1)[inputs["sequence"], inputs["position"]]
    chosen = every[torch.arange(len(every)), inputs["targets"]]
    return chosen, -(every.exp() * every).sum(-1)


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def same(found, expected, tolerance=1e-10):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(float(value.norm()), 1.0)
        assert (found[name] - value).norm() <= tolerance * scale, name


@each_family
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunked_head_is_full_logits(family, temperature):
    """Chunks that split sequences, chunks of one token, and one chunk for all."""
    model = build(family)
    inputs = tokens()
    n = len(inputs["targets"])
    weight = torch.linspace(-1, 2, n, dtype=torch.float64)
    logprobs, entropy = full_logits(model, inputs, temperature)
    (weight * logprobs).sum().backward()
    expected = gradients(model)
    for chunk in (1, 4, n, 4 * n):
        model.zero_grad()
        policy = Policy(model, head_chunk=chunk, temperature=temperature)
        found, spread = policy(**inputs)
        torch.testing.assert_close(found, logprobs.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(spread, entropy.detach(), rtol=1e-12, atol=1e-12)
        assert not spread.requires_grad
        (weight * found).sum().backward()
        same(gradients(model), expected)


@pytest.mark.parametrize("chunk", [2, 100])
def test_gradcheck(chunk):
    """By finite differences. GPT-2, because RMS norms round to float32 on the way."""
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=2, n_positions=8)
    ).double()
    policy = Policy(prepare_model(model), head_chunk=chunk, temperature=1.3)
    inputs = tokens(lengths=(6, 4))
    inputs |= {name: inputs[name] % 11 for name in ("input_ids", "targets")}
    stack = model.transformer
    watched = (stack.wte.weight, stack.ln_f.weight, stack.h[0].ln_2.weight)
    # gradcheck moves the weights themselves, so the policy sees each change.
    assert torch.autograd.gradcheck(lambda *weights: policy(**inputs)[0], watched)


@pytest.mark.parametrize(("chunk", "calls"), [(6, [5, 5, 5, 5] * 2), (20, [20])])
def test_logits_of_one_chunk_at_a_time(chunk, calls):
    """Each chunk's are made again in the backward; where one chunk holds all, they are kept."""
    model = build("Qwen3, tied")
    seen = []
    model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    inputs = tokens()
    assert len(inputs["targets"]) == 20
    Policy(model, head_chunk=chunk)(**inputs)[0].sum().backward()
    assert sorted(seen) == sorted(calls)


def test_the_caller_may_set_how_often_the_head_is_called():
    """Ranks must agree under ZeRO-3, also where one has fewer tokens than calls, or none."""
    model = build("Qwen3, tied")
    policy, inputs = Policy(model, head_chunk=64), tokens()
    expected = policy(**inputs)
    for chunks in (1, 3, 30):
        seen = []
        hook = model.lm_head.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        with torch.no_grad():
            found = policy(**inputs, chunks=chunks)
            nothing = {k: v[:0] if k != "input_ids" else v for k, v in inputs.items()}
            assert policy(**nothing, chunks=chunks)[0].shape == (0,)
        hook.remove()
        assert len(seen) == 2 * chunks
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


@each_family
def test_padding_changes_nothing(family):
    """Neither that there is some on the right, nor what stands in it."""
    policy = Policy(build(family))
    lengths = (14, 6, 9)
    inputs = tokens(lengths)
    with torch.no_grad():
        together = policy(**inputs)
        for row, n in enumerate(lengths):
            inputs["input_ids"][row, n:] = 7 + row
        garbage = policy(**inputs)
        mine = [inputs["sequence"] == row for row in range(len(lengths))]
        for row, n in enumerate(lengths):
            alone = policy(
                inputs["input_ids"][row : row + 1, :n],
                torch.zeros_like(inputs["sequence"][mine[row]]),
                inputs["position"][mine[row]],
                inputs["targets"][mine[row]],
            )
            for whole, part in zip(together, alone, strict=True):
                torch.testing.assert_close(whole[mine[row]], part, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(together, garbage, strict=True))


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("GPT2", {"resid_pdrop": 0.1, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
        ("GPT2", {"resid_pdrop": 0.0, "embd_pdrop": 0.1, "attn_pdrop": 0.0}),
        ("GPT2", {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.1}),
        ("Qwen3", {"attention_dropout": 0.1}),
    ],
)
def test_dropout_is_off(architecture, options):
    model = build_model(architecture, **options).train()
    inputs = tokens()
    policy = Policy(model)

    def twice():
        with torch.no_grad():
            return [policy(**inputs)[0] for _ in range(2)]

    assert not torch.equal(*twice())  # else there is no dropout to turn off
    prepare_model(model)
    assert not model.training
    assert torch.equal(*twice())


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@each_family
def test_activation_checkpointing_gives_the_same_gradients(family, lora):
    found, calls = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = prepare_model(build(family), activation_checkpointing=checkpointing, lora=lora)
        fill_adapters(model)
        forwards = []
        layers = model.transformer.h if family.startswith("GPT2") else model.model.layers
        layers[1].mlp.register_forward_pre_hook(lambda *_, seen=forwards: seen.append(1))
        policy = Policy(model, head_chunk=5)
        policy(**tokens())[0].sum().backward()
        found.append(gradients(model))
        calls.append(len(forwards))
    same(found[1], found[0])
    assert calls == [1, 2]  # the layer was run again in the backward


def test_the_seed_alone_draws_the_adapters():
    """Whatever was drawn before; and what is drawn afterwards is as it would have been."""

    def adapters(seed, drawn):
        torch.manual_seed(drawn)
        model = prepare_model(build("Llama, untied"), lora=LORA, seed=seed)
        after = torch.rand(3)
        return [w for n, w in model.named_parameters() if ".lora_A." in n], after

    torch.manual_seed(0)
    build("Llama, untied")
    undisturbed = torch.rand(3)
    (first, after), (again, _), (other, _) = adapters(5, 0), adapters(5, 1), adapters(6, 0)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert torch.equal(after, undisturbed)


def fill_adapters(model):
    """Adapters begin as zero; give them values, so that they do something."""
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)


@each_family
def test_only_adapters_train(family):
    plain = build(family)
    before = {name: weight.clone() for name, weight in plain.named_parameters()}
    model = prepare_model(copy.deepcopy(plain), lora=LORA)
    adapters = {n for n, p in model.named_parameters() if p.requires_grad}
    assert adapters == {n for n, _ in model.named_parameters() if ".lora_" in n}
    blocks = {n.split(".lora_")[0] for n in adapters}
    linear = {
        n
        for n, m in plain.named_modules()
        if type(m).__name__ in ("Linear", "Conv1D") and n != "lm_head"
    }
    assert blocks == linear
    inputs = tokens()
    with torch.no_grad():  # untrained adapters change nothing
        start = Policy(plain)(**inputs)[0]
        assert torch.equal(Policy(model)(**inputs)[0], start)
    optimiser = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.1)
    for _ in range(2):  # the first moves B alone, since A's gradient is B's value
        optimiser.zero_grad()
        Policy(model)(**inputs)[0].sum().backward()
        optimiser.step()
    merged = {name: weight.clone() for name, weight in named_weights(Policy(model))}
    list(named_weights(Policy(model)))
    base = {
        name.replace(".base_layer.", "."): weight
        for name, weight in model.named_parameters()
        if ".lora_" not in name
    }
    assert base.keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in base.items())
    adapted = {f"{block}.weight" for block in blocks}
    assert {n for n, w in merged.items() if not torch.equal(w, before[n])} == adapted


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_gradients_at_every_layer_are_read(lora):
    """At the embeddings too, which adapters leave frozen."""
    policy = Policy(prepare_model(build("Qwen3, tied"), lora=lora))
    rows = Rows(torch.tensor([0, 2]), torch.tensor([4, 3]))
    reading = Extractor(policy).read(tokens(), rows, ["0", "2"], gradients=True)
    reading.output[0].sum().backward()
    assert all(reading.gradients[layer].norm() > 0 for layer in ("0", "2"))


@each_family
def test_named_weights_are_the_adapted_model(family):
    """Loaded into a plain model, they give the adapted one's logits."""
    model = prepare_model(build(family), lora=LORA)
    fill_adapters(model)
    plain = build(family, seed=1)
    weights = {name: weight.clone() for name, weight in named_weights(Policy(model))}
    assert weights.keys() == dict(plain.named_parameters()).keys()
    missing, unexpected = plain.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}  # tied
    ids = tokens()["input_ids"]
    with torch.no_grad():
        adapted = model(input_ids=ids).logits
        start = build(family)(input_ids=ids).logits
        torch.testing.assert_close(plain(input_ids=ids).logits, adapted, rtol=1e-10, atol=1e-10)
    assert (adapted - start).abs().max() > 0.1  # the adapters do something


@each_family
def test_named_weights_without_adapters_are_the_model_s_own(family):
    model = build(family)
    found = dict(named_weights(Policy(model)))
    own = dict(model.named_parameters())
    assert found.keys() == own.keys()
    assert all(found[name].data_ptr() == own[name].data_ptr() for name in own)
