"""vLLM against transformers: the same probabilities, before and after new weights are pushed."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import run_process
from scipy.stats import chisquare
from tiny import build_model
from widened import save_widened_reasoner

from geomrl.errors import GeomrlError
from geomrl.models.loading import LoadedModel, load_model, load_tokenizer
from geomrl.rollout.engine import Request, Sampling
from geomrl.rollout.engines.token_draws import processed_logprobs
from geomrl.rollout.engines.transformers import TransformersEngine
from geomrl.rollout.engines.vllm import VLLMEngine

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Longer than a cache block (128 tokens on a CPU): shorter prefixes are never cached.
SHARED_TOKENS = 150


@dataclass
class Pair:
    """A transformers model and an engine with the same weights."""

    folder: Path
    loaded: LoadedModel
    engine: VLLMEngine

    def requests(self, n=10):
        """Long prompts that share all but their last token, and short ones."""
        problem = self.loaded.tokenizer("17 + 25 = ").input_ids
        shared = (problem * SHARED_TOKENS)[:SHARED_TOKENS]
        prompts = [tuple(problem), *((*shared, 5 + i) for i in range(3))]
        return [Request(prompts[i % len(prompts)], seed=2**62 + i) for i in range(n)]

    @torch.no_grad()
    def want(self, request, done, sampling):
        """Log-probabilities of the drawn tokens under transformers, teacher-forced, in fp32."""
        ids = torch.tensor([[*request.prompt_ids, *done.ids]], device=DEVICE)
        logits = self.loaded.model(ids).logits[0, len(request.prompt_ids) - 1 : -1]
        scores = processed_logprobs(logits.float(), sampling)
        return scores.gather(-1, torch.tensor(done.ids, device=DEVICE)[:, None])[:, 0].cpu().numpy()

    def error(self, sampling):
        """Sample, and return the largest difference of a log-probability, and the samples."""
        done = self.engine.generate(self.requests(), sampling)
        pairs = zip(self.requests(), done, strict=True)
        return max(np.abs(self.want(r, d, sampling) - d.logprobs).max() for r, d in pairs), done

    def change(self, seed):
        """Move the model's weights so far that every probability changes."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in self.loaded.model.parameters():
                noise = torch.randn(weight.shape, generator=generator).to(weight)
                weight.add_(0.3 * weight.std() * noise)

    def push(self):
        self.engine.load_weights(self.loaded.model.named_parameters())


def save_untied(folder):
    tokenizer = load_tokenizer("reasoner")
    vocabulary = len(tokenizer)
    model = build_model("Qwen3", head_dim=32, vocab_size=vocabulary, tie_word_embeddings=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_pair(folder, **settings):
    loaded = load_model(str(folder), device=DEVICE, dtype="float32")
    engine = VLLMEngine(str(folder), dtype="float32", device=DEVICE, **settings)
    return Pair(folder, loaded, engine)


@pytest.fixture(scope="module", params=[save_widened_reasoner, save_untied])
def started(request, tmp_path_factory):
    built = build_pair(request.param(tmp_path_factory.mktemp("model")))
    yield built, {name: w.clone() for name, w in built.loaded.model.state_dict().items()}
    built.engine.close()


@pytest.fixture
def pair(started):
    built, saved = started
    yield built
    built.loaded.model.load_state_dict(saved)
    built.push()


def test_the_two_models_are_what_they_are_said_to_be(pair):
    parameters = dict(pair.loaded.model.named_parameters())
    tied = "lm_head.weight" not in parameters
    assert tied == pair.loaded.model.config.tie_word_embeddings
    if tied:
        narrow = load_model("reasoner", device=DEVICE, dtype="float32")
        ids = torch.randint(3, 400, (3, 200), device=DEVICE)
        want = narrow.model(ids).logits
        assert (pair.loaded.model(ids).logits - want).abs().max() < 1e-5 * want.abs().max()


def test_logprobs_are_those_of_transformers_before_and_after_pushes(pair):
    sampling = Sampling(max_tokens=40)
    error, done = pair.error(sampling)
    assert error < 1e-4
    for seed in (1, 2):
        pair.change(seed)
        stale = max(
            np.abs(pair.want(r, d, sampling) - d.logprobs).max()
            for r, d in zip(pair.requests(), done, strict=True)
        )
        assert stale > 0.1  # old probabilities would be seen
        pair.push()
        before = [d.ids for d in done]
        error, done = pair.error(sampling)
        assert error < 1e-4
        assert all(d.ids != old for d, old in zip(done, before, strict=True))


def test_a_forgotten_prefix_cache_would_be_seen(pair, monkeypatch):
    pair.push()
    pair.error(Sampling(max_tokens=8))
    pair.change(3)
    with monkeypatch.context() as patch:
        patch.setattr(pair.engine._llm, "reset_prefix_cache", lambda: True)
        pair.push()
    assert pair.error(Sampling(max_tokens=8))[0] > 0.01
    pair.push()
    assert pair.error(Sampling(max_tokens=8))[0] < 1e-4


@pytest.mark.skipif(DEVICE != "cpu", reason="only the CPU build packs the head into a copy")
def test_a_forgotten_tied_head_would_be_seen(pair):
    pair.change(4)
    weights = {n: w for n, w in pair.loaded.model.named_parameters() if n != "lm_head.weight"}
    pair.engine._llm.collective_rpc(
        "reload_weights", kwargs={"weights_iterator": iter(weights.items())}
    )
    pair.engine._llm.reset_prefix_cache()
    assert pair.error(Sampling(max_tokens=8))[0] > 0.01
    pair.push()
    assert pair.error(Sampling(max_tokens=8))[0] < 1e-4


def test_a_tensor_need_not_outlive_its_turn(pair):
    def fleeting():
        for name, weight in pair.loaded.model.state_dict().items():
            tensor = weight.clone()
            yield name, tensor
            tensor.fill_(torch.nan)  # as gathered weights are freed again

    pair.change(5)
    pair.engine.load_weights(fleeting())
    assert pair.error(Sampling(max_tokens=8))[0] < 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.norm.weight"), r"1 weights were not pushed.*model\.norm\.weight"),
        (lambda w: w.update({"module.x": torch.ones(2)}), r"module\.x, \[2\].*no weight"),
        (lambda w: w.update({"model.norm.weight": torch.ones(1)}), r"model\.norm.*\[1\].*a weight"),
    ],
)
def test_wrong_weights_are_named_and_can_be_mended(pair, change, message):
    weights = dict(pair.loaded.model.state_dict())
    change(weights)
    with pytest.raises(GeomrlError, match=message):
        pair.engine.load_weights(weights.items())
    pair.push()
    assert pair.error(Sampling(max_tokens=8))[0] < 1e-4


def test_logprobs_are_of_the_distribution_that_is_drawn_from(pair):
    for sampling in (
        Sampling(temperature=0.6, max_tokens=20),
        Sampling(temperature=1.3, top_k=5, max_tokens=20),
        Sampling(temperature=1.3, top_k=20, top_p=0.8, max_tokens=20),
    ):
        error, _ = pair.error(sampling)
        assert error < 1e-4


def test_draws_follow_the_distribution(pair):
    n, sampling = 1500, Sampling(max_tokens=1, top_k=6)
    request = pair.requests()[0]
    done = pair.engine.generate([Request(request.prompt_ids, seed) for seed in range(n)], sampling)
    drawn, counts = np.unique([d.ids[0] for d in done], return_counts=True)
    by_token = {d.ids[0]: d.logprobs[0] for d in done}
    expected = n * np.exp([by_token[token] for token in drawn])
    assert expected.sum() == pytest.approx(n, rel=0.01)  # hardly a token was never drawn
    assert chisquare(counts, expected * n / expected.sum()).pvalue > 0.001


def test_greedy_equals_the_transformers_engine(pair):
    sampling = Sampling(temperature=0, max_tokens=15)
    want = TransformersEngine(pair.loaded).generate(pair.requests(4), sampling)
    for one, other in zip(pair.engine.generate(pair.requests(4), sampling), want, strict=True):
        assert (one.ids, one.finish_reason) == (other.ids, other.finish_reason)
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


def test_a_seed_alone_decides(pair):
    sampling, requests = Sampling(max_tokens=20), pair.requests(12)
    together = pair.engine.generate(requests, sampling)
    ids = [d.ids for d in together]
    assert [d.ids for d in pair.engine.generate(requests[::-1], sampling)] == ids[::-1]
    assert [pair.engine.generate([r], sampling)[0].ids for r in requests[:4]] == ids[:4]
    assert len({tuple(i) for i in ids}) == len(ids)


def test_responses_end_with_a_stop_token_or_at_the_limit(pair):
    said = []
    short = Sampling(max_tokens=7)
    hot = Sampling(temperature=2, max_tokens=60)  # makes an untrained model stop at times
    done = [
        (one, sampling)
        for sampling in (short, hot)
        for one in pair.engine.generate(pair.requests(64), sampling, said.append)
    ]
    assert sum(said) == 128
    stopping = TransformersEngine(pair.loaded).stop_ids
    assert stopping == pair.engine.stop_ids
    assert {one.finish_reason for one, _ in done} == {"stop", "length"}
    for one, sampling in done:
        assert len(one.ids) == len(one.logprobs)
        assert not stopping.intersection(one.ids[:-1])
        assert (one.ids[-1] in stopping) == (one.finish_reason == "stop")
        assert one.finish_reason == "stop" or len(one.ids) == sampling.max_tokens


def test_context_is_never_overrun(pair):
    prompt = tuple(range(3, 3 + 200)) * 3
    nearly = [Request(prompt[:510], seed) for seed in range(8)]
    done = pair.engine.generate(nearly, Sampling(max_tokens=64))
    assert max(len(d.ids) for d in done) == 2
    with pytest.raises(GeomrlError, match="512 tokens and max_model_len is 512"):
        pair.engine.generate([Request(prompt[:512], 0)], Sampling())


def test_an_interrupted_call_leaves_nothing_behind(pair):
    class Interrupted(Exception):
        pass

    def stop(n):
        raise Interrupted

    sampling = Sampling(max_tokens=30)
    want = pair.engine.generate(pair.requests(), sampling)
    with pytest.raises(Interrupted):
        pair.engine.generate(pair.requests(), sampling, stop)
    again = pair.engine.generate(pair.requests(), sampling)
    assert [d.ids for d in again] == [d.ids for d in want]
    pair.push()  # refuses while requests are running


@pytest.mark.skipif(DEVICE != "cpu", reason="a GPU has a sleep mode")
def test_a_cpu_engine_does_not_sleep(pair):
    want = pair.engine.generate(pair.requests(), Sampling(max_tokens=8))
    pair.engine.sleep()
    assert pair.engine.generate(pair.requests(), Sampling(max_tokens=8)) == want
    pair.engine.wake()
    assert pair.engine.generate(pair.requests(), Sampling(max_tokens=8)) == want


def test_what_vllm_cannot_run_is_named(tmp_path):
    with pytest.raises(GeomrlError, match="nowhere"):
        VLLMEngine("./nowhere", dtype="float32", device=DEVICE)
    folder = save_untied(tmp_path)
    with pytest.raises(GeomrlError, match="max_model_len"):
        VLLMEngine(str(folder), dtype="float32", device=DEVICE, max_model_len=100_000)
    other = "cpu" if DEVICE == "cuda" else "cuda"
    with pytest.raises(GeomrlError, match=f"device {other}: the installed vLLM runs on {DEVICE}"):
        VLLMEngine(str(folder), dtype="float32", device=other)
    if DEVICE == "cpu":
        with pytest.raises(GeomrlError, match="heads have 16 dimensions"):
            VLLMEngine("reasoner", dtype="float32", device="cpu")


@pytest.mark.slow
@pytest.mark.skipif(DEVICE != "cpu", reason="wants two devices of one kind")
def test_every_rank_of_a_job_has_an_engine_of_its_own(tmp_path):
    folder = save_widened_reasoner(tmp_path)
    script = Path(__file__).with_name("two_ranks.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = run_process([*launch, script, folder])
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(done.stdout.split()) == ["rank-0-done", "rank-1-done"]


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE != "cuda", reason="no CUDA device here")
def test_a_sleeping_engine_gives_its_memory_back(tmp_path):
    pair = build_pair(save_widened_reasoner(tmp_path), gpu_memory_utilization=0.3)
    try:
        error, want = pair.error(Sampling(max_tokens=8))
        assert error < 1e-3
        free, total = torch.cuda.mem_get_info()
        pair.engine.sleep()
        assert torch.cuda.mem_get_info()[0] - free > 0.2 * total
        with pytest.raises(GeomrlError, match="asleep"):
            pair.push()
        pair.engine.wake()
        with pytest.raises(GeomrlError, match="without weights"):
            pair.engine.generate(pair.requests(), Sampling())
        pair.push()
        error, again = pair.error(Sampling(max_tokens=8))
        assert error < 1e-3
        assert [d.ids for d in again] == [d.ids for d in want]
        pair.change(1)
        pair.engine.sleep()
        pair.engine.wake()
        pair.push()
        assert pair.error(Sampling(max_tokens=8))[0] < 1e-3
    finally:
        pair.engine.close()
