"""Linear probes for correctness, decoders of answers, and the logit lens."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from tiny import build_model, character_tokenizer
from worlds import build_world

from geomrl.geometry.answer_decoder import answer_decodability
from geomrl.geometry.groups import group_rows
from geomrl.geometry.linear_probes import (
    auroc,
    grouped_auroc,
    held_out_scores,
    nuisance_features,
    problem_folds,
    shuffled_labels,
    transfer_auroc,
    within_auroc,
)
from geomrl.models.loading import LoadedModel
from geomrl.probe.anchors import before_the_answer
from geomrl.probe.extraction import ModelProbe
from geomrl.probe.extractor import Rows
from geomrl.probe.lens import (
    gold_tokens,
    lens_logprobs,
)


def world(seed=0, **strengths):
    rows, states = build_world(seed, **{"problems": 60, "samples": 10, "hidden": 16, **strengths})
    groups = group_rows(rows)
    return groups, states[groups.order].astype(float)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auroc_is_scikit_learns(pairs):
    score, labels = (np.array(x) for x in zip(*pairs, strict=True))
    if labels.all() or not labels.any():
        assert np.isnan(auroc(score, labels))
    else:
        assert auroc(score, labels) == pytest.approx(roc_auc_score(labels, score))


def test_grouped_folds_read_nothing_where_a_random_split_reads_difficulty():
    grouped, random = [], []
    for seed in range(12):
        # States know the problem and nothing else; problems differ in difficulty.
        groups, states = world(
            seed, problem=3.0, noise=0.3, accuracy=(0.5, 0.5), hidden=32, problems=40, samples=6
        )
        labels, fold = groups.correct, problem_folds(groups, seed)
        (scores,) = held_out_scores(states, [states], labels, fold)
        grouped.append(grouped_auroc(scores, labels, groups).value + 0.5)
        if seed < 3:
            random.append(roc_auc_score(labels, _random_split(states, labels, seed)))
    assert np.mean(random) > 0.75
    assert np.mean(grouped) == pytest.approx(0.5, abs=0.08)


def _random_split(states, labels, seed):
    order = np.random.default_rng(seed).permutation(len(labels))
    found = np.empty(len(labels))
    found[order] = cross_val_predict(
        LogisticRegression(max_iter=1000), states[order], labels[order], cv=5,
        method="decision_function",
    )  # fmt: skip
    return found


def test_a_direction_of_correctness_is_found_within_problems_and_shuffled_labels_are_not():
    groups, states = world(1)
    states[:, 0] += 2.0 * groups.correct
    labels, fold = groups.correct, problem_folds(groups, 0)
    (scores,) = held_out_scores(states, [states], labels, fold)
    found = grouped_auroc(scores, labels, groups)
    assert found.low > 0.25  # of AUROC - .5
    assert within_auroc(scores, labels, groups, seed=0, n_boot=200).low > 0.25
    shuffled = shuffled_labels(labels, 0)
    (scores,) = held_out_scores(states, [states], shuffled, fold)
    assert abs(grouped_auroc(scores, shuffled, groups).value) < 0.1


def test_no_problem_is_in_the_folds_that_score_it():
    groups, _ = world(2)
    fold = problem_folds(groups, 0)
    assert all(len(set(fold[groups.rows(p)])) == 1 for p in range(groups.n_problems))
    assert max(np.bincount(fold)) < 2 * min(np.bincount(fold))


def test_a_probe_transfers_to_an_encoder_that_did_not_turn():
    groups, states = world(3)
    states[:, 0] += 2.0 * groups.correct
    labels, fold = groups.correct, problem_folds(groups, 0)
    mirrored = states * np.where(np.arange(states.shape[1]) == 0, -1.0, 1.0)
    same, turned = held_out_scores(states, [states + 0.01, mirrored], labels, fold)
    assert grouped_auroc(same, labels, groups).value > 0.25
    assert grouped_auroc(turned, labels, groups).value < -0.25


def test_transfer_across_benchmarks():
    (one, a), (other, b) = world(4), world(5)
    a[:, 0] += 2.0 * one.correct
    b[:, 0] += 2.0 * other.correct
    assert (
        transfer_auroc(a, one.correct, test=b, test_labels=other.correct, problem=other.problem).low
        > 0.25
    )
    assert (
        transfer_auroc(
            a, one.correct, test=-b, test_labels=other.correct, problem=other.problem
        ).high
        < -0.25
    )


def test_nuisance_features_hold_common_tokens_entropy_and_length():
    token = np.repeat([5, 7, 9], [12, 10, 3])
    entropy, length = np.linspace(0, 1, 25), np.full(25, np.e)
    found = nuisance_features(token, entropy, length)
    np.testing.assert_allclose(
        found, np.stack([token == 5, token == 7, entropy, np.ones(25)], axis=1)
    )


def test_answers_are_decoded_where_states_hold_them():
    groups, states = world(6)
    answer = np.random.default_rng(0).integers(10, 13, len(states))
    fold = problem_folds(groups, 0)
    blind, usual = answer_decodability(states, answer, fold, groups, seed=0, n_boot=100)
    assert blind.value == pytest.approx(1 / 3, abs=0.1)
    assert usual == pytest.approx(1 / 3, abs=0.1)
    states[np.arange(len(states)), answer - 10] += 8.0
    seeing, _ = answer_decodability(states, answer, fold, groups, seed=0, n_boot=100)
    assert seeing.value > 0.95
    answer[:] = -1
    assert np.isnan(answer_decodability(states, answer, fold, groups, seed=0, n_boot=100)[0].value)


def test_gold_tokens_are_those_that_correct_rollouts_write():
    rows = pd.DataFrame(
        {
            "problem_id": ["a"] * 4,
            "verdict": ["correct", "correct", "correct", "wrong"],
            "next_token_id": pd.array([7, 7, 8, 9], dtype="Int64"),
        }
    )
    tokenizer = character_tokenizer()
    found = gold_tokens(rows, {"a": "42", "b": "42"}, tokenizer)
    assert found == {"a": 7, "b": tokenizer.convert_tokens_to_ids("4")}


@pytest.mark.parametrize("architecture", ["Qwen3", "GPT2"])
def test_lens_at_the_last_layer_is_the_models_own_distribution(architecture):
    model = build_model(architecture)
    loaded = LoadedModel(
        name="tiny",
        model=model,
        tokenizer=character_tokenizer(),
        device=torch.device("cpu"),
        dtype=torch.float32,
        weights="0" * 16,
        vocabulary="0" * 16,
    )
    probe = ModelProbe(loaded)
    ids = torch.randint(3, 60, (2, 9))
    rows = Rows(torch.tensor([0, 1]), torch.tensor([4, 8]))
    read = probe.extractor.read({"input_ids": ids, "use_cache": False}, rows, ["1", "3", "final"])
    logits = model(ids).logits[rows.sequence, rows.position].detach().log_softmax(-1)
    targets = np.array([11, 23])
    for layer in ("3", "final"):
        logprob, entropy = lens_logprobs(probe, read.states[layer].detach().numpy(), layer, targets)
        np.testing.assert_allclose(logprob, logits[[0, 1], targets], atol=1e-4)
        np.testing.assert_allclose(entropy, -(logits.exp() * logits).sum(-1), atol=1e-4)
    early, _ = lens_logprobs(probe, read.states["1"].detach().numpy(), "1", targets)
    assert not np.allclose(early, logprob, atol=0.05)


def test_only_anchors_before_the_answer_are_read_by_the_lens():
    names = ["fraction:0.5", "before_marker-2", "before_marker", "marker_end", "before_answer"]
    assert all(map(before_the_answer, names))
    assert not any(map(before_the_answer, ["answer_last", "response_last"]))
