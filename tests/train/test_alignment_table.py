"""What the alignment's gradient costs and says: rows that are read again, and whose gradient is logged."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from training import (
    PlainEngine,
    build_batch,
    build_config,
    build_policy,
    build_samples,
    plain_extractor,
)

from geomrl.train.update import optimiser_step
from geomrl.train.world import World

LONG = 30


@contextmanager
def rows_read_again(policy):
    """The rows of every forward without gradient in the block."""
    rows = []
    embed = policy.model.get_input_embeddings()

    def note(module, inputs, output):
        if not torch.is_grad_enabled():
            rows.append(len(inputs[0]))

    handle = embed.register_forward_hook(note)
    yield rows
    handle.remove()


def one_long_rollout():
    """Four groups of four, of which the second holds a rollout too long for its micro-batch."""
    samples = build_samples(shortest=12, longest=12)
    long = replace(
        samples[4],
        response_ids=(samples[4].response_ids * 3)[:LONG],
        logprobs=(samples[4].logprobs * 3)[:LONG],
    )
    return [*samples[:4], long, *samples[5:]]


def step(samples, *, weight=0.7, ratio=0.3, micro_batch=80, **alignment):
    config = build_config(
        alignment=alignment, micro_batch={"tokens": micro_batch, "keep_groups": True}
    )
    engine = PlainEngine(build_policy(torch.float64), World(0, 1, torch.device("cpu")))
    batch = build_batch(samples, config, ratio=ratio)
    with rows_read_again(engine.policy) as rows:
        result = optimiser_step(
            engine, plain_extractor(engine), batch, config, learning_rate=0.0, weight=weight
        )
    return result.metrics, sum(rows)


def test_one_long_rollout_costs_its_own_group_a_forward_and_no_other():
    _, none = step(build_samples(shortest=12, longest=12))
    _, some = step(one_long_rollout())
    _, with_wrong = step(one_long_rollout(), kind="contrastive_wrong")
    _, every = step(one_long_rollout(), table="refresh")
    assert none == 0
    assert some == 2  # one has no anchor, and the wrong one does not enter the loss
    assert with_wrong == 3
    assert every == 14  # two of sixteen have no anchor


def test_a_group_that_has_no_loss_is_not_read_again():
    samples = one_long_rollout()
    samples = [replace(s, verdict="wrong") if s.group == 1 else s for s in samples]
    metrics, rows = step(samples)
    assert metrics["align/eligible"] == 2
    assert rows == 0


@pytest.mark.parametrize("layers", [["final"], ["1"], ["final", "1"], ["0", "1", "2", "final"]])
def test_the_policy_gradient_that_is_logged_holds_none_of_the_alignment(layers):
    """With all advantages 0 the policy's loss has no gradient anywhere."""
    samples = [replace(sample, advantage=0.0) for sample in build_samples()]
    metrics, _ = step(samples, layers=layers)
    assert metrics["grad_norm/policy"] == pytest.approx(0, abs=1e-12)
    assert metrics["grad_norm/align"] > 0.01


def test_it_is_measured_at_the_highest_of_the_layers_whatever_is_aligned_below():
    alone, both = (step(build_samples(), layers=ls)[0] for ls in (["final"], ["final", "1"]))
    assert both["grad_norm/policy"] == pytest.approx(alone["grad_norm/policy"], rel=1e-9)
    # The loss is the layers' mean, so half of the weight is the last one's.
    assert both["grad_norm/align"] == pytest.approx(alone["grad_norm/align"] / 2, rel=1e-9)
    assert both["grad_norm/align_unit"] > both["grad_norm/align"] / 0.7
