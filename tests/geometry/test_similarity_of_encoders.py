"""Measures between two encoders, against closed forms and independent implementations."""

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from geomrl.errors import GeomrlError
from geomrl.geometry.cka import cka_without, debiased_cka
from geomrl.geometry.dimension import two_nn
from geomrl.geometry.drift import drift
from geomrl.geometry.neighbours import chance, mutual_neighbours
from geomrl.geometry.procrustes import held_out_procrustes
from geomrl.geometry.rsa import dissimilarities, rsa


def rotation(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def hsic_by_definition(k, l):  # noqa: E741
    """Song et al. 2012, equation 5, term by term over Gram matrices."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    one = np.ones(n)
    total = np.trace(k @ l)
    total += (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    total -= 2 * (one @ k @ l @ one) / (n - 2)
    return total / (n * (n - 3))


@settings(deadline=None, max_examples=25)
@given(st.integers(5, 30), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_cka_is_the_definition_for_narrow_and_wide_states(n, d1, d2, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d1)) + 3.0, rng.normal(size=(n, d2)) - 2.0
    k, l = x @ x.T, y @ y.T  # noqa: E741
    scale = hsic_by_definition(k, k) * hsic_by_definition(l, l)
    found = debiased_cka(x, y)
    if scale > 1e-9 and np.isfinite(found):
        assert found == pytest.approx(hsic_by_definition(k, l) / np.sqrt(scale), abs=1e-6)


@pytest.mark.parametrize("n", [32, 128, 512])
def test_cka_of_independent_wide_states_is_near_zero(n):
    rng = np.random.default_rng(n)
    x, y = (rng.normal(size=(n, 2048)).astype(np.float32) for _ in range(2))
    assert abs(debiased_cka(x, y)) < 0.1
    biased = (x - x.mean(0)) @ (x - x.mean(0)).T, (y - y.mean(0)) @ (y - y.mean(0)).T
    usual = np.vdot(*biased) / np.sqrt(
        np.vdot(biased[0], biased[0]) * np.vdot(biased[1], biased[1])
    )
    assert usual > 0.75  # what the debiasing is for


@pytest.mark.parametrize("n", [32, 512])
def test_cka_of_a_rotation_shift_and_multiple_is_one(n):
    x = np.random.default_rng(1).normal(size=(n, 64))
    assert debiased_cka(x, -2.0 * x @ rotation(64) + 5.0) == pytest.approx(1.0, abs=1e-9)


def test_cka_without_groups_is_cka_of_the_rest():
    x, y = np.random.default_rng(2).normal(size=(2, 20, 4))
    group = np.arange(20) % 4
    out = [group == g for g in range(4)]
    whole, rest = cka_without(x, x + y, group, 4)
    assert whole == pytest.approx(debiased_cka(x, x + y), abs=1e-12)
    assert rest[2] == pytest.approx(debiased_cka(x[~out[2]], (x + y)[~out[2]]), abs=1e-12)
    x, y = np.random.default_rng(2).normal(size=(2, 20, 50))  # wide: by Gram matrices
    whole, rest = cka_without(x + 3, x + y, group, 4)
    assert whole == pytest.approx(debiased_cka(x, x + y))
    assert rest[1] == pytest.approx(debiased_cka(x[~out[1]], (x + y)[~out[1]]))


def test_cka_names_what_does_not_pair():
    with pytest.raises(GeomrlError, match="same rollout"):
        debiased_cka(np.zeros((5, 2)), np.zeros((6, 2)))
    assert np.isnan(debiased_cka(np.ones((6, 2)), np.random.default_rng(0).normal(size=(6, 2))))


def problems(p, n):
    return np.repeat(np.arange(p), n)


@pytest.mark.parametrize("d", [8, 300])  # fewer and more dimensions than rows
def test_procrustes_finds_a_rotation_on_problems_that_did_not_fit_it(d):
    problem = problems(20, 6)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20, d))[problem] + rng.normal(size=(120, d)) * np.linspace(1, 3, d)
    found = held_out_procrustes(x, 2.0 * x @ rotation(d) + 1.0, problem, np.arange(20) % 2)
    assert found.score().rotated == pytest.approx(1.0, abs=1e-6)
    assert found.score().unrotated < 0.5
    same = held_out_procrustes(x, x, problem, np.arange(20) % 2)
    assert same.score().unrotated == pytest.approx(1.0)
    assert same.score().gain == pytest.approx(0.0, abs=1e-9)


def test_procrustes_of_unrelated_states_gains_nothing_held_out():
    problem = problems(20, 6)
    x, y = np.random.default_rng(4).normal(size=(2, 120, 30))
    score = held_out_procrustes(x, y, problem, np.arange(20) % 2).score()
    fitted, _ = scipy.linalg.orthogonal_procrustes(y - y.mean(0), x - x.mean(0))
    in_sample = np.vdot(x, (y - y.mean(0)) @ fitted) / np.linalg.norm(x) / np.linalg.norm(y)
    assert in_sample > 0.4  # on the states that fitted it, it looks good
    assert abs(score.rotated) < 0.15


def test_procrustes_equals_scipy_by_hand():
    problem, fold = problems(10, 5), np.arange(10) % 2
    x, noise = np.random.default_rng(5).normal(size=(2, 50, 4))
    y = x @ rotation(4) + 0.3 * noise
    products, a2, b2 = 0.0, 0.0, 0.0
    for scored in (0, 1):
        fits, here = fold[problem] != scored, fold[problem] == scored
        turn, _ = scipy.linalg.orthogonal_procrustes(
            y[fits] - y[fits].mean(0), x[fits] - x[fits].mean(0)
        )
        a, b = x[here] - x[fits].mean(0), y[here] - y[fits].mean(0)
        products += np.vdot(a, b @ turn)
        a2, b2 = a2 + np.vdot(a, a), b2 + np.vdot(b, b)
    found = held_out_procrustes(x, y, problem, fold)
    assert found.n_directions == 4
    assert found.score().rotated == pytest.approx(products / np.sqrt(a2 * b2))


def test_rsa_is_spearmans_correlation_of_cosine_distances():
    x, noise = np.random.default_rng(6).normal(size=(2, 15, 7))
    y = x @ rotation(7) + noise
    found = rsa(x, y, n_perm=199)
    expected = scipy.stats.spearmanr(
        *(scipy.spatial.distance.pdist(z - z.mean(0), "cosine") for z in (x, y))
    ).statistic
    assert found.value == pytest.approx(expected)
    assert rsa(x, 3.0 * x @ rotation(7)).value == pytest.approx(1.0)
    assert dissimilarities(x)[2, 5] == pytest.approx(
        scipy.spatial.distance.cosine(x[2] - x.mean(0), x[5] - x.mean(0))
    )


def test_rsa_permutation_holds_its_level_and_finds_a_relation():
    rng = np.random.default_rng(7)
    null = [rsa(*rng.normal(size=(2, 12, 5)), n_perm=99, seed=i).p for i in range(200)]
    assert 0.01 <= np.mean(np.array(null) <= 0.05) <= 0.1
    x = rng.normal(size=(12, 5))
    assert rsa(x, x + 0.2 * rng.normal(size=x.shape), n_perm=99).p == pytest.approx(0.01)


def test_mutual_neighbours_equals_sets_by_brute_force():
    rng = np.random.default_rng(8)
    problem = rng.integers(0, 6, 30)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 9))
    y[:, :4] += 2 * x
    found = mutual_neighbours(x, y, problem, k=3)
    for i in range(30):
        near = []
        for z in (x, y):
            away = scipy.spatial.distance.cdist(z - z.mean(0), z - z.mean(0), "cosine")[i]
            away[problem == problem[i]] = np.inf
            near.append(set(np.argsort(away)[:3]))
        assert found[i] == pytest.approx(len(near[0] & near[1]) / 3)
    assert mutual_neighbours(x, x @ rotation(4), problem, k=3).min() == 1.0


def test_unrelated_encoders_share_neighbours_by_chance():
    rng = np.random.default_rng(9)
    problem = problems(40, 5)
    x, y = rng.normal(size=(2, 200, 10))
    assert mutual_neighbours(x, y, problem).mean() == pytest.approx(chance(problem, 10), abs=0.02)
    with pytest.raises(GeomrlError, match="nearest neighbours"):
        mutual_neighbours(x[:12], y[:12], problems(2, 6), k=10)


@pytest.mark.parametrize("true", [1, 2, 5])
def test_two_nn_reads_low_dimensions(true):
    rng = np.random.default_rng(true)
    inside = rng.uniform(size=(1500, true)) @ rng.normal(size=(true, 20))
    assert two_nn(inside) == pytest.approx(true, rel=0.12)


def test_two_nn_reads_fifty_as_about_thirty():
    assert 25 < two_nn(np.random.default_rng(0).normal(size=(1000, 50))) < 37


def test_two_nn_counts_equal_states_once():
    x = np.random.default_rng(1).normal(size=(200, 3))
    assert two_nn(np.concatenate([x, x[:50]])) == pytest.approx(two_nn(x))
    with pytest.raises(GeomrlError, match="different states"):
        two_nn(np.ones((50, 3)))


@given(st.floats(0.1, 10.0), st.integers(0, 2**31))
def test_drift_tells_length_from_direction(scale, seed):
    x = np.random.default_rng(seed).normal(size=(6, 5))
    longer = drift(x, scale * x)
    np.testing.assert_allclose(longer.log_norm_ratio, np.log(scale), atol=1e-9)
    np.testing.assert_allclose(longer.direction, 1.0)
    turned = drift(x, x @ rotation(5, seed))
    np.testing.assert_allclose(turned.log_norm_ratio, 0.0, atol=1e-9)
    assert np.isnan(drift(np.zeros((1, 5)), x[:1]).direction[0])


def test_procrustes_of_states_that_are_all_equal_is_unknown():
    """Fewer rows than dimensions, as at a token's embedding: no direction is left to fit."""
    problem = np.repeat(np.arange(6), 2)
    states = np.ones((12, 20))
    found = held_out_procrustes(states, states, problem, np.arange(6) % 2)
    assert np.isnan(found.score().rotated)
    one_fold = states + (problem % 2 == 0)[:, None] * np.random.default_rng(0).normal(size=(12, 20))
    assert np.isnan(
        held_out_procrustes(one_fold, one_fold, problem, np.arange(6) % 2).score().rotated
    )
