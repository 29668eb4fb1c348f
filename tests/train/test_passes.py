"""Passes without gradient: each rollout gets what it would get alone, in the rollouts' order."""

import pickle
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from hooked import hooked_states
from training import PlainEngine, build_policy, build_samples, plain_extractor

from geomrl.train.passes import read_states, score
from geomrl.train.policy import Policy
from geomrl.train.world import World

LAYERS = ("0", "2", "final")
EXACT = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture(scope="module")
def engine():
    return PlainEngine(build_policy(torch.float64), World(0, 1, torch.device("cpu")))


@pytest.fixture(scope="module")
def samples():
    """Ragged: responses of one token and of thirty, prompts of one token and of five."""
    drawn = build_samples(n_groups=3, n_samples=4, shortest=1, longest=30)
    return [replace(s, prompt_ids=s.prompt_ids[:1]) if s.group == 1 else s for s in drawn]


def ids_of(sample):
    return [*sample.prompt_ids, *sample.response_ids]


def alone(engine, sample):
    """A rollout's log-probabilities from a forward of its own, with all logits."""
    ids = torch.tensor([ids_of(sample)])
    with torch.no_grad():
        every = engine.policy.model(input_ids=ids, use_cache=False).logits.log_softmax(-1)[0]
    at = torch.arange(len(sample.prompt_ids), ids.shape[1])
    return every[at - 1, ids[0, at]]


def states_alone(engine, sample):
    return hooked_states(engine.policy.model, torch.tensor([ids_of(sample)]))


@contextmanager
def forwards(engine):
    """The (rows, width) of every forward in the block."""
    shapes = []
    embed = engine.policy.model.get_input_embeddings()
    handle = embed.register_forward_hook(lambda _, args, out: shapes.append(tuple(out.shape[:2])))
    yield shapes
    handle.remove()


def within(shapes, budget):
    return all(rows * width <= budget or rows == 1 for rows, width in shapes)


@pytest.mark.parametrize("budget", [1, 70, 10_000])
def test_score_is_a_forward_of_each_rollout(engine, samples, budget):
    said = []
    with forwards(engine) as shapes:
        found, states = score(
            engine, samples, budget=budget, progress=lambda *done: said.append(done)
        )
    assert states == {}
    assert within(shapes, budget)
    assert said[-1][0] == said[-1][1] == len(said)
    assert len({len(s.response_ids) for s in samples}) > 5
    for sample, logprobs in zip(samples, found, strict=True):
        torch.testing.assert_close(logprobs, alone(engine, sample), **EXACT)
        assert not logprobs.requires_grad


def test_score_is_at_the_sampling_temperature(engine, samples):
    """Else the ratio to the present log-probabilities would not be 1."""
    warm = PlainEngine(Policy(engine.policy.model, temperature=2.0), engine.world)
    found = score(warm, samples[:1], budget=100)[0][0]
    ids = torch.tensor([ids_of(samples[0])])
    with torch.no_grad():
        logits = engine.policy.model(input_ids=ids).logits[0] / 2
    at = torch.arange(len(samples[0].prompt_ids), ids.shape[1])
    expected = logits.log_softmax(-1)[at - 1, ids[0, at]]
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("budget", [1, 70, 10_000])
def test_score_reads_states_of_the_same_forwards(engine, samples, budget):
    """Rollouts without an anchor have no row, and shift none."""
    anchors = [None if i % 3 == 1 else (7 * i) % s.n_tokens for i, s in enumerate(samples)]
    assert max(a for a in anchors if a is not None) > 10
    found, states = score(
        engine, samples, budget=budget, extractor=plain_extractor(engine),
        anchors=anchors, layers=LAYERS,
    )  # fmt: skip
    for sample, logprobs in zip(samples, found, strict=True):
        torch.testing.assert_close(logprobs, alone(engine, sample), **EXACT)
    chosen = [(s, a) for s, a in zip(samples, anchors, strict=True) if a is not None]
    assert all(len(states[layer]) == len(chosen) for layer in LAYERS)
    for row, (sample, anchor) in enumerate(chosen):
        expected = states_alone(engine, sample)
        for layer in LAYERS:
            torch.testing.assert_close(states[layer][row], expected[layer][0, anchor], **EXACT)


def test_no_rollout_has_an_anchor(engine, samples):
    found, states = score(
        engine, samples[:3], budget=100, extractor=plain_extractor(engine),
        anchors=[None] * 3, layers=LAYERS,
    )  # fmt: skip
    assert len(found) == 3
    assert {layer: tuple(state.shape) for layer, state in states.items()} == dict.fromkeys(
        LAYERS, (0, 32)
    )


@pytest.mark.parametrize("budget", [1, 70, 10_000])
def test_read_states_is_plain_hooks(engine, samples, budget):
    """Several positions of a rollout, the first and the last among them, in any order; or none."""
    sequences = [ids_of(s) for s in samples]
    positions = [
        [] if i % 4 == 2 else [len(ids) - 1, 0, len(ids) // 2] for i, ids in enumerate(sequences)
    ]
    with forwards(engine) as shapes:
        states = read_states(
            engine,
            plain_extractor(engine),
            sequences=sequences,
            positions=positions,
            layers=LAYERS,
            budget=budget,
        )
    assert within(shapes, budget)
    wanted = [(s, p) for s, at in zip(samples, positions, strict=True) for p in at]
    assert all(len(states[layer]) == len(wanted) for layer in LAYERS)
    for row, (sample, position) in enumerate(wanted):
        expected = states_alone(engine, sample)
        for layer in LAYERS:
            torch.testing.assert_close(states[layer][row], expected[layer][0, position], **EXACT)


def test_read_states_of_nothing(engine, samples):
    extractor = plain_extractor(engine)
    sequences = [ids_of(s) for s in samples[:2]]
    for chosen, positions in (([], []), (sequences, [[], []])):
        states = read_states(
            engine, extractor, sequences=chosen, positions=positions, layers=LAYERS, budget=50
        )
        assert all(states[layer].shape == (0, 32) for layer in LAYERS)


def test_read_states_stops_at_the_last_position(engine, samples):
    """What stands behind it costs nothing, so it is not computed."""
    longest = max(samples, key=lambda s: s.n_tokens)
    with forwards(engine) as shapes:
        read_states(
            engine,
            plain_extractor(engine),
            sequences=[ids_of(longest)],
            positions=[[1, 3]],
            layers=["final"],
            budget=100,
        )
    assert shapes == [(1, 4)]


def test_neighbouring_positions_differ(engine, samples):
    """Else the tests above would not see an index that is off by one."""
    for sample in samples:
        logprobs = alone(engine, sample)
        assert len(logprobs) < 2 or (logprobs[1:] - logprobs[:-1]).abs().min() > 1e-4
        for layer in LAYERS:
            state = states_alone(engine, sample)[layer][0]
            repeated = torch.tensor(ids_of(sample))[1:] == torch.tensor(ids_of(sample))[:-1]
            distance = (state[1:] - state[:-1]).norm(dim=-1)
            assert distance[~repeated].min() > 1e-2


class WeighingWorld(World):
    """One rank that notes how many bytes it would send to the others."""

    sent: ClassVar[list[int]] = []

    def gather(self, value):
        self.sent.append(len(pickle.dumps(value)))
        return [value]


def test_ranks_send_their_rows_and_not_the_arrays_they_were_cut_from(samples):
    engine = PlainEngine(build_policy(), WeighingWorld(0, 1, torch.device("cpu")))
    many = [replace(sample, sample=n) for n in range(5) for sample in samples]
    score(engine, many, budget=2**20)
    read_states(
        engine,
        plain_extractor(engine),
        sequences=[ids_of(s) for s in many],
        positions=[[1]] * len(many),
        layers=["2"],
        budget=2**20,
    )
    logprobs, _, states = engine.world.sent
    around = 600 * len(many)  # of each tensor
    assert logprobs < 4 * sum(len(sample.response_ids) for sample in many) + around
    assert states < 4 * 32 * len(many) + around
