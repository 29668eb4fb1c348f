"""An optimiser step in parts: the gradient of the whole table, whatever the split and the ranks."""

import threading

import pytest
import torch
from alignment_tables import build_table

from geomrl.errors import GeomrlError
from geomrl.integrations.alignment import AlignmentStep
from geomrl.train.alignment import KINDS, hidden_align
from geomrl.train.gauges import alignment_metrics
from geomrl.train.negative_controls import relabel
from geomrl.train.sections import AlignmentConfig
from geomrl.train.world import World

WEIGHT = 0.7
INPUTS, GROUP, CORRECT = build_table(groups=6)


class Thread(World):
    """A rank that is a thread of this process."""

    def gather(self, value):
        board, barrier = self.objects
        board[self.rank] = value
        barrier.wait(timeout=60)
        found = list(board)
        barrier.wait(timeout=60)
        return found


def ranks(n):
    objects = [None] * n, threading.Barrier(n)
    return [Thread(rank, n, torch.device("cpu"), objects=objects) for rank in range(n)]


def run_ranks(worlds, job):
    """What each rank's call of `job` returns."""
    found, failures = {}, []

    def run(world):
        try:
            found[world.rank] = job(world)
        except Exception as error:  # noqa: BLE001  raised again below, in the test's thread
            failures.append(error)
            world.objects[1].abort()

    threads = [threading.Thread(target=run, args=(world,)) for world in worlds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [found[world.rank] for world in worlds]


def policy(seed=0):
    draw = torch.Generator().manual_seed(seed)
    weights = torch.randn(2, INPUTS.shape[1], 5, generator=draw, dtype=torch.float64)
    return weights.requires_grad_()


def states_of(weights, rows):
    return {
        "1": INPUTS[rows] @ weights[0],
        "final": (INPUTS[rows] @ weights[0]).tanh() @ weights[1].T,
    }


def settings(**changed):
    return AlignmentConfig(weight=WEIGHT, **changed)


def one_rank(world, parts, weight=WEIGHT, **changed):
    """A rank's gradient and figures from an optimiser step of several micro-batches."""
    weights = policy()
    mine = torch.arange(len(GROUP))[world.rank :: world.size]
    step = AlignmentStep(
        GROUP[mine], CORRECT[mine], settings(**changed), weight=weight, seed=5, world=world,
        n_rollouts=len(mine) + 2,
    )  # fmt: skip
    if parts > 1:
        step.give(states_of(weights.detach(), mine))
    for rows in torch.randperm(len(mine), generator=torch.Generator().manual_seed(3)).chunk(parts):
        loss = weights.sum() * 0.0
        # nnsight, once imported, replaces Tensor.backward by one that reads the caller's source, and
        # that fails now and then in threads.
        torch.autograd.backward(step.add_to(loss, states_of(weights, mine[rows]), rows))
    return weights.grad, step.finish()


def reference(kind="cosine", rollouts="correct", order=None):
    """The plain loss of the whole table; `order`: the rows in the order of the ranks."""
    order = torch.arange(len(GROUP)) if order is None else order
    weights = policy()
    group, correct = relabel(rollouts, GROUP[order], CORRECT[order], 5)
    found = states_of(weights, order).values()
    loss = torch.stack([hidden_align(states, group, correct, kind) for states in found]).mean()
    loss.backward()
    return weights.grad, float(loss.detach())


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_whole_table(kind, world):
    wanted, loss = reference(kind)
    for parts in (1, 2, 4):
        done = run_ranks(ranks(world), lambda w: one_rank(w, parts, kind=kind))  # noqa: B023
        gradient = sum(gradient for gradient, _ in done) / world  # as DDP averages them
        torch.testing.assert_close(gradient, WEIGHT * wanted, rtol=1e-9, atol=1e-12)
        assert len({repr(metrics) for _, metrics in done}) == 1  # also where one is NaN
        assert done[0][1]["loss/align"] == pytest.approx(loss)


@pytest.mark.parametrize("rollouts", ["wrong", "shuffled_correct", "shuffled_groups"])
def test_the_controls_are_those_of_geomrl(rollouts):
    order = torch.cat([torch.arange(len(GROUP))[rank::2] for rank in range(2)])
    wanted, _ = reference(rollouts=rollouts, order=order)
    done = run_ranks(ranks(2), lambda w: one_rank(w, 2, rollouts=rollouts))
    gradient = (done[0][0] + done[1][0]) / 2
    torch.testing.assert_close(gradient, WEIGHT * wanted, rtol=1e-9, atol=1e-12)


def test_the_figures_are_those_of_geomrl():
    (_, metrics), (_, unweighted) = one_rank(ranks(1)[0], 2), one_rank(ranks(1)[0], 2, weight=0.0)
    gauges = alignment_metrics(
        states_of(policy(), torch.arange(len(GROUP)))["final"], GROUP, CORRECT
    )
    wanted = gauges.as_dict()
    assert metrics["align/eligible"] == wanted.pop("eligible")
    for name, value in wanted.items():
        assert metrics[f"align/{name}"] == pytest.approx(value, nan_ok=True), name
    assert metrics["align/without_anchor"] == 2
    assert metrics["align/aligned"] == CORRECT.sum()
    assert repr(unweighted) == repr(metrics | {"weight/align": 0.0})


def test_at_weight_zero_the_loss_is_returned_as_it_is():
    step = AlignmentStep(GROUP, CORRECT, settings(), weight=0.0)
    rows = torch.arange(len(GROUP))
    loss = torch.ones((), requires_grad=True)
    assert step.add_to(loss, states_of(policy(), rows), rows) is loss


def test_the_value_of_the_loss_stays():
    step = AlignmentStep(GROUP, CORRECT, settings(kind="mse"), weight=9.0)
    rows = torch.arange(len(GROUP))
    loss = step.add_to(torch.tensor(3.0), states_of(policy(), rows), rows)
    assert float(loss.detach()) == 3.0


def test_a_rank_without_rows_takes_part():
    def job(world):
        rows = torch.arange(len(GROUP) if world.rank == 0 else 0)
        weights = policy()
        step = AlignmentStep(GROUP[rows], CORRECT[rows], settings(), weight=WEIGHT, world=world)
        torch.autograd.backward(step.add_to(weights.sum() * 0, states_of(weights, rows), rows))
        return weights.grad, step.finish()

    (first, metrics), (second, same) = run_ranks(ranks(2), job)
    torch.testing.assert_close(first / 2, WEIGHT * reference()[0])
    assert not second.any()
    assert repr(metrics) == repr(same)


def test_no_rows_at_all_are_no_loss():
    none = torch.arange(0)
    weights = policy()
    step = AlignmentStep(GROUP[none], CORRECT[none], settings(), weight=WEIGHT, n_rollouts=3)
    step.add_to(weights.sum() * 0, states_of(weights, none), none).backward()
    metrics = step.finish()
    assert not weights.grad.any()
    assert (metrics["align/eligible"], metrics["align/rollouts"]) == (0, 0)
    assert metrics["align/without_anchor"] == 3


def test_half_precision_states_get_gradients_of_float32():
    states = INPUTS.bfloat16().requires_grad_()
    step = AlignmentStep(GROUP, CORRECT, settings(), weight=1.0)
    step.add_to(torch.zeros(()), {"final": states}, torch.arange(len(GROUP))).backward()
    wide = states.detach().float().requires_grad_()
    hidden_align(wide, GROUP, CORRECT).backward()
    assert torch.equal(states.grad, wide.grad.bfloat16())


def started(given=True):
    step = AlignmentStep(GROUP, CORRECT, settings(), weight=WEIGHT)
    if given:
        step.give(states_of(policy().detach(), torch.arange(len(GROUP))))
    return step


def test_what_is_not_exact_is_refused():
    some, zero = torch.arange(4), torch.zeros(())
    with pytest.raises(GeomrlError, match="give the table before"):
        started(given=False).add_to(zero, states_of(policy(), some), some)
    with pytest.raises(GeomrlError, match=r"dropout.*turn it off"):
        started().add_to(zero, states_of(policy(seed=1), some), some)
    with pytest.raises(GeomrlError, match="4 states of layer 1 for"):
        started().give(states_of(policy(), some))
    unfinished = started()
    unfinished.add_to(zero, states_of(policy(), some), some)
    with pytest.raises(GeomrlError, match="every rollout of the step once"):
        unfinished.finish()


@pytest.mark.parametrize("factor", [0.25, 2.0])
def test_a_loss_that_is_scaled_on_its_way_is_refused(factor):
    rows = torch.arange(len(GROUP))
    loss = started().add_to(torch.zeros(()), states_of(policy(), rows), rows)
    with pytest.raises(GeomrlError, match=f"multiplied by {factor:g}"):
        (loss * factor).backward()


def test_a_gradient_scaler_is_known():
    rows = torch.arange(len(GROUP))
    step = AlignmentStep(GROUP, CORRECT, settings(), weight=WEIGHT, loss_scale=lambda: 1024.0)
    weights = policy()
    (1024 * step.add_to(torch.zeros(()), states_of(weights, rows), rows)).backward()
    torch.testing.assert_close(weights.grad, 1024 * WEIGHT * reference()[0])
