"""Rewards, advantages and the policy loss against plain Python, and under every partition."""

import math
import statistics

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from geomrl.errors import GeomrlError
from geomrl.train.advantage import group_advantages, overlong_penalty, reward
from geomrl.train.dapo import (
    SUMMED,
    importance_weights,
    policy_loss,
    token_means,
    token_weights,
)
from geomrl.train.sections import DapoConfig

NUMBER = st.floats(-3, 3)
CLIPS = {"clip_low": 0.2, "clip_high": 0.28}


# Rewards and advantages.


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-3, 3), st.floats(-2, 2).map(lambda x: round(x, 3))),
        min_size=1,
        max_size=24,
    ),
    st.booleans(),
)
def test_advantages_against_plain_python(rows, std):
    group, rewards = zip(*rows, strict=True)
    expected = []
    for label, value in rows:
        mine = [r for g, r in rows if g == label]
        if len(set(mine)) == 1:
            expected.append(0.0)
            continue
        scale = statistics.stdev(mine) + 1e-6 if std else 1.0
        expected.append((value - statistics.fmean(mine)) / scale)
    found = group_advantages(
        torch.tensor(rewards, dtype=torch.float64), torch.tensor(group), std=std
    )
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(st.floats(-1e3, 1e3), st.integers(1, 40), st.booleans(), st.sampled_from([32, 64]))
def test_equal_rewards_give_exactly_nothing(value, n, std, bits):
    dtype = {32: torch.float32, 64: torch.float64}[bits]
    rewards = torch.full((n,), value, dtype=dtype)
    found = group_advantages(
        torch.cat([rewards, torch.tensor([1.0, 2.0], dtype=dtype)]),
        torch.tensor([4] * n + [9, 9]),
        std=std,
    )
    assert found.dtype == dtype
    assert (found[:n] == 0).all()
    assert (found[n:] != 0).all()


def test_advantages_of_a_worked_group():
    # Three of four wrong: mean -0.5, Bessel's deviation 1.
    rewards = torch.tensor([1.0, -1.0, -1.0, -1.0], dtype=torch.float64)
    found = group_advantages(rewards, torch.zeros(4, dtype=torch.long), std=True)
    assert found.tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], rel=2e-6)
    assert group_advantages(rewards[:0], torch.zeros(0, dtype=torch.long), std=True).numel() == 0


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 1200))
def test_overlong_penalty_against_the_paper(max_tokens, buffer, length):
    assume(buffer <= max_tokens)
    start = max_tokens - buffer
    if length <= start:
        expected = 0.0
    elif length <= max_tokens:
        expected = (start - length) / buffer
    else:
        expected = -1.0
    assert overlong_penalty(length, max_tokens, buffer) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("verdict", "length", "buffer", "expected"),
    [
        ("correct", 100, None, 2.0),
        ("wrong", 100, None, -0.5),
        ("no_answer", 100, 20, -1.5),
        ("timeout", 80, 20, -0.5),
        ("correct", 95, 20, 1.25),
    ],
)
def test_rewards_follow_the_verdict_and_the_length(verdict, length, buffer, expected):
    dapo = DapoConfig(reward_correct=2.0, reward_wrong=-0.5, overlong_buffer=buffer)
    assert reward(verdict, length, dapo, max_tokens=100) == expected


# The loss.


def plain_loss(row, weight, *, clip_low, clip_high, dual_clip, kl):
    """One token's loss, its derivative by the new log-probability, and which clips are active."""
    new, old, advantage, importance, reference = row
    ratio = math.exp(new - old)
    low, high = 1 - clip_low, 1 + clip_high
    clipped = min(max(ratio, low), high)
    value = max(-advantage * ratio, -advantage * clipped)
    active = set()
    if advantage > 0 and ratio > high:
        active.add("clip/high")
    if advantage < 0 and ratio < low:
        active.add("clip/low")
    if advantage < 0 and dual_clip is not None and -dual_clip * advantage < value:
        value = -dual_clip * advantage
        active.add("clip/dual")
    slope = 0.0 if active else -advantage * ratio
    quotient = math.exp(reference - new)
    divergence = quotient - (reference - new) - 1
    loss = weight * (importance * value + kl * divergence)
    return loss, weight * (importance * slope + kl * (1 - quotient)), active


TOKENS = st.lists(
    st.tuples(NUMBER, NUMBER, NUMBER, st.floats(0, 2), NUMBER), min_size=1, max_size=20
)
OPTIONS = st.fixed_dictionaries(
    {
        "clip_low": st.floats(0.05, 0.5),
        "clip_high": st.floats(0.05, 0.5),
        "dual_clip": st.one_of(st.none(), st.floats(1.5, 10)),
        "kl": st.sampled_from([0.0, 0.3]),
    }
)


def columns(rows, dtype=torch.float64):
    return [torch.tensor(column, dtype=dtype) for column in zip(*rows, strict=True)]


def run(rows, weights, options):
    new, old, advantage, importance, reference = columns(rows)
    new.requires_grad_(True)
    found = policy_loss(
        new, old, advantage, weights, importance=importance, ref_logprobs=reference, **options
    )
    found.loss.backward()
    return found, new.grad


def away_from_edges(rows, options):
    """No ratio at a clip's edge, where a derivative has two values."""
    edges = [1 - options["clip_low"], 1 + options["clip_high"], options["dual_clip"] or 2.0]
    return all(
        abs(math.exp(row[0] - row[1]) - edge) > 1e-9 for row in rows for edge in edges
    ) and all(abs(row[2]) > 1e-9 or row[2] == 0 for row in rows)


@settings(deadline=None)
@given(TOKENS, OPTIONS, st.data())
def test_loss_gradient_and_clips_against_plain_python(rows, options, data):
    assume(away_from_edges(rows, options))
    weights = data.draw(st.lists(st.floats(0, 1), min_size=len(rows), max_size=len(rows)))
    found, gradient = run(rows, torch.tensor(weights, dtype=torch.float64), options)
    expected = [plain_loss(row, w, **options) for row, w in zip(rows, weights, strict=True)]
    assert found.loss.dtype == torch.float64
    assert found.loss.item() == pytest.approx(sum(e[0] for e in expected), rel=1e-12, abs=1e-12)
    assert gradient.tolist() == pytest.approx([e[1] for e in expected], rel=1e-12, abs=1e-12)
    for name in ("clip/low", "clip/high", "clip/dual"):
        assert float(found.metrics[name]) == sum(name in e[2] for e in expected)
    ratios = [math.exp(row[0] - row[1]) for row in rows]
    assert float(found.ratio_max) == pytest.approx(max(ratios))
    logged = token_means(found.metrics)
    assert logged["tokens"] == len(rows)
    assert logged["ratio/mean"] == pytest.approx(statistics.fmean(ratios))
    assert logged["ratio/log_abs"] == pytest.approx(
        statistics.fmean(abs(row[0] - row[1]) for row in rows)
    )
    assert logged["kl/approx"] == pytest.approx(
        statistics.fmean(r - 1 - math.log(r) for r in ratios), abs=1e-12
    )
    assert logged["importance/mean"] == pytest.approx(statistics.fmean(row[3] for row in rows))
    assert logged["loss/policy"] + options["kl"] * logged["loss/kl"] == pytest.approx(
        found.loss.item(), abs=1e-12
    )


@settings(deadline=None)
@given(TOKENS, OPTIONS, st.data())
def test_any_partition_adds_up_to_the_whole(rows, options, data):
    """Micro-batches and ranks: any parts, empty ones among them, in any order of tokens."""
    homes = data.draw(st.lists(st.integers(0, 4), min_size=len(rows), max_size=len(rows)))
    weights = torch.linspace(0.1, 1, len(rows), dtype=torch.float64)
    whole, gradient = run(rows, weights, options)
    new, old, advantage, importance, reference = columns(rows)
    new.requires_grad_(True)
    total, sums, largest = 0.0, {}, 0.0
    for part in range(5):
        of = torch.tensor([i for i, home in enumerate(homes) if home == part], dtype=torch.long)
        share = policy_loss(
            new[of], old[of], advantage[of], weights[of],
            importance=importance[of], ref_logprobs=reference[of], **options,
        )  # fmt: skip
        share.loss.backward()  # also where the part is empty: every rank runs the same backward
        total += share.loss.item()
        sums = {name: sums.get(name, 0) + float(v) for name, v in share.metrics.items()}
        largest = max(largest, float(share.ratio_max))
    assert total == pytest.approx(whole.loss.item(), rel=1e-12, abs=1e-12)
    torch.testing.assert_close(new.grad, gradient, rtol=1e-12, atol=1e-14)
    assert token_means(sums) == pytest.approx(token_means(whole.metrics), rel=1e-12, abs=1e-12)
    assert largest == float(whole.ratio_max)


LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


@settings(deadline=None)
@given(LENGTHS, st.data())
def test_normalisations_against_their_definitions(lengths, data):
    """Each as its paper writes it, on padded-free lists of per-token losses."""
    losses = [data.draw(st.lists(NUMBER, min_size=n, max_size=n)) for n in lengths]
    n, tokens, budget = len(lengths), sum(lengths), 12
    papers = {
        "token": sum(map(sum, losses)) / tokens,
        "sequence": sum(sum(row) / len(row) for row in losses) / n,
        "constant": sum(map(sum, losses)) / (n * budget),
    }
    for name, expected in papers.items():
        weights = token_weights(
            torch.tensor(lengths), name, total_tokens=tokens, total_rollouts=n, max_tokens=budget
        )
        found = sum(w * sum(row) for w, row in zip(weights.tolist(), losses, strict=True))
        assert found == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(LENGTHS, st.data())
def test_weights_do_not_depend_on_how_rollouts_are_dealt(lengths, data):
    homes = data.draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths)))
    totals = {"total_tokens": sum(lengths), "total_rollouts": len(lengths), "max_tokens": 12}
    for name in ("token", "sequence", "constant"):
        whole = token_weights(torch.tensor(lengths), name, **totals)
        for rank in range(3):
            mine = [i for i, home in enumerate(homes) if home == rank]
            share = token_weights(
                torch.tensor([lengths[i] for i in mine], dtype=torch.long), name, **totals
            )
            assert share.tolist() == whole[mine].tolist()


def test_a_mean_of_means_would_be_another_loss():
    """The case that the weights are for: one long rollout alone, three short ones together."""
    lengths, advantages = [9, 1, 1, 1], [1.0, -1.0, -1.0, -1.0]

    def share(rows, of):
        """The loss of some rollouts, normalised over the rollouts `of`."""
        size = torch.tensor([lengths[i] for i in rows])
        weight = token_weights(
            size,
            "token",
            total_tokens=sum(lengths[i] for i in of),
            total_rollouts=len(of),
            max_tokens=9,
        ).repeat_interleave(size)
        advantage = torch.tensor([advantages[i] for i in rows]).repeat_interleave(size)
        zero = torch.zeros_like(weight)
        return policy_loss(zero, zero, advantage, weight, **CLIPS).loss.item()

    step, parts = range(4), ([0], [1, 2, 3])
    assert sum(share(rows, step) for rows in parts) == pytest.approx(-(9 - 3) / 12)
    assert sum(share(rows, rows) for rows in parts) / 2 == pytest.approx(0)  # the well-known bug


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "flows"),
    [
        (1.0, 1.0, -1.0, True),
        (1.27, 1.0, -1.27, True),  # DAPO's upper bound is further than the lower
        (1.5, 1.0, -1.28, False),
        (0.5, 1.0, -0.5, True),  # a good token that became rarer is always pulled back
        (0.5, -1.0, 0.8, False),
        (1.5, -1.0, 1.5, True),
        (12.0, -1.0, 10.0, False),  # the dual clip
        (12.0, 1.0, -1.28, False),
        (12.0, 0.0, 0.0, False),
    ],
)
def test_each_corner_of_the_clip(ratio, advantage, loss, flows):
    new = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    found = policy_loss(new, 0 * one, advantage * one, one, dual_clip=10.0, **CLIPS)
    found.loss.backward()
    assert found.loss.item() == pytest.approx(loss)
    assert float(new.grad) == pytest.approx(loss if flows else 0.0)
    clips = [float(found.metrics[f"clip/{name}"]) for name in ("low", "high", "dual")]
    assert sum(clips) == (0 if flows or advantage == 0 else 1)


def test_the_loss_passes_gradcheck():
    generator = torch.Generator().manual_seed(3)
    new, old, reference = (
        torch.randn(12, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    advantage = torch.randn(12, generator=generator, dtype=torch.float64)
    weight = torch.rand(12, generator=generator, dtype=torch.float64)

    def loss(logprobs):
        return policy_loss(
            logprobs, old, advantage, weight, dual_clip=3.0, kl=0.2, ref_logprobs=reference, **CLIPS
        ).loss

    assert torch.autograd.gradcheck(loss, new.requires_grad_(True))


def test_importance_is_a_constant_factor():
    trainer = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    engine = torch.tensor([-1.0, -1.0, -3.0], requires_grad=True)
    weights = importance_weights(trainer, engine, cap=2.0)
    assert not weights.requires_grad
    assert weights.tolist() == pytest.approx([1.0, math.exp(-1), 2.0])
    new, one = torch.zeros(3, requires_grad=True), torch.ones(3)
    policy_loss(new, 0 * one, one, one, importance=weights, **CLIPS).loss.backward()
    assert new.grad.tolist() == pytest.approx((-weights).tolist())
    # It corrects the engine's draws, and only the policy's part is an expectation over these.
    new.grad = None
    policy_loss(
        new, 0 * one, 0 * one, one, importance=weights, kl=1.0, ref_logprobs=one, **CLIPS
    ).loss.backward()
    assert new.grad.tolist() == pytest.approx([1 - math.e] * 3)


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(0, 10**6))
def test_the_divergence_is_estimated_without_bias(n, seed):
    """Schulman's estimate: its mean over the drawing distribution is the divergence itself."""
    generator = torch.Generator().manual_seed(seed)
    p, q = torch.randn(2, n, generator=generator, dtype=torch.float64).log_softmax(-1)
    exact = float((p.exp() * (p - q)).sum())
    zero = torch.zeros(n, dtype=torch.float64)
    to_reference = policy_loss(p, p, zero, p.exp(), kl=1.0, ref_logprobs=q, **CLIPS)
    assert to_reference.loss.item() == pytest.approx(exact, abs=1e-12)
    terms = [
        float(policy_loss(q[i : i + 1], p[i : i + 1], zero[:1], zero[:1], **CLIPS).metrics["kl/approx"])
        for i in range(n)
    ]  # fmt: skip
    assert min(terms) >= 0
    assert sum(a * b for a, b in zip(p.exp().tolist(), terms, strict=True)) == pytest.approx(exact)


def test_extreme_ratios_stay_finite():
    new = torch.tensor([0.0, 0.0, -500.0, 0.0], requires_grad=True)
    old = torch.tensor([-500.0, -500.0, 0.0, -500.0])
    advantage = torch.tensor([1.0, -1.0, 1.0, 0.0])
    found = policy_loss(
        new, old, advantage, torch.ones(4), dual_clip=10.0, kl=0.1, ref_logprobs=old, **CLIPS
    )
    found.loss.backward()
    assert torch.isfinite(found.loss)
    assert torch.isfinite(new.grad).all()
    assert float(found.metrics["clip/dual"]) == 1


def test_a_nan_is_not_hidden():
    new, one = torch.tensor([float("nan"), 0.0]), torch.ones(2)
    found = policy_loss(new, 0 * one, one, one, dual_clip=10.0, **CLIPS)
    assert torch.isnan(found.loss)
    assert torch.isnan(found.ratio_max)


def test_half_precision_is_computed_in_single():
    new = torch.tensor([-1.0, -2.0], dtype=torch.bfloat16, requires_grad=True)
    one = torch.ones(2)
    weight = torch.full((2,), 1 / 3, dtype=torch.float64)
    found = policy_loss(new, torch.tensor([-1.1, -2.1]), one, weight, **CLIPS)
    assert found.loss.dtype == torch.float32
    assert found.loss.item() == pytest.approx(-2 / 3 * math.exp(0.1), rel=1e-6)


def test_an_empty_micro_batch_is_a_zero_in_the_graph():
    none, logprobs = torch.zeros(0), torch.zeros(3, requires_grad=True)
    found = policy_loss(logprobs[:0], none, none, none, kl=0.1, ref_logprobs=none, **CLIPS)
    found.loss.backward()
    assert found.loss.item() == 0
    assert logprobs.grad.tolist() == [0, 0, 0]
    assert token_means(found.metrics) == dict.fromkeys(found.metrics, 0.0)
    assert set(SUMMED) <= set(found.metrics)


def test_wrong_inputs_are_named():
    three, one = torch.zeros(3), torch.zeros(3, 1)
    with pytest.raises(GeomrlError, match=r"advantages has shape \(3, 1\), logprobs \(3,\)"):
        policy_loss(three, three, one, three, **CLIPS)
    with pytest.raises(GeomrlError, match=r"kl 0.01 needs ref_logprobs"):
        policy_loss(three, three, three, three, kl=0.01, **CLIPS)
