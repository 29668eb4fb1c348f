"""Forwards from the anchor, with the tokens before it run once, are the whole forwards."""

import numpy as np
import pytest
import torch
from probes import tiny_probe
from tiny import ARCHITECTURES, COMMON, VOCABULARY, build_model
from transformers import AutoModelForCausalLM, Gemma3TextConfig
from zoo import zoo_model

from geomrl.probe import intervention, prefix
from geomrl.probe.extraction import token_batches
from geomrl.probe.intervention import replace
from geomrl.probe.trials import Trial

LAYERS = ("0", "1", "2", "final")


def long_trials(n=6, seed=1):
    """Ragged prefixes and tails; two problems of three rollouts, two of which are correct."""
    draw = np.random.default_rng(seed)
    trials = []
    for i in range(n):
        before, between, answer = (int(draw.integers(*r)) for r in ((8, 60), (0, 5), (1, 6)))
        start = before + 1 + between
        ids = draw.integers(10, VOCABULARY, start + answer).tolist()
        trials.append(
            Trial(
                rollout_id=str(i), problem=f"p{i % 2}", correct=i < 4, ids=ids, anchor=before,
                answer=range(start, start + answer),
            )
        )  # fmt: skip
    return trials


def replaced(probe, trials, monkeypatch, long, batch_tokens=150, **options):
    """The table, and what was said; `long` is the rule's bound."""
    said = []
    with monkeypatch.context() as patch:
        patch.setattr(intervention, "LONG", long)
        table = replace(
            probe, trials, LAYERS, anchor="a", batch_tokens=batch_tokens, say=said.append, **options
        )
    return table, said


SLIDING = {"sliding_window": 6}


def gemma3_text():
    """Windows in two of three layers, as no other family has them."""
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    config = Gemma3TextConfig(**COMMON, head_dim=8, layer_types=types, **SLIDING)
    return AutoModelForCausalLM.from_config(config).eval()


MODELS = {
    **{name: lambda name=name: build_model(name) for name in ARCHITECTURES},
    "Mistral, window": lambda: build_model("Mistral", **SLIDING),
    "Qwen2, some windows": lambda: build_model(
        "Qwen2", use_sliding_window=True, max_window_layers=1, **SLIDING
    ),
    "Gemma3": gemma3_text,
    "gpt_neo": lambda: zoo_model("gpt_neo"),
    "opt": lambda: zoo_model("opt"),
    "falcon": lambda: zoo_model("falcon"),
    "gemma3": lambda: zoo_model("gemma3"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_forwards_from_the_anchor_score_as_whole_ones(kind, monkeypatch):
    probe, trials = tiny_probe(MODELS[kind]()), long_trials()
    whole, _ = replaced(probe, trials, monkeypatch, long=10**6)
    shared = []
    monkeypatch.setattr(
        intervention, "read_prefix", lambda *a: shared.append(a) or prefix.read_prefix(*a)
    )
    found, said = replaced(probe, trials, monkeypatch, long=0)
    assert shared
    assert not said
    assert whole.drop(columns=["logprob", "change"]).equals(
        found.drop(columns=["logprob", "change"])
    )
    for column in ("logprob", "change"):
        np.testing.assert_allclose(found[column], whole[column], atol=3e-5, rtol=1e-5)
    assert whole["change"].abs().max() > 0.01


def test_a_batch_with_nothing_before_its_anchors_is_run_whole(monkeypatch):
    probe = tiny_probe(build_model())
    first = [
        Trial(
            rollout_id=f"first {i}", problem="p0", correct=False, ids=[20 + i, 30, 31], anchor=0,
            answer=range(1, 3),
        )
        for i in range(2)
    ]  # fmt: skip
    trials = [*first, *long_trials()]
    assert token_batches([len(t.ids) for t in trials], 8)[0] == [0, 1]
    whole, _ = replaced(probe, trials, monkeypatch, long=10**6, batch_tokens=8)
    found, said = replaced(probe, trials, monkeypatch, long=0, batch_tokens=8)
    assert not said
    np.testing.assert_allclose(found["change"], whole["change"], atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["jamba", "recurrent_gemma"])
def test_other_memories_than_keys_and_values_take_whole_forwards(kind, monkeypatch):
    probe, trials = tiny_probe(zoo_model(kind)), long_trials()
    whole, _ = replaced(probe, trials, monkeypatch, long=10**6)
    found, said = replaced(probe, trials, monkeypatch, long=0)
    assert len(said) == 1
    assert "every replacement is a whole forward" in said[0]
    assert found.equals(whole)


def test_a_model_that_is_otherwise_behind_a_prefix_takes_whole_forwards(monkeypatch):
    probe, trials = tiny_probe(build_model()), long_trials()
    whole, _ = replaced(probe, trials, monkeypatch, long=10**6)
    behind = prefix.Prefix.behind

    def from_zero(self, ids):
        inputs = behind(self, ids)
        return inputs | {"position_ids": inputs["position_ids"] - self.lengths[:, None]}

    monkeypatch.setattr(prefix.Prefix, "behind", from_zero)
    found, said = replaced(probe, trials, monkeypatch, long=0)
    assert "scores otherwise than a whole one" in said[0]
    assert found.equals(whole)


def test_a_layer_is_finished_with_those_that_share_its_prefixes(monkeypatch):
    probe, trials = tiny_probe(build_model()), long_trials()
    monkeypatch.setattr(intervention, "LAYERS_AT_ONCE", 3)
    done = []
    found, _ = replaced(
        probe, trials, monkeypatch, long=0, finished=lambda *each: done.append(each)
    )
    assert [name for name, _ in done] == list(LAYERS)
    assert found["layer"].drop_duplicates().tolist() == list(LAYERS)
    for name, rows in done:
        assert rows.equals(found[found["layer"] == name].reset_index(drop=True))


def test_a_forward_leaves_the_prefix_as_it_is():
    model = build_model("Mistral", **SLIDING)
    ids = torch.randint(10, VOCABULARY, (3, 5))
    kept = prefix.read_prefix(model.base_model, [[11] * 9, [12] * 2, []], torch.device("cpu"))
    with torch.inference_mode():
        first = model.base_model(**kept.behind(ids))[0]
        before = [layer.keys.clone() for layer in kept.cache.layers]
        second = model.base_model(**kept.behind(ids))[0]
    assert torch.equal(first, second)
    assert all(torch.equal(a, b.keys) for a, b in zip(before, kept.cache.layers, strict=True))
