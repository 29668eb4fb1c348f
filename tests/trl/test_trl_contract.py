"""What changed in TRL is named, and what would make the gradient inexact is refused."""

from types import SimpleNamespace

import pytest
import torch
from transformers import ProcessorMixin
from trl_steps import accuracy, build_trainer, nothing, reasoner

from geomrl.errors import GeomrlError
from geomrl.integrations.trl_contract import METHODS, check_class, check_supported

ALIGNED = {"weight": 0.5}


def build(folder, parent=None, *, alignment=ALIGNED, **changed):
    """A trainer of ours, above a GRPOTrainer of which something is changed."""
    from geomrl.integrations.trl import HiddenAlignGRPOTrainer

    bases = (HiddenAlignGRPOTrainer,) if parent is None else (HiddenAlignGRPOTrainer, parent)
    trainer = type("Changed", bases, {})
    return build_trainer(trainer, folder, micro_batches=2, alignment=alignment, **changed)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("built"))


@pytest.mark.parametrize("name", METHODS)
def test_a_renamed_method_is_named(tmp_path, monkeypatch, name):
    from trl import GRPOTrainer

    check_class(GRPOTrainer)
    monkeypatch.setattr(GRPOTrainer, f"{name}_of_late", vars(GRPOTrainer)[name], raising=False)
    monkeypatch.delattr(GRPOTrainer, name)
    with pytest.raises(GeomrlError, match=rf"trl \d.*no {name} any more.*Install 'trl>="):
        build(tmp_path)


def test_another_signature_is_named(tmp_path):
    from trl import GRPOTrainer

    class Parent(GRPOTrainer):
        def _compute_loss(self, model, batch, scale):
            return super()._compute_loss(model, batch)

    with pytest.raises(GeomrlError, match=r"_compute_loss\(self, model, batch, scale\) was"):
        build(tmp_path, Parent)


@pytest.mark.parametrize("name", ["_buffered_inputs", "_step", "reward_func_names"])
def test_a_renamed_attribute_is_named(tmp_path, name):
    from trl import GRPOTrainer

    class Parent(GRPOTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            delattr(self, name)

    with pytest.raises(GeomrlError, match=f"no {name} any more"):
        build(tmp_path, Parent)


def rename_a_key(cls):
    def _generate_and_score_completions(self, inputs):
        batch = super(cls, self)._generate_and_score_completions(inputs)
        batch["response_ids"] = batch.pop("completion_ids")
        return batch

    return "_generate_and_score_completions", _generate_and_score_completions, "no 'completion_ids'"


def lay_out_otherwise(cls):
    def _generate_and_score_completions(self, inputs):
        batch = super(cls, self)._generate_and_score_completions(inputs)
        return {**batch, "completion_ids": batch["completion_ids"].roll(1, dims=1)}

    return "_generate_and_score_completions", _generate_and_score_completions, "response's tokens"


def lose_rewards(cls):
    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        rewards = super(cls, self)._calculate_rewards(
            inputs, prompts, completions, completion_ids_list
        )
        return rewards[::2].repeat(4, 1)

    return "_calculate_rewards", _calculate_rewards, "all ranks' rewards"


def hand_out_another(cls):
    def _prepare_inputs(self, generation_batch):
        return dict(super(cls, self)._prepare_inputs(generation_batch))

    return "_prepare_inputs", _prepare_inputs, "another micro-batch than _buffered_inputs"


def divide_again(cls):
    def compute_loss(self, *args, **kwargs):
        return super(cls, self).compute_loss(*args, **kwargs) / 2

    return "compute_loss", compute_loss, r"multiplied by 0\.5"


def go_round_the_hooks(cls):
    def _compute_loss(self, model, inputs):
        return model.lm_head.weight.sum() * 0

    return "_compute_loss", _compute_loss, "layers final were not run"


def run_in_parts(cls):
    def _compute_loss(self, model, inputs):
        halves = [{k: v[rows] if torch.is_tensor(v) and v.ndim else v for k, v in inputs.items()}
                  for rows in (slice(0, 4), slice(4, None))]  # fmt: skip
        return sum(super(cls, self)._compute_loss(model, half) for half in halves) / 2

    return "_compute_loss", _compute_loss, r"ran on \[4, \d+\].*not on \[8, \d+\]"


def order_otherwise(cls):
    def _generate_and_score_completions(self, inputs):
        inputs[0], inputs[-1] = inputs[-1], inputs[0]
        return super(cls, self)._generate_and_score_completions(inputs)

    return "_generate_and_score_completions", _generate_and_score_completions, "follow each other"


def draw_in_the_forward(cls):
    def _compute_loss(self, model, inputs):
        embed = self.model.get_input_embeddings()
        handle = embed.register_forward_hook(lambda m, a, out: out * torch.rand_like(out))
        try:
            return super(cls, self)._compute_loss(model, inputs)
        finally:
            handle.remove()

    return "_compute_loss", _compute_loss, "not those of the table"


@pytest.mark.parametrize(
    "change",
    [
        rename_a_key, lay_out_otherwise, lose_rewards, hand_out_another, divide_again,
        go_round_the_hooks, run_in_parts, order_otherwise, draw_in_the_forward,
    ],
)  # fmt: skip
def test_what_names_do_not_tell_stops_the_first_step(tmp_path, change):
    from trl import GRPOTrainer

    parent = type("Parent", (GRPOTrainer,), {})
    name, method, told = change(parent)
    setattr(parent, name, method)
    trainer = build(tmp_path, parent)
    with pytest.raises(GeomrlError, match=told):
        trainer.train()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"use_liger_kernel": True}, "use_liger_kernel=False"),
        ({"torch_compile": True}, "torch_compile=False"),
        (
            {"gradient_accumulation_steps": 4, "steps_per_generation": 2},
            "steps_per_generation to 4",
        ),
        ({"gradient_accumulation_steps": 4, "steps_per_generation": 6}, "or to a multiple of it"),
        ({"n_gpu": 2}, "accelerate launch"),
    ],
)
def test_settings_that_are_not_exact_are_refused_with_the_cure(built, changed, told):
    names = [*built.args.__dict__, "n_gpu"]
    args = SimpleNamespace(**{name: getattr(built.args, name) for name in names} | changed)
    trainer = SimpleNamespace(**built.__dict__ | {"args": args})
    with pytest.raises(GeomrlError, match=told):
        check_supported(trainer, aligns=True)


def test_several_generation_batches_a_step_are_refused(tmp_path):
    with pytest.raises(GeomrlError, match="set steps_per_generation to 2"):
        build(tmp_path, steps_per_generation=1, per_device_train_batch_size=8)


def test_vision_models_are_refused(built):
    trainer = SimpleNamespace(
        **built.__dict__ | {"processing_class": object.__new__(ProcessorMixin)}
    )
    with pytest.raises(GeomrlError, match=r"vision-language.*text-only"):
        check_supported(trainer, aligns=False)


def test_spread_parameters_are_refused_but_for_measuring(built):
    trainer = SimpleNamespace(**built.__dict__ | {"is_fsdp_enabled": True})
    check_supported(trainer, aligns=False)
    with pytest.raises(GeomrlError, match="ZeRO-2, or weight 0"):
        check_supported(trainer, aligns=True)


def test_dropout_is_refused(tmp_path):
    from peft import LoraConfig

    model = reasoner()
    model.model.layers[1].self_attn.attention_dropout = 0.1
    with pytest.raises(GeomrlError, match=r"layers\.1\.self_attn\).*attention_dropout=0"):
        build(tmp_path, model=model)
    adapters = LoraConfig(r=2, lora_dropout=0.1, target_modules=["q_proj"], task_type="CAUSAL_LM")
    with pytest.raises(GeomrlError, match="lora_dropout=0"):
        build(tmp_path, peft_config=adapters)


def test_settings_are_checked_as_in_a_configuration(tmp_path):
    with pytest.raises(GeomrlError, match=r"unknown key 'alignment\.wieght'.*'alignment\.weight'"):
        build(tmp_path, alignment={"wieght": 1})
    with pytest.raises(GeomrlError, match=r"alignment\.weight is -1"):
        build(tmp_path, alignment={"weight": -1})
    with pytest.raises(GeomrlError, match=r"alignment\.table is of geomrl's own"):
        build(tmp_path, alignment={"weight": 1, "table": "groups"})
    with pytest.raises(GeomrlError, match="layer '9' is unknown"):
        build(tmp_path, alignment={"weight": 1, "layers": [9]})


def test_the_reward_function_that_grades_must_be_named(tmp_path):
    both = {"reward_funcs": [nothing, accuracy]}
    with pytest.raises(GeomrlError, match="there are the reward functions nothing, accuracy"):
        build(tmp_path, **both)
    with pytest.raises(GeomrlError, match="correct_from='right'"):
        build(tmp_path, correct_from="right", **both)
    assert build(tmp_path, correct_from="accuracy", **both)._verdict_column == 1


def test_nothing_to_align_is_said(tmp_path):
    trainer = build(tmp_path, marker="<answer>...</answer>")
    with pytest.warns(UserWarning, match="check marker and correct_from"):
        trainer.train()
    log = trainer.state.log_history[0]
    assert (log["align/rollouts"], log["align/without_anchor"], log["align/eligible"]) == (0, 16, 0)


def test_rollouts_without_a_verdict_take_no_part(tmp_path):
    def half(completions, gold, **_):
        found = accuracy(completions, gold)
        return [None if i % 2 else value for i, value in enumerate(found)]

    trainer = build(tmp_path, reward_funcs=half)
    trainer.train()
    assert trainer.state.log_history[0]["align/without_anchor"] >= 8


def test_weights_follow_the_schedule(tmp_path):
    trainer = build(
        tmp_path, alignment={"weight": 0.4, "warmup_steps": 2, "stop_after": 3}, steps=3
    )
    trainer.train()
    logs = [line for line in trainer.state.log_history if "weight/align" in line]
    assert [line["weight/align"] for line in logs] == [0.2, 0.4, 0.0]
