"""Model FLOPs against torch's own counter, MFU by hand, and peaks by a device's name."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, Qwen3Config
from transformers.models.qwen3_moe import Qwen3MoeConfig

from geomrl.train.rates import PEAKS, ModelFlops, Work, _pairs, model_flops, peak_of, rates

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 64,
    "eos_token_id": 1, "bos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
CONFIGS = {
    "tied": Qwen3Config(**SIZES, tie_word_embeddings=True),
    "experts": Qwen3MoeConfig(
        **SIZES, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=24
    ),
    "windows": Gemma3TextConfig(**SIZES, sliding_window=4),
    "gpt2": GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=64, bos_token_id=1, eos_token_id=1,
        attn_pdrop=0.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_forward_and_backward_are_what_torch_counts(name):
    """Torch's counter sees the whole square of attention; all tokens are scored."""
    config, n = CONFIGS[name], 7
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="eager"
    )
    flops = model_flops(config)
    square = 4.0 * flops.query * len(flops.windows) * n * n
    ours = square + flops.forward(0, [n]) - 4.0 * flops.query * flops._attended(n)
    with FlopCounterMode(display=False) as forward:
        logits = model(input_ids=torch.arange(n)[None], use_cache=False).logits
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    assert forward.get_total_flops() == ours
    assert backward.get_total_flops() == 2 * ours
    assert flops.update(0, n) == 3 * flops.forward(0, [n])


def test_of_experts_those_that_a_token_is_sent_to_count():
    dense = {"hidden_size": 32, "layers": 3, "attention": 32 * 16 * (4 + 2 + 2 + 4), "router": 8}
    one = dense["attention"] + 32 * dense["router"] + 2 * 3 * 32 * 24
    assert model_flops(CONFIGS["experts"]).linear == 3 * one


def test_layers_look_back_as_far_as_their_windows():
    assert model_flops(CONFIGS["windows"]).windows == (4, 4, 4)
    assert model_flops(CONFIGS["tied"]).windows == (None,) * 3


@given(st.integers(0, 60), st.none() | st.integers(1, 70))
def test_pairs_are_those_of_the_mask(n, window):
    mask = [(i, j) for i in range(n) for j in range(i + 1) if window is None or i - j < window]
    assert _pairs(n, window) == len(mask)


shapes = st.builds(
    ModelFlops,
    linear=st.integers(0, 10**6), trained=st.just(0), adapters=st.just(0),
    head=st.integers(0, 10**6), query=st.integers(1, 64), head_trained=st.just(False),
    windows=st.lists(st.none() | st.integers(1, 9), min_size=1, max_size=3).map(tuple),
)  # fmt: skip


@given(shapes, st.integers(1, 30), st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_a_prompt_that_is_shared_is_read_once(flops, prompt, responses):
    apart = sum(flops.forward(prompt, [n]) for n in responses)
    again = (len(responses) - 1) * flops.forward(prompt, [])
    assert flops.forward(prompt, responses) == apart - again


def test_adapters_alone_have_a_gradient_of_their_own():
    """A frozen weight takes two products, an adapter's three."""
    one = ModelFlops(
        linear=1000, trained=10, adapters=10, head=100, query=1, windows=(), head_trained=False
    )
    assert one.update(2, 3) == 2 * (5 * (2 * 1000 + 3 * 10) + 3 * 2 * 100)


def test_rates_are_by_hand():
    work = {"generate": Work(8e12, 400), "update": Work(24e12, 100)}
    seconds = {"generate": 4.0, "update": 3.0, "step": 8.0}
    found = rates(work, seconds, devices=2, peak=10.0)
    assert found == {
        "time/tflops": 2.0, "time/mfu": 0.2,
        "time/tflops/generate": 1.0, "time/mfu/generate": 0.1,
        "time/tflops/update": 4.0, "time/mfu/update": 0.4,
        "time/generated_tokens_per_second": 100.0,
    }  # fmt: skip
    unknown = rates(work, seconds, devices=2, peak=None)
    assert all(math.isnan(unknown[key]) for key in found if "mfu" in key)
    assert unknown["time/tflops/update"] == 4.0


def test_a_step_that_samples_nothing_has_no_rate_of_sampling():
    found = rates({"generate": Work(), "update": Work(1e12, 5)}, {"step": 1, "generate": 0, "update": 1},
                  devices=1, peak=2.0)  # fmt: skip
    assert set(found) == {"time/tflops", "time/mfu", "time/tflops/update", "time/mfu/update"}


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("Tesla V100-SXM2-16GB", 125.0),
        ("Some other device", None),
    ],
)
def test_a_device_is_known_by_its_name(name, peak):
    assert peak_of(name) == peak


def test_no_row_of_the_table_hides_a_later_one():
    for number, (words, peak) in enumerate(PEAKS):
        assert peak_of(f"NVIDIA {words} 80GB") == peak, number
