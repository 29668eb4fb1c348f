"""Whole trainings on the bundled reasoner: everything at once, under ZeRO, and the guards that stop."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from loop_runs import ZEROS
from ranks_loop import CASES, STEPS
from safetensors.torch import load_file
from training import build_samples, run_ranks, run_script

from geomrl.models.loading import load_model
from geomrl.models.names import checkpoint_path
from geomrl.train.update_phase import deal_groups

HERE = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return run_script("loop_runs.py", tmp_path_factory.mktemp("loop"))


@pytest.fixture(scope="module")
def words(runs):
    """What each guard said."""
    return json.loads((runs / "words.json").read_text())


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks("ranks_loop.py", 2, folder)
    return folder


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def untimed(run):
    return [{k: v for k, v in m.items() if not k.startswith("time/")} for m in metrics(run)]


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def start():
    return load_file(checkpoint_path() / "model.safetensors")


def test_every_metric_is_finite(runs):
    lines = metrics(runs / "rich")
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        known = {k: v for k, v in line.items() if not k.startswith("time/mfu")}  # of a CPU: unknown
        wrong = {k: v for k, v in known.items() if v is None or not math.isfinite(v)}
        assert wrong == {}


def test_the_divergence_starts_at_zero_and_grows(runs):
    first, second = (line["loss/kl"] for line in metrics(runs / "rich"))
    assert first == pytest.approx(0, abs=1e-9)
    assert second > 1e-4


def test_with_adapters_the_reference_is_the_policy_without_them(runs):
    """And no model of its own: there are the policy and the engine that samples."""
    assert json.loads((runs / "words.json").read_text())["models"] == [2]


def test_all_correct_groups_are_aligned_and_not_trained_on(runs):
    lines = metrics(runs / "rich")
    assert any(line["groups/all_correct"] for line in lines)
    for step, line in enumerate(lines, 1):
        table = pd.read_parquet(runs / "rich" / "rollouts" / f"step-{step:06d}.parquet")
        table["correct"] = table["verdict"] == "correct"
        groups = table.groupby("group")
        extra = groups["correct"].all()
        assert (groups["trained"].all() == ~extra).all()
        assert line["groups/all_correct"] == extra.sum()
        assert line["groups/kept"] == (~extra).sum()
        assert line["align/rollouts"] + line["align/without_anchor"] == len(table)
        # Each correct rollout that has an anchor is aligned, those of the extra groups too.
        assert line["align/aligned"] == table["correct"].sum()
        assert line["tokens"] == table.loc[table["trained"], "response_ids"].map(len).sum()


@pytest.mark.parametrize(("trained", "extra"), [(4, 3), (4, 0), (2, 5)])
def test_every_update_has_groups_to_train_on(trained, extra):
    """However many more there are that are only aligned."""
    samples = build_samples(n_groups=trained + extra, n_samples=3)
    samples = [s if s.group < trained else s.aligned_only() for s in samples]
    for step in range(1, 20):
        parts = deal_groups(samples, 4, 0, step)
        assert len(parts) == min(4, trained)
        assert sorted(i for part in parts for i in part) == list(range(len(samples)))
        for part in parts:
            groups = {samples[i].group for i in part}
            assert len(part) == 3 * len(groups)
            assert len([g for g in groups if g < trained]) == trained // len(parts)
            aligned = len([g for g in groups if g >= trained])
            assert extra // len(parts) <= aligned <= -(-extra // len(parts))


def test_adapters_move_what_they_adapt_and_nothing_else(runs):
    before, after = start(), weights(runs / "rich")
    assert after.keys() == before.keys()
    moved = {name for name in before if not torch.equal(after[name], before[name])}
    assert moved == {name for name in before if any(f".{part}." in name for part in LINEAR)}


def test_every_weight_moves_at_a_large_rate(runs):
    before, after = start(), weights(runs / "large")
    assert after.keys() == before.keys()
    for name, weight in before.items():
        assert (after[name] - weight).abs().max() > 0.01, name


def test_the_model_of_a_run_is_a_plain_one(runs):
    loaded = load_model(str(runs / "rich" / "model"), device="cpu", dtype="float32")
    assert not [name for name, _ in loaded.model.named_parameters() if "lora" in name]
    logits = loaded.model(torch.tensor([[5, 6, 7]])).logits
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_go_on_to_the_bit(two_ranks, name):
    whole, resumed = (two_ranks / f"{name}, {what}" for what in ("whole", "resumed"))
    assert [line["step"] for line in metrics(whole)] == list(range(1, STEPS + 1))
    assert untimed(resumed) == untimed(whole)
    for file in ("model/model.safetensors", f"rollouts/step-{STEPS:06d}.parquet"):
        assert (resumed / file).read_bytes() == (whole / file).read_bytes()
    redone = [metrics(run)[-1]["time/step"] for run in (resumed, whole)]
    assert redone[0] != redone[1]  # the last step was made again
    assert len({line["grad_norm"] for line in metrics(whole)}) == STEPS


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_sample_from_the_policy_they_train(two_ranks, name):
    """Scores come back in order, and gathered, merged weights reach the engine that samples."""
    for line in metrics(two_ranks / f"{name}, whole"):
        assert line["mismatch/max"] < 1e-3
        assert line["mismatch/mean"] < 1e-5
    before, after = start(), weights(two_ranks / f"{name}, whole")
    moved = {key for key in before if not torch.equal(after[key], before[key])}
    adapted = {key for key in before if ".q_proj." in key}
    assert moved == (adapted if "lora" in name else set(before))


def test_damaged_weights_stop_the_run(words, runs):
    assert "logits are not finite" in words["nan before sampling"]
    assert "the policy's loss is nan" in words["nan before the update"]
    for run in ("a", "b"):  # the step that failed left no line, no model, no checkpoint
        assert [line["step"] for line in metrics(runs / run)] == [1]
        assert not (runs / run / "model").exists()
        kept = {p.name for p in (runs / run / "checkpoints").iterdir()}
        assert kept == {"step-000001"}


@pytest.mark.parametrize("zero", ZEROS)
def test_a_damaged_gradient_stops_the_run(words, zero):
    """Under every ZeRO stage, though the loss is finite."""
    assert "the gradient's norm is" in words[f"nan gradient, zero {zero}"]


def test_an_engine_with_old_weights_stops_the_run(words, runs):
    assert words["stale"].startswith("step 2: the trainer's and the rollout engine's")
    assert "rollout.mismatch_stop" in words["stale"]
    assert [line["step"] for line in metrics(runs / "stale")] == [1]
    # The same bound lets a run pass whose engine gets its weights.
    assert len(metrics(runs / "rich")) == 2


def test_no_group_to_learn_from_stops_the_run(words):
    assert words["no group"].startswith("no group is left to train on: of 4 sampled in 2 rounds")
    assert "0 were all correct and 4 had none correct" in words["no group"]
