"""The alignment loss and its gradient cache against double loops and finite differences."""

import doctest
import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from alignment_tables import build_table
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from geomrl.errors import GeomrlError
from geomrl.train import alignment, loss_functions
from geomrl.train.alignment import GROUP_LOCAL, KINDS, eligible_groups, hidden_align
from geomrl.train.gradient_cache import cached_gradients, surrogate
from geomrl.train.losses import LOSSES
from geomrl.train.sections import AlignmentConfig

SCALE_INVARIANT = tuple(kind for kind in KINDS if kind not in ("mse", "l1_detached", "centred"))
TEMPERATURE = 0.3


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def naive_loss(states, group, correct, kind):
    """The definitions, pair by pair."""
    h, group, correct = states.numpy(), group.numpy(), correct.numpy()
    right = {g: np.flatnonzero((group == g) & correct).tolist() for g in np.unique(group)}
    wrong = {g: np.flatnonzero((group == g) & ~correct).tolist() for g in np.unique(group)}
    losses = []
    for g, own in right.items():
        others = [i for q, rows in right.items() if q != g for i in rows]
        negatives = {
            "contrastive_wrong": wrong[g],
            "contrastive_problems": others,
        }.get(kind, [i for i in range(len(h)) if i not in own])
        if len(own) < 2 or (kind == "contrastive_wrong" and not wrong[g]):
            continue
        if kind == "centred":
            means = [h[group == q].mean(axis=0) for q in right if q != g]
            away = h - np.mean(means, axis=0)
            values = [1 - cosine(away[i], away[j]) for i, j in itertools.combinations(own, 2)]
        elif kind == "cosine":
            values = [1 - cosine(h[i], h[j]) for i, j in itertools.combinations(own, 2)]
        elif kind == "repel":
            values = [cosine(h[i], h[j]) for i, j in itertools.combinations(own, 2)]
        elif kind == "l1_detached":
            values = [np.abs(h[i] - h[j]).mean() for i, j in itertools.permutations(own, 2)]
        elif kind == "mse":
            values = [((h[i] - h[j]) ** 2).mean() for i, j in itertools.combinations(own, 2)]
        elif kind == "leave_one_out":
            values = [
                1 - cosine(h[i], sum(h[j] / np.linalg.norm(h[j]) for j in own if j != i))
                for i in own
            ]
        elif kind == "relational":
            centroids = [
                sum(h[i] / np.linalg.norm(h[i]) for i in rows)
                for q, rows in right.items()
                if q != g and rows
            ]
            values = [
                (cosine(h[i], c) - cosine(h[j], c)) ** 2
                for i, j in itertools.combinations(own, 2)
                for c in centroids
            ]
        else:
            values = []
            for i in own:
                near = {j: math.exp(cosine(h[i], h[j]) / TEMPERATURE) for j in [*own, *negatives]}
                below = sum(near[j] for j in [*own, *negatives] if j != i)
                pulls = [near[j] / below for j in own if j != i]
                soft = kind == "soft_nn"
                values += [
                    -math.log(sum(pulls)) if soft else np.mean([-math.log(p) for p in pulls])
                ]
        losses.append(np.mean(values))
    return np.mean(losses)


def loss(states, group, correct, kind):
    return hidden_align(states, group, correct, kind, temperature=TEMPERATURE)


def gradient(states, group, correct, kind):
    leaf = states.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf, group, correct, kind), leaf)[0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_loss_equals_its_definition_pair_by_pair(kind, seed):
    table = build_table(seed)
    assert loss(*table, kind).item() == pytest.approx(naive_loss(*table, kind), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_that_of_finite_differences(kind):
    states, group, correct = build_table(groups=4, samples=4, hidden=3)
    if kind == "l1_detached":  # each is teacher in turn, so half of the difference is not passed on
        signs = (states[:, None] - states).sign()
        same = group[:, None].eq(group) & correct[:, None] & correct
        n = same.sum(1).clamp_min(2).double()
        expected = (signs * same[:, :, None]).sum(1)
        expected /= (n * (n - 1))[:, None] * states.shape[1] * eligible_groups(group, correct, kind)
        torch.testing.assert_close(gradient(states, group, correct, kind), expected)
        return
    leaf = states.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, group, correct, kind), leaf)


def test_repel_pushes_exactly_where_the_default_pulls():
    table = build_table()
    pull, push = (gradient(*table, kind) for kind in ("cosine", "repel"))
    assert torch.equal(push, -pull)
    assert (loss(*table, "repel") + loss(*table, "cosine")).item() == pytest.approx(1)


def test_a_teacher_gets_no_gradient():
    # The second is between the two others: they pull it both ways, and it pulls each of them.
    states = torch.tensor([[0.0, 0], [1, 1], [5, 2]], dtype=torch.float64)
    everyone = torch.zeros(3), torch.ones(3, dtype=bool)
    assert loss(states, *everyone, "l1_detached").item() == pytest.approx((2 + 7 + 5) / 3 / 2)
    pulled = torch.tensor([[-1.0, -1], [0, 0], [1, 1]], dtype=torch.float64) / 6
    torch.testing.assert_close(gradient(states, *everyone, "l1_detached"), pulled)


def test_soft_nn_wants_one_near_positive_and_supcon_all():
    # Cosines of the first with the others: 1 and 0 (correct), 0 (incorrect), at temperature 1.
    states = torch.tensor([[1.0, 0, 0], [2, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    group, correct = torch.tensor([0, 0, 0, 1]), torch.tensor([True, True, True, False])
    e = math.e
    near, far = math.log((e + 2) / (e + 1)), math.log(3 / 2)
    found = hidden_align(states, group, correct, "soft_nn", temperature=1.0)
    assert found.item() == pytest.approx((2 * near + far) / 3)
    near, far = math.log(e + 2) - 1 / 2, math.log(3)
    found = hidden_align(states, group, correct, "supcon", temperature=1.0)
    assert found.item() == pytest.approx((2 * near + far) / 3)


def test_two_unit_vectors_at_a_known_angle():
    angle = 0.7
    states = torch.tensor([[1.0, 0], [math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    labels = torch.tensor([0, 0]), torch.tensor([True, True])
    expected = 1 - math.cos(angle)
    for kind in ("cosine", "leave_one_out"):
        assert hidden_align(states, *labels, kind).item() == pytest.approx(expected)
    assert hidden_align(states, *labels, "mse").item() == pytest.approx(expected)  # 2 (1-cos) / 2


def test_contrast_with_one_orthogonal_negative():
    # Positives at cosine 1, a negative at cosine 0: log(1 + exp(-1 / temperature)) a rollout.
    states = torch.tensor([[2.0, 0], [3.0, 0], [0, 1.0]], dtype=torch.float64)
    correct = torch.tensor([True, True, False])
    found = hidden_align(states, torch.zeros(3), correct, "contrastive_wrong", temperature=0.5)
    assert found.item() == pytest.approx(math.log1p(math.exp(-2)))
    found = hidden_align(
        states, torch.tensor([0, 0, 1]), ~torch.zeros(3, dtype=bool), "contrastive_problems",
        temperature=0.5,
    )  # fmt: skip
    assert found.item() == pytest.approx(math.log1p(math.exp(-2)))


def test_relational_sees_only_what_other_problems_share():
    # Problem 1 lies on the first axis: problem 0 may spread along the others freely.
    states = torch.tensor([[0.6, 0.8, 0], [0.6, 0, 0.8], [2.0, 0, 0]], dtype=torch.float64)
    group, correct = torch.tensor([0, 0, 1]), torch.ones(3, dtype=bool)
    assert loss(states, group, correct, "relational").item() == pytest.approx(0, abs=1e-15)
    states[0] = torch.tensor([0.8, 0.6, 0])
    assert loss(states, group, correct, "relational").item() == pytest.approx(0.2**2)
    assert loss(states, group, correct, "cosine").item() == pytest.approx(1 - 0.48)


def test_normalised_mse_is_twice_the_cosine_loss():
    states, group, correct = build_table()
    unit = states / states.norm(dim=1, keepdim=True)
    mse = loss(unit, group, correct, "mse") * states.shape[1]  # our mse divides by hidden
    assert mse.item() == pytest.approx(2 * loss(states, group, correct, "cosine").item())


def test_the_plain_centroid_has_a_parallel_gradient():
    states, _, _ = build_table(groups=3)
    labels = torch.zeros(len(states)), torch.ones(len(states), dtype=bool)
    leaf = states.clone().requires_grad_()
    unit = leaf / leaf.norm(dim=1, keepdim=True)
    centroid = 1 - (unit @ torch.nn.functional.normalize(unit.mean(0), dim=0)).mean()
    assert centroid.item() == pytest.approx(1 - unit.sum(0).norm().item() / len(unit))
    (other,) = torch.autograd.grad(centroid, leaf)
    ratio = gradient(states, *labels, "cosine") / other
    assert ratio.min().item() > 0
    assert (ratio.max() / ratio.min()).item() == pytest.approx(1)


def test_leave_one_out_is_not_the_pairwise_loss_in_disguise():
    states, group, correct = build_table()
    one, other = (gradient(states, group, correct, k) for k in ("leave_one_out", "cosine"))
    assert torch.cosine_similarity(one.flatten(), other.flatten(), dim=0) < 0.99


def test_kinds_pull_in_different_directions():
    table = build_table(seed=2)
    kinds = [kind for kind in KINDS if kind != "repel"]
    gradients = torch.stack([gradient(*table, kind).flatten() for kind in kinds])
    unit = torch.nn.functional.normalize(gradients, dim=1)
    away = unit @ unit.T - torch.eye(len(kinds))
    assert away.abs().max() < 0.999


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 10**6), groups=st.integers(3, 7), scale=st.floats(0.01, 100))
@settings(max_examples=15, deadline=None)
def test_loss_is_blind_to_order_rotation_and_scale(kind, seed, groups, scale):
    states, group, correct = build_table(seed, groups=groups)
    found = loss(states, group, correct, kind).item()
    order = torch.tensor(np.random.default_rng(seed).permutation(len(states)))
    assert loss(states[order], group[order], correct[order], kind).item() == pytest.approx(found)
    turn = torch.tensor(ortho_group.rvs(4, random_state=seed))
    turned = loss(states @ turn, group, correct, kind).item()
    assert (turned == pytest.approx(found)) == (kind != "l1_detached")
    factor = {"mse": scale**2, "l1_detached": scale}.get(kind, 1)
    assert loss(scale * states, group, correct, kind).item() == pytest.approx(factor * found)
    if kind in SCALE_INVARIANT:
        lengths = torch.tensor(np.random.default_rng(seed).uniform(0.1, 10, (len(states), 1)))
        assert loss(lengths * states, group, correct, kind).item() == pytest.approx(found)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_group_local_kinds_and_only_they_may_be_split_by_group(kind, seed):
    states, group, correct = build_table(seed, groups=6)
    first = group.unsqueeze(1).eq(group.unique()[:3]).any(dim=1)
    parts = [(states[m], group[m], correct[m]) for m in (first, ~first)]
    weights = [eligible_groups(*part[1:], kind) for part in parts]
    split = sum(w * loss(*p, kind).item() for w, p in zip(weights, parts, strict=True))
    whole = loss(states, group, correct, kind).item() * eligible_groups(group, correct, kind)
    assert (split == pytest.approx(whole)) == (kind in GROUP_LOCAL)


def test_each_row_of_the_table_is_one_function_and_a_line_of_the_docs():
    functions = {
        name
        for name, found in vars(loss_functions).items()
        if callable(found) and found.__module__ == loss_functions.__name__ and name.islower()
    }
    assert functions - {"sorted_rows"} - {n for n in functions if n[0] == "_"} == set(LOSSES)
    docs = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    table = docs[docs.index("| `kind` |") :].split("\n\n")[0].splitlines()[2:]
    compared = {line.split("`")[1]: line.split(" | ")[-1].strip(" |") for line in table}
    assert set(compared) - {"FILE.py:FUNCTION"} == set(LOSSES)
    for name, loss in LOSSES.items():
        assert compared[name] == ("all groups" if loss.across_groups else "own group")
        assert AlignmentConfig(kind=name).kind == name


@pytest.mark.parametrize("kind", KINDS)
def test_the_temperature_matters_where_the_table_says(kind):
    warm, cold = (
        hidden_align(*build_table(), kind, temperature=temperature) for temperature in (0.1, 0.5)
    )
    assert bool(warm != cold) == LOSSES[kind].temperature


def test_moving_all_states_alike_earns_nothing_when_centred():
    states, group, correct = build_table()
    found = loss(states + 3.0, group, correct, "centred").item()
    assert found == pytest.approx(loss(states, group, correct, "centred").item())
    assert gradient(states, group, correct, "centred").sum(0).abs().max() < 1e-14
    assert gradient(states, group, correct, "cosine").sum(0).abs().max() > 1e-3


def test_eligible_groups_are_counted_by_kind():
    group = torch.tensor([5, 5, 5, 8, 8, 9])
    correct = torch.tensor([True, True, False, True, True, False])
    counts = {kind: eligible_groups(group, correct, kind) for kind in KINDS}
    assert counts == dict.fromkeys(KINDS, 2) | {"contrastive_wrong": 1}
    alone = {kind: eligible_groups(group[:3], correct[:3], kind) for kind in KINDS}
    assert alone == {kind: int(kind in GROUP_LOCAL) for kind in KINDS}
    with_wrong = group != 8  # another group, without a correct rollout: a centre, no centroid
    some = {kind: eligible_groups(group[with_wrong], correct[with_wrong], kind) for kind in KINDS}
    assert some == alone | {"supcon": 1, "soft_nn": 1, "centred": 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [0, 6])
def test_without_an_eligible_group_the_loss_is_a_zero_tied_to_the_graph(kind, rows):
    states = torch.full((rows, 3), torch.inf, requires_grad=True)
    group, correct = torch.arange(rows), torch.ones(rows, dtype=bool)
    found = hidden_align(states, group, correct, kind)
    found.backward()
    assert found.item() == 0
    assert states.grad is not None
    assert not states.grad.any()
    assert eligible_groups(group, correct, kind) == 0


DEGENERATE = {
    "all zero": torch.zeros(6, 3),
    "identical": torch.tensor([0.3, -0.2, 0.9]).repeat(6, 1),
    "one zero": torch.tensor([[0.0, 0, 0], [1, 2, 0], [2, 1, 1], [1, 0, 1], [3, 1, 0], [0, 1, 1]]),
    "opposite": torch.tensor(
        [[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 2, 0], [0, -1, 0], [0, 0, 1]]
    ),
    "tiny": torch.full((6, 3), 1e-30),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_states_have_a_modest_gradient(kind, case, dtype):
    states = DEGENERATE[case].to(dtype, copy=True).requires_grad_()
    group = torch.tensor([0, 0, 0, 1, 1, 1])
    correct = torch.tensor([True, True, True, True, True, False])
    found = hidden_align(states, group, correct, kind)
    found.backward()
    assert math.isfinite(found.item())
    assert states.grad.float().norm() < 100
    if case == "identical" and kind in ("cosine", "leave_one_out", "mse", "relational"):
        assert 0 <= found.item() < 1e-6
    if case in ("all zero", "tiny") and kind in ("cosine", "leave_one_out", "centred"):
        assert found.item() == pytest.approx(1)
        assert not states.grad.any()


def test_a_state_without_direction_has_cosine_zero():
    states, group, correct = build_table()
    index = int(torch.nonzero(correct & (group == 23))[0])
    states[index] = 0.0
    rows = correct & (group == 23)
    kept = rows.clone()
    kept[index] = False
    n = int(rows.sum())
    everyone = torch.ones(n, dtype=bool)
    whole = 1 - loss(states[rows], group[rows], everyone, "cosine").item()
    rest = 1 - loss(states[kept], group[kept], everyone[1:], "cosine").item()
    assert whole * n * (n - 1) == pytest.approx(rest * (n - 1) * (n - 2))


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_computed_in_single(kind):
    states, group, correct = build_table(dtype=torch.bfloat16)
    found = loss(states.requires_grad_(), group, correct, kind)
    assert found.dtype == torch.float32
    wide = loss(states.detach().double(), group, correct, kind)
    assert wide.dtype == torch.float64
    assert found.item() == pytest.approx(wide.item(), abs=1e-5)
    found.backward()
    assert states.grad.dtype == torch.bfloat16


def test_bad_arguments_are_named():
    states, group, correct = build_table()
    with pytest.raises(GeomrlError, match="'cosin' is unknown: choose among cosine"):
        hidden_align(states, group, correct, "cosin")
    with pytest.raises(GeomrlError, match="give one row a rollout"):
        hidden_align(states[:-1], group, correct)
    with pytest.raises(GeomrlError, match="give one of each"):
        eligible_groups(group[:-1], correct, "cosine")
    with pytest.raises(GeomrlError, match="temperature 0"):
        hidden_align(states, group, correct, "contrastive_wrong", temperature=0.0)


# The gradient cache


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [1, 3, 7])
def test_cached_gradients_equal_the_loss_under_any_split(kind, parts):
    inputs, group, correct = build_table(seed=3)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 4, generator=generator, dtype=torch.float64).requires_grad_()
    layers = {"1": lambda x: x @ weight, "final": lambda x: torch.tanh(x @ weight) + x}

    whole = torch.stack([loss(f(inputs), group, correct, kind) for f in layers.values()]).mean()
    (expected,) = torch.autograd.grad(whole, weight)

    with torch.no_grad():
        tables = {name: f(inputs) for name, f in layers.items()}
        cached = cached_gradients(
            tables, group, correct=correct, kind=kind, temperature=TEMPERATURE
        )
    assert cached.loss == pytest.approx(whole.item(), rel=1e-14)
    assert cached.n_groups == eligible_groups(group, correct, kind)
    found = torch.zeros_like(weight)
    for rows in torch.arange(len(inputs)).chunk(parts):
        states = {name: f(inputs[rows]) for name, f in layers.items()}
        part = surrogate(states, {name: g[rows] for name, g in cached.gradients.items()})
        found += torch.autograd.grad(part, weight)[0]
    assert (found - expected).norm() <= 1e-12 * expected.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_the_surrogate_reports_no_loss(kind):
    states, group, correct = build_table()
    cached = cached_gradients(
        {"final": states}, group, correct=correct, kind=kind, temperature=TEMPERATURE
    )
    value = surrogate({"final": states}, cached.gradients).item()
    # Euler: degree 0 in the table's scale gives 0, degree 2 gives twice the loss; of degree 1 a
    # teacher holds half.
    degree = {"mse": 2, "l1_detached": 0.5}.get(kind, 0)
    assert value == pytest.approx(degree * cached.loss, abs=1e-12)


def test_the_pairwise_gradient_is_the_published_surrogate():
    states, group, correct = build_table()
    leaf = states.clone().requires_grad_()
    unit = leaf / leaf.norm(dim=1, keepdim=True)
    total = leaf[:0].sum()
    sizes = [int(n) for n in (torch.bincount(group[correct])) if n >= 2]
    for name in group.unique():
        rows = correct & (group == name)
        n = int(rows.sum())
        if n >= 2:
            pull = unit[rows].sum(0).detach()
            total = total - 2 * (unit[rows] @ pull).sum() / (n * (n - 1)) / len(sizes)
    (expected,) = torch.autograd.grad(total, leaf)
    found = cached_gradients(
        {"final": states}, group, correct=correct, kind="cosine", temperature=0.1
    )
    torch.testing.assert_close(found.gradients["final"], expected, rtol=1e-12, atol=1e-15)
    assert found.loss == pytest.approx(1 + total.item() / 2 + np.mean([1 / (n - 1) for n in sizes]))


def test_a_half_precision_table_keeps_its_gradient_in_single():
    states, group, correct = build_table(dtype=torch.bfloat16)
    cached = cached_gradients(
        {"final": states}, group, correct=correct, kind="cosine", temperature=0.1
    )
    assert cached.gradients["final"].dtype == torch.float32
    leaf = states.clone().requires_grad_()
    surrogate({"final": leaf}, cached.gradients).backward()
    torch.testing.assert_close(leaf.grad, cached.gradients["final"].bfloat16())


def test_a_micro_batch_without_rows_is_tied_to_the_graph():
    leaf = torch.ones(5, 3, requires_grad=True)
    found = surrogate({"final": leaf[:0]}, {"final": torch.zeros(0, 3)})
    found.backward()
    assert found.item() == 0
    assert not leaf.grad.any()


def test_cache_refuses_what_does_not_belong_together():
    states, group, correct = build_table()
    with pytest.raises(GeomrlError, match="no layer to align"):
        cached_gradients({}, group, correct=correct, kind="cosine", temperature=0.1)
    with pytest.raises(GeomrlError, match="same, one or more, layers"):
        surrogate({"final": states}, {"3": states})
    with pytest.raises(GeomrlError, match="micro-batch's rows of both"):
        surrogate({"final": states}, {"final": states[1:]})


def test_worked_examples_run():
    results = doctest.testmod(alignment)
    assert results.attempted >= 5
    assert results.failed == 0


def test_configuration_imports_without_torch():
    code = "import sys, geomrl.train.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
