"""Draws from a large vocabulary: exact, the sorted definition's nuclei, a row's seed alone."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chisquare, kstest
from tiny import build_model, character_tokenizer

from geomrl.errors import GeomrlError
from geomrl.models.loading import LoadedModel
from geomrl.rollout.engine import Request, Sampling
from geomrl.rollout.engines.block_draws import (
    BLOCK,
    draw_tokens,
    exponentials,
    kept_weights,
)
from geomrl.rollout.engines.token_draws import (
    RACED_WHOLE,
    TokenDraws,
    processed_logprobs,
    sampler_settings,
)
from geomrl.rollout.engines.transformers import TransformersEngine


def test_noise_is_splitmix64():
    """The generator's published numbers for the state 1234567, and its hash as start."""

    def output(state):
        state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ state >> 27) * 0x94D049BB133111EB) % 2**64
        return state ^ state >> 31

    golden = 0x9E3779B97F4A7C15
    assert [output((1234567 + i * golden) % 2**64) for i in (1, 2)] == [
        6457827717110365317,
        3203168211198807973,
    ]
    seeds = [0, 5, 2**63 - 1]
    got = exponentials(torch.tensor(seeds), step=41, n=50)
    for row, seed in zip(got, seeds, strict=True):
        start = output((seed + 42 * golden) % 2**64)
        uniform = [(output((start + i * golden) % 2**64) >> 11) / 2**53 for i in range(1, 51)]
        np.testing.assert_allclose(row.numpy(), -np.log1p(-np.array(uniform)), rtol=1e-14)


def test_noise_is_exponential_over_seeds_steps_and_places():
    seeds = torch.arange(40)
    noise = torch.cat([exponentials(seeds, step, 50) for step in range(40)]).numpy()
    assert kstest(noise.ravel(), "expon").pvalue > 0.001
    assert np.unique(noise).size == noise.size
    for axis in (0, 1):  # neighbours are not correlated
        one, two = np.delete(noise, -1, axis), np.delete(noise, 0, axis)
        assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.015


def wanted(logits, sampling):
    """Probabilities by the sorted definition, summed in float64; how far top_p is from an edge."""
    x = torch.from_numpy(logits)
    weights = ((x - x.max()) / (sampling.temperature or 1)).exp()  # ties are those of float32
    if 0 < sampling.top_k < len(logits):
        weights[x < x.sort().values[-sampling.top_k]] = 0
    order = weights.argsort(descending=True, stable=True)
    p = (weights.double() / weights.double().sum()).numpy()
    before = np.concatenate([[0.0], p[order].cumsum()[:-1]])
    if sampling.top_p < 1:
        p[order[before >= sampling.top_p]] = 0
    return p / p.sum(), np.abs(before - sampling.top_p).min()


SAMPLINGS = [
    Sampling(),
    Sampling(temperature=1.7, top_p=0.95),
    Sampling(top_k=20),
    Sampling(temperature=0.6, top_k=30, top_p=0.8),
    Sampling(top_p=0.4),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_draws_follow_the_distribution(sampling):
    """Chi-square over the likely tokens by themselves, and over the blocks of all others."""
    vocabulary, n = 700, 6000
    logits = np.random.default_rng(3).normal(size=vocabulary).astype(np.float32) * 1.5
    p, _ = wanted(logits, sampling)
    rows = torch.from_numpy(logits).expand(n, -1)
    tokens, logprobs = draw_tokens(rows, sampling, torch.arange(n), step=7)
    np.testing.assert_allclose(logprobs, np.log(p[tokens]), atol=1e-5)
    counts = np.bincount(tokens, minlength=vocabulary)
    assert counts[p == 0].sum() == 0
    cells = np.where(
        p * n >= 10, np.arange(vocabulary), vocabulary + np.arange(vocabulary) // BLOCK
    )
    want, got = (np.bincount(cells, each) for each in (p * n, counts))
    kept = want > 5
    got, want = np.append(got[kept], got[~kept].sum()), np.append(want[kept], want[~kept].sum())
    assert chisquare(got[want > 0], want[want > 0]).pvalue > 0.001


def test_draws_of_one_seed_follow_the_distribution():
    p = np.array([0.5, 0.25, 0.15, 0.1])
    rows = torch.from_numpy(np.log(p))[None]
    counts = np.zeros(4)
    for step in range(4000):
        counts[draw_tokens(rows, Sampling(), torch.tensor([11]), step)[0]] += 1
    assert chisquare(counts, 4000 * p).pvalue > 0.001


HARD = st.one_of(
    st.floats(-30, 30, width=32),
    st.sampled_from([0.0, 1.0, 2.0, -np.inf]),  # ties, and tokens that are ruled out
    st.floats(-(2.0**124), 2.0**124, width=32),
)
LOGITS = st.integers(2, 300).flatmap(
    lambda n: arrays(np.float32, n, elements=HARD).filter(lambda x: np.isfinite(x).any())
)
ROW = np.zeros(300, np.float32)


@given(
    logits=LOGITS,
    top_k=st.sampled_from([0, 1, 2, 3, 20, 64, 128, 299, 300, 1000]),
    top_p=st.one_of(st.floats(0.01, 1), st.sampled_from([0.5, 0.95, 1.0])),
    temperature=st.sampled_from([1.0, 0.6, 2.0]),
)
@example(logits=ROW, top_k=0, top_p=0.95, temperature=1.0)  # nothing but ties
@example(logits=ROW, top_k=20, top_p=0.005, temperature=1.0)
@example(logits=np.where(np.arange(300) == 7, 1e4, ROW).astype(np.float32), top_k=0, top_p=0.9,
         temperature=1.0)  # all mass on one token  # fmt: skip
@example(logits=np.linspace(0, 1, 300, dtype=np.float32), top_k=0, top_p=1 - 2**-53,
         temperature=1.0)  # fmt: skip
@settings(deadline=None, max_examples=300)
def test_kept_tokens_are_those_of_the_sorted_definition(logits, top_k, top_p, temperature):
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    p, margin = wanted(logits, sampling)
    got = kept_weights(torch.from_numpy(logits)[None], sampling).flatten()[: len(logits)].numpy()
    np.testing.assert_allclose(got / got.sum(), p, atol=1e-6 if margin > 1e-6 else 1)
    if margin > 1e-6:  # elsewhere rounding decides about the last token
        assert ((got > 0) == (p > 1e-37))[(p == 0) | (p > 1e-37)].all()
    elif top_p < 1:  # then too: a run from the likeliest, with top_p of the mass
        full = kept_weights(torch.from_numpy(logits)[None], Sampling(temperature, 1.0, top_k))
        full = full.flatten()[: len(logits)].numpy().astype(float)
        assert full[got > 0].min() >= full[got == 0].max(initial=0)
        assert full[got > 0].sum() >= (top_p - 1e-6) * full.sum()


def test_of_equally_likely_tokens_the_lowest_ids_are_kept():
    logits = torch.zeros(1, 1000)
    logits[0, [5, 900]] = 2.0
    kept = kept_weights(logits, Sampling(top_p=0.5)).flatten()[:1000] > 0
    mass = 998 + 2 * np.exp(2)
    n = int(np.ceil(0.5 * mass - 2 * np.exp(2)))
    assert kept.nonzero().flatten().tolist() == sorted({*range(n + 1), 900})
    # and where the edge is among the candidates that are looked at first
    few = torch.full((1, 1000), -50.0)
    few[0, [3, 200, 400, 600]] = 0.0
    kept = kept_weights(few, Sampling(top_p=0.5)).flatten()[:1000] > 0
    assert kept.nonzero().flatten().tolist() == [3, 200]


@pytest.mark.parametrize("scale", [0.6, 5.0])
@pytest.mark.parametrize("sampling", [*SAMPLINGS, Sampling(temperature=0)], ids=str)
def test_both_samplers_mean_the_same_at_a_real_vocabulary(sampling, scale):
    logits = torch.randn(2, 151_936, generator=torch.Generator().manual_seed(1)) * scale
    want = processed_logprobs(logits, sampling).exp()
    weights = kept_weights(logits, sampling).flatten(1)[:, :151_936]
    got = weights / weights.sum(-1, keepdim=True)
    assert ((got > 0) != (want > 0)).sum(-1).max() <= (want > 0).sum(-1).max() * 1e-3
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-5)
    assert (got - want).abs().sum(-1).max() < 1e-3
    if sampling.temperature == 0:
        tokens, logprobs = draw_tokens(logits, sampling, torch.arange(2), 0)
        assert torch.equal(tokens, logits.argmax(-1))
        # In float64: a CPU without AVX-512 sums 152k float32 to 2e-5, and the drawn ones are nearer.
        exact = processed_logprobs(logits.double(), sampling).amax(-1)
        torch.testing.assert_close(logprobs, exact.float())


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_row_depends_on_its_own_seed_alone(sampling):
    vocabulary, rows = 151_936, 8
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(rows, vocabulary, generator=generator) * 2
    seeds = torch.arange(rows) + 2**62
    together = draw_tokens(logits, sampling, seeds, step=3)
    order = torch.randperm(rows, generator=generator)
    shuffled = draw_tokens(logits[order], sampling, seeds[order], step=3)
    for whole, part in zip(together, shuffled, strict=True):
        assert torch.equal(whole[order], part)
    alone = [
        draw_tokens(logits[i : i + 1], sampling, seeds[i : i + 1], step=3) for i in range(rows)
    ]
    assert torch.equal(together[0], torch.cat([tokens for tokens, _ in alone]))
    assert torch.equal(together[1], torch.cat([logprobs for _, logprobs in alone]))
    same = logits[:1].expand(rows, -1)
    assert len(set(draw_tokens(same, sampling, seeds, step=3)[0].tolist())) > 1
    assert not torch.equal(together[0], draw_tokens(logits, sampling, seeds, step=4)[0])


def test_a_difference_of_rounding_changes_no_draw():
    logits = torch.randn(64, 20_000, generator=torch.Generator().manual_seed(4)) * 2
    moved = logits + 2e-6 * torch.randn(64, 20_000, generator=torch.Generator().manual_seed(5))
    for sampling in SAMPLINGS:
        one, two = (draw_tokens(x, sampling, torch.arange(64), 0)[0] for x in (logits, moved))
        assert (one != two).sum() <= 1


def test_half_precision_logits_are_drawn_from_as_they_are():
    logits = torch.randn(4, 9000, generator=torch.Generator().manual_seed(6)).bfloat16()
    one, two = (draw_tokens(x, SAMPLINGS[3], torch.arange(4), 0) for x in (logits, logits.float()))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_show(sampling, bad):
    logits = torch.zeros(3, 5000)
    logits[1, 77] = bad
    _, logprobs = draw_tokens(logits, sampling, torch.arange(3), 0)
    assert torch.isfinite(logprobs).tolist() == [True, False, True]
    nothing = torch.full((1, 5000), -torch.inf)
    assert not torch.isfinite(draw_tokens(nothing, sampling, torch.arange(1), 0)[1]).any()


def test_small_vocabularies_keep_their_old_draws():
    """Stored figures are made of these: the race of the whole vocabulary, one generator a row."""
    logits = torch.randn(3, 435, generator=torch.Generator().manual_seed(0)) * 3
    seeds = [5, 6, 2**40]
    tokens = [
        TokenDraws(seeds, Sampling(top_p=0.9), torch.device("cpu")).draw(logits, [0, 1, 2], 0)[0]
        for _ in range(2)
    ]
    scores = processed_logprobs(logits, Sampling(top_p=0.9))
    noise = torch.empty(3, 435)
    for row, seed in enumerate(seeds):
        noise[row].exponential_(generator=torch.Generator().manual_seed(seed))
    assert tokens[0].tolist() == tokens[1].tolist() == (scores - noise.log()).argmax(-1).tolist()
    assert sampler_settings(RACED_WHOLE, Sampling()) == {}
    assert sampler_settings(RACED_WHOLE + 1, Sampling()) == {"sampler": 2}
    assert sampler_settings(RACED_WHOLE + 1, Sampling(temperature=0)) == {}


def large_vocabulary_engine():
    return TransformersEngine(
        LoadedModel(
            name="tiny",
            model=build_model("Qwen3", vocab_size=6000, initializer_range=0.5),
            tokenizer=character_tokenizer(),
            device=torch.device("cpu"),
            dtype=torch.float32,
            weights="0" * 16,
            vocabulary="1" * 16,
        )
    )


@pytest.mark.parametrize("sampling", [Sampling(max_tokens=12), Sampling(1.5, 0.9, 50, 12)], ids=str)
def test_the_engine_draws_by_blocks_whatever_the_batch(sampling):
    engine = large_vocabulary_engine()
    asked = [Request(tuple(range(3, 6 + i % 3)), 100 + i) for i in range(12)]
    together = engine.generate(asked, sampling)
    backwards = engine.generate(asked[::-1], sampling)[::-1]
    alone = [engine.generate([request], sampling)[0] for request in asked]
    assert [c.ids for c in together] == [c.ids for c in alone] == [c.ids for c in backwards]
    assert len({tuple(c.ids) for c in together}) == len(together)
    assert engine.draw_settings(engine.loaded.model.config, sampling) == {"sampler": 2}


def test_the_engine_names_a_large_model_with_nan_logits():
    engine = large_vocabulary_engine()
    engine.loaded.model.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(GeomrlError, match=r"tiny.*not finite"):
        engine.generate([Request((3, 4), 1)], Sampling(top_p=0.9, max_tokens=4))
