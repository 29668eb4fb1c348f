"""The transformers engine: exact draws, whatever else is in the batch."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from tiny import VOCABULARY, build_model, character_tokenizer
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from geomrl.errors import GeomrlError, MissingExtra
from geomrl.models.loading import LoadedModel
from geomrl.rollout.engine import Request, Sampling
from geomrl.rollout.engines.token_draws import RowNoise, processed_logprobs
from geomrl.rollout.engines.transformers import TransformersEngine
from geomrl.rollout.engines.vllm import VLLMEngine


def build_loaded(architecture="Qwen3", **overrides):
    model = build_model(architecture, **overrides)
    tokenizer = character_tokenizer()
    cpu = torch.device("cpu")
    return LoadedModel(
        name="tiny",
        model=model,
        tokenizer=tokenizer,
        device=cpu,
        dtype=torch.float32,
        weights="0" * 16,
        vocabulary="1" * 16,
    )


def requests(n=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    prompts = [
        tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())
        for length in (3, 11, 6)
    ]
    return [Request(prompts[i % 3], seed=100 + i) for i in range(n)]


@pytest.mark.parametrize("architecture", ["Qwen3", "GPT2", "Gemma"])
def test_samples_do_not_depend_on_the_batch(architecture):
    engine = TransformersEngine(build_loaded(architecture))
    sampling = Sampling(temperature=2.0, max_tokens=40)
    together = engine.generate(requests(), sampling)
    alone = [engine.generate([request], sampling)[0] for request in requests()]
    assert [c.ids for c in together] == [c.ids for c in alone]
    assert len({tuple(c.ids) for c in together}) == len(together)
    assert {c.finish_reason for c in together} == {"stop", "length"}  # both ways out are taken
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


@pytest.mark.parametrize("architecture", ["Qwen3", "GPT2"])
def test_logprobs_are_those_of_a_plain_forward(architecture):
    loaded = build_loaded(architecture)
    sampling = Sampling(temperature=1.5, max_tokens=20)
    for request, done in zip(
        requests(4), TransformersEngine(loaded).generate(requests(4), sampling), strict=True
    ):
        ids = torch.tensor([[*request.prompt_ids, *done.ids]])
        with torch.no_grad():
            scores = (loaded.model(ids).logits[0] / 1.5).log_softmax(-1)
        start = len(request.prompt_ids)
        want = [scores[start + j - 1, token].item() for j, token in enumerate(done.ids)]
        np.testing.assert_allclose(done.logprobs, want, atol=1e-4)


def test_greedy_equals_generate():
    loaded = build_loaded()
    [done] = TransformersEngine(loaded).generate(
        requests(1), Sampling(temperature=0, max_tokens=25)
    )
    want = loaded.model.generate(
        torch.tensor([requests(1)[0].prompt_ids]), do_sample=False, max_new_tokens=25
    )
    assert done.ids == want[0, len(requests(1)[0].prompt_ids) :].tolist()


def test_draws_follow_the_distribution():
    scores = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
    n = 8000
    noise = RowNoise(range(n), torch.device("cpu"))
    drawn = noise.draw(scores.expand(n, 4).contiguous(), range(n))
    counts = torch.bincount(drawn, minlength=4).numpy()
    assert chisquare(counts, n * scores.double().exp().numpy().round(6)).pvalue > 0.001


@given(
    logits=st.lists(st.floats(-8, 8, width=32), min_size=3, max_size=12, unique=True),
    top_k=st.integers(1, 12),
    top_p=st.floats(0.05, 0.99),
)
@settings(deadline=None, max_examples=80)
def test_top_k_and_top_p_agree_with_transformers(logits, top_k, top_p):
    row = torch.tensor([logits])
    want = TopPLogitsWarper(top_p)(None, TopKLogitsWarper(top_k)(None, row))
    got = processed_logprobs(row, Sampling(top_k=top_k, top_p=top_p))
    # At a cumulative probability that equals top_p to the last digit either choice is right.
    ordered = TopKLogitsWarper(top_k)(None, row).softmax(-1).sort(descending=True).values
    if (ordered.cumsum(-1) - top_p).abs().min() > 1e-5:
        assert torch.equal(torch.isfinite(got), torch.isfinite(want))
        torch.testing.assert_close(got.exp(), want.softmax(-1))


def test_context_is_never_overrun():
    loaded = build_loaded(max_position_embeddings=20, eos_token_id=None)
    loaded.tokenizer.eos_token = None
    done = TransformersEngine(loaded).generate(requests(3), Sampling(max_tokens=64))
    assert [len(c.ids) for c in done] == [17, 9, 14]
    assert {c.finish_reason for c in done} == {"length"}


def test_config_saved_without_cache_changes_nothing():
    slow = build_loaded()
    slow.model.config.use_cache = False
    done = TransformersEngine(slow).generate(requests(3), Sampling(max_tokens=8))
    assert done == TransformersEngine(build_loaded()).generate(requests(3), Sampling(max_tokens=8))


def test_model_with_nan_logits_is_named():
    loaded = build_loaded()
    loaded.model.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(GeomrlError, match=r"tiny.*not finite"):
        TransformersEngine(loaded).generate(requests(2), Sampling(max_tokens=4))


def spread_weights(architecture="Qwen3", seed=1, **overrides):
    return dict(build_model(architecture, seed=seed, **overrides).state_dict())


@pytest.mark.parametrize("overrides", [{}, {"tie_word_embeddings": True}])
def test_loaded_weights_are_those_that_sample(overrides):
    loaded = build_loaded(**overrides)
    engine, sampling = TransformersEngine(loaded), Sampling(max_tokens=12)
    before = engine.generate(requests(6), sampling)
    for seed in (1, 2):
        engine.load_weights(spread_weights(seed=seed, **overrides).items())
        fresh = TransformersEngine(build_loaded(seed=seed, **overrides))
        after = engine.generate(requests(6), sampling)
        assert after == fresh.generate(requests(6), sampling)
        assert after != before


def test_a_tied_head_may_come_or_stay_away():
    for left_out in ("lm_head.weight", "model.embed_tokens.weight"):
        loaded = build_loaded(tie_word_embeddings=True)
        weights = spread_weights(tie_word_embeddings=True)
        want = weights.pop(left_out)
        TransformersEngine(loaded).load_weights(weights.items())
        assert torch.equal(loaded.model.lm_head.weight, want)
        assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight


def test_weights_take_the_number_format_of_the_model():
    loaded = build_loaded()
    loaded.model.to(torch.bfloat16)
    weights = spread_weights()
    TransformersEngine(loaded).load_weights(weights.items())
    got = loaded.model.lm_head.weight
    assert torch.equal(got, weights["lm_head.weight"].bfloat16())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.norm.weight"), r"1 weights were not pushed.*model\.norm\.weight"),
        (lambda w: w.update({"module.x": torch.ones(2)}), r"module\.x, \[2\].*no weight"),
        # copy_ would spread one row over all of them without a word
        (
            lambda w: w.update({"lm_head.weight": torch.ones(1, 32)}),
            r"lm_head.*\[1, 32\].*\[160, 32\]",
        ),
    ],
)
def test_wrong_weights_are_named(change, message):
    weights = spread_weights()
    change(weights)
    with pytest.raises(GeomrlError, match=message):
        TransformersEngine(build_loaded()).load_weights(weights.items())


def test_untied_weights_do_not_fit_a_tied_model():
    with pytest.raises(GeomrlError, match=r"lm_head\.weight.*ties.*other values"):
        TransformersEngine(build_loaded(tie_word_embeddings=True)).load_weights(
            spread_weights(tie_word_embeddings=False).items()
        )


HAS_VLLM = (spec := find_spec("vllm")) is not None and spec.origin is not None


@pytest.mark.skipif(HAS_VLLM, reason="vllm is installed here")
def test_missing_vllm_is_named_before_a_model_is_sought(tmp_path, monkeypatch):
    (tmp_path / "vllm").mkdir()  # Python would import any folder of that name
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtra, match=r"needs 'vllm'.*pip install 'geomrl\[vllm\]'"):
        VLLMEngine("./nowhere", device="cpu")
