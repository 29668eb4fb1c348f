"""HiddenAlignGRPOTrainer's optimiser step: the gradient of the whole batch, whatever the split."""

import pytest
import torch
from training import run_ranks
from trl_steps import (
    WEIGHT,
    Gradients,
    aligned_steps,
    build_trainer,
    distance,
    reasoner,
    whole_gradient,
)

from geomrl.train.gauges import alignment_metrics
from geomrl.train.sections import AlignmentConfig

CLOSE = 1e-5


@pytest.mark.parametrize(
    ("micro_batches", "changed"),
    [
        (1, {}),
        (2, {}),
        (4, {}),
        (4, {"alignment": {"weight": WEIGHT, "layers": ["2", "final"], "kind": "centred"}}),
        (2, {"gradient_checkpointing": True}),
        (2, {"steps": 4, "steps_per_generation": 4, "num_iterations": 2}),  # off the policy
        (2, {"num_generations": 4, "alignment": {"weight": WEIGHT, "rollouts": "wrong"}}),
        (2, {"alignment": {"weight": WEIGHT, "anchor": "random"}}),
        (2, {"steps": 2, "loss_type": "grpo"}),
    ],
)
def test_the_gradient_is_that_of_the_whole_batch(tmp_path, micro_batches, changed):
    gradients, trainer = aligned_steps(tmp_path, micro_batches, **changed)
    logs = [line for line in trainer.state.log_history if "loss/align" in line]
    assert len(gradients.kept) == len(logs) == changed.get("steps", 1)
    compared = 0
    for gradient, wanted, log in zip(gradients.kept, gradients.whole, logs, strict=True):
        if log["align/eligible"]:
            assert distance(gradient, wanted) < CLOSE
            compared += 1
    assert compared


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_two_ranks_give_the_gradient_of_all_their_rollouts(tmp_path, micro_batches):
    out = tmp_path / "found.pt"
    run_ranks("trl_steps.py", 2, out, micro_batches)
    ranks = [torch.load(f"{out}.{rank}", weights_only=False) for rank in range(2)]
    pieces = [piece for _, own, _ in ranks for piece in own]
    wanted = whole_gradient(reasoner(), pieces, AlignmentConfig(weight=WEIGHT))
    for gradient, _, log in ranks:
        assert distance(gradient, wanted) < CLOSE
        assert log["align/eligible"] > 0
    assert (
        sorted(torch.cat([piece["geomrl_group"] for piece in pieces]).tolist()) == [0] * 8 + [1] * 8
    )


def test_adapters_get_the_gradient_of_the_whole_batch(tmp_path):
    from peft import LoraConfig

    adapters = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    gradients, _ = aligned_steps(tmp_path, 2, peft_config=adapters)
    assert distance(gradients.kept[0], gradients.whole[0]) < CLOSE
    assert all("lora" in name for name in gradients.kept[0])


def test_the_alignment_is_added_to_the_policys_gradient(tmp_path):
    from geomrl.integrations.trl import HiddenAlignGRPOTrainer

    found = {}
    for weight in (0.0, WEIGHT):
        gradients = Gradients()
        gradients.trainer = build_trainer(
            HiddenAlignGRPOTrainer, tmp_path, micro_batches=2, callbacks=[gradients],
            alignment={"weight": weight},
        )  # fmt: skip
        gradients.trainer.train()
        found[weight] = gradients
    plain, both = found[0.0].kept[0], found[WEIGHT].kept[0]
    assert distance({n: both[n] - plain[n] for n in plain}, found[WEIGHT].whole[0]) < CLOSE


def test_weight_zero_trains_bit_for_bit_as_trl_does(tmp_path):
    from trl import GRPOTrainer

    from geomrl.integrations.trl import HiddenAlignGRPOTrainer

    plain = build_trainer(GRPOTrainer, tmp_path / "a", steps=3, micro_batches=2)
    plain.train()  # before the other is built, which sets the seed
    ours = build_trainer(
        HiddenAlignGRPOTrainer, tmp_path / "b", steps=3, micro_batches=2, alignment={"weight": 0}
    )
    ours.train()
    weights = zip(plain.model.parameters(), ours.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)
    moved = zip(plain.model.parameters(), reasoner().parameters(), strict=True)
    assert not all(torch.equal(one, other) for one, other in moved)
    for theirs, own in zip(plain.state.log_history[:3], ours.state.log_history[:3], strict=True):
        assert {k: own[k] for k in theirs if k != "step_time"} == {
            k: v for k, v in theirs.items() if k != "step_time"
        }
        added = {name.split("/")[0] for name in own.keys() - theirs.keys()}
        assert added == {"loss", "weight", "grad_norm", "align"}


def test_the_log_has_the_gauges_of_the_steps_states(tmp_path):
    _, trainer = aligned_steps(tmp_path, 2, learning_rate=0.0)
    log, pieces = trainer.state.log_history[0], trainer._buffered_inputs
    states = []
    for piece in pieces:
        ids = torch.cat([piece["prompt_ids"], piece["completion_ids"]], 1)
        mask = torch.cat([piece["prompt_mask"], piece["completion_mask"]], 1)
        with torch.no_grad():
            hidden = reasoner()(
                input_ids=ids, attention_mask=mask, output_hidden_states=True
            ).hidden_states[-1]
        column = piece["geomrl_column"]
        states.append(hidden[column >= 0, column[column >= 0]])
    there = [piece["geomrl_column"] >= 0 for piece in pieces]
    labels = [
        torch.cat([piece[key][own] for piece, own in zip(pieces, there, strict=True)])
        for key in ("geomrl_group", "geomrl_correct")
    ]
    wanted = alignment_metrics(torch.cat(states), *labels).as_dict()
    assert wanted.pop("eligible") == log["align/eligible"]
    for name, value in wanted.items():
        if value == value:
            assert log[f"align/{name}"] == pytest.approx(value, rel=1e-4), name
        else:
            assert log[f"align/{name}"] is None, name  # as TRL logs what is no number
    assert log["align/without_anchor"] == sum(int((~own).sum()) for own in there)
    assert log["weight/align"] == WEIGHT
    assert log["loss/align"] == pytest.approx(1 - wanted["CC"], rel=1e-4)
    assert log["loss"] == 0.0  # TRL's own stays the policy's


def test_each_rollout_has_its_group_verdict_and_anchor(tmp_path):
    _, trainer = aligned_steps(tmp_path, 1)
    (piece,), tokenizer = trainer._buffered_inputs, trainer.processing_class
    golds = {}
    verdicts = {True: 0, False: 0}
    for row in range(len(piece["geomrl_group"])):
        prompt = tokenizer.decode(piece["prompt_ids"][row], skip_special_tokens=True)
        golds.setdefault(int(piece["geomrl_group"][row]), set()).add(prompt)
        width, column = piece["prompt_ids"].shape[1], int(piece["geomrl_column"][row])
        response = piece["completion_ids"][row]
        text = tokenizer.decode(response, skip_special_tokens=True)
        if column < 0:
            assert "\\boxed{" not in text
            continue
        before = tokenizer.decode(response[: column + 1 - width])
        behind = tokenizer.decode(response[: column + 2 - width])
        assert "\\" not in before
        assert "\\" in behind
        verdicts[bool(piece["geomrl_correct"][row])] += 1
    assert all(len(prompts) == 1 for prompts in golds.values())
    assert len(golds) == 2
    assert min(verdicts.values()) > 0
