"""Optimiser steps of TRL's trainers on the bundled reasoner; as a script, one rank of a gloo job.

    trl_steps.py OUT.pt MICRO_BATCHES

saves OUT.pt.RANK: the step's gradient, the rank's rollouts and log. Imports TRL when a trainer is built.
"""

import sys
from importlib.util import find_spec
from itertools import islice
from tempfile import TemporaryDirectory

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from geomrl.models.names import checkpoint_path
from geomrl.problems.arithmetic import training_problems
from geomrl.train.alignment import hidden_align
from geomrl.train.negative_controls import relabel
from geomrl.verify.verifier import MathVerifier

if (found := find_spec("vllm")) is not None and found.origin is None:
    sys.modules["vllm"] = None  # tests/vllm, which TRL would take for the package
ROLLOUTS = 16  # of an optimiser step, on all ranks
WEIGHT = 0.7


def accuracy(completions, gold, **_):
    """TRL's form: 1 where the answer is right."""
    with MathVerifier() as verifier:
        grades = verifier.grade([turns[0]["content"] for turns in completions], gold)
    return [float(grade.verdict == "correct") for grade in grades]


def nothing(completions, **_):
    """A reward that is the same for all, so that the policy's gradient is exactly 0."""
    return [0.0] * len(completions)


class Gradients(TrainerCallback):
    """Keeps of each optimiser step the gradient that it is made from, and that of the whole batch."""

    def __init__(self):
        self.trainer, self.kept, self.whole = None, [], []

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        named = {name.removeprefix("module."): p for name, p in model.named_parameters()}
        self.kept.append({n: p.grad.clone() for n, p in named.items() if p.grad is not None})
        trainer, n = self.trainer, self.trainer.current_gradient_accumulation_steps
        last = trainer._step % args.steps_per_generation or args.steps_per_generation
        settings = trainer._align_settings
        self.whole.append(
            whole_gradient(model, trainer._buffered_inputs[last - n : last], settings)
        )


def whole_gradient(model, pieces, settings):
    """The gradient of `hidden_align` on all rollouts at once, times the weight, by parameter."""
    hidden = []
    for piece in pieces:
        ids = torch.cat([piece["prompt_ids"], piece["completion_ids"]], 1)
        mask = torch.cat([piece["prompt_mask"], piece["completion_mask"]], 1)
        output = model(
            input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False
        )
        hidden.append(output.hidden_states)
    column = torch.cat([piece["geomrl_column"] for piece in pieces])
    group = torch.cat([piece["geomrl_group"] for piece in pieces])
    correct = torch.cat([piece["geomrl_correct"] for piece in pieces])
    rows = (column >= 0).nonzero()[:, 0]
    losses = []
    for layer in settings.layers:
        at = -1 if layer == "final" else int(layer)
        states = torch.cat([own[at][r, c][None] for own, piece in zip(hidden, pieces, strict=True)
                            for r, c in enumerate(piece["geomrl_column"].tolist()) if c >= 0])  # fmt: skip
        told = relabel(settings.rollouts, group[rows], correct[rows], seed=0)
        losses.append(hidden_align(states, *told, settings.kind))
    loss = settings.weight * torch.stack(losses).mean()
    named = {n.removeprefix("module."): p for n, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: g for name, g in zip(named, found, strict=True) if g is not None}


def distance(gradient, wanted):
    """|difference| / |wanted| over all parameters; the others' gradients are part of the difference."""
    names = gradient.keys() | wanted.keys()
    zero = {name: torch.zeros_like((gradient | wanted)[name]) for name in names}
    away = [(gradient.get(n, zero[n]) - wanted.get(n, zero[n])).double().flatten() for n in names]
    norm = torch.cat([g.double().flatten() for g in wanted.values()]).norm()
    return float(torch.cat(away).norm() / norm)


def reasoner(**changed):
    model = AutoModelForCausalLM.from_pretrained(checkpoint_path(), dtype=torch.float32)
    for name, value in changed.items():
        setattr(model.config, name, value)
    return model


def build_trainer(
    trainer_class, folder, *, steps=1, micro_batches=1, world=1, model=None, **changed
):
    """A trainer with 2 problems' 8 rollouts each an optimiser step; `changed`: of the GRPOConfig, or
    of the class where the name is one of its own."""
    from datasets import Dataset
    from trl import GRPOConfig

    settings = {
        "output_dir": str(folder), "max_steps": steps, "seed": 3, "learning_rate": 1e-3,
        "per_device_train_batch_size": ROLLOUTS // micro_batches // world,
        "gradient_accumulation_steps": micro_batches, "num_generations": 8,
        "max_completion_length": 80, "max_grad_norm": 0.0, "logging_steps": 1, "save_strategy": "no",
        "report_to": "none", "bf16": False, "use_cpu": True, "gradient_checkpointing": False,
        "disable_tqdm": True, "ddp_backend": "gloo" if world > 1 else None,
    }  # fmt: skip
    own = (
        "alignment",
        "correct_from",
        "correct_above",
        "marker",
        "reward_funcs",
        "callbacks",
        "peft_config",
    )
    arguments = {name: changed.pop(name) for name in own if name in changed}
    problems = list(islice(training_problems(4), 64))
    return trainer_class(
        model=reasoner() if model is None else model,
        processing_class=AutoTokenizer.from_pretrained(checkpoint_path()),
        args=GRPOConfig(**settings | changed),
        train_dataset=Dataset.from_dict(
            {
                "prompt": [[{"role": "user", "content": p.statement}] for p in problems],
                "gold": [p.gold for p in problems],
            }
        ),
        **{"reward_funcs": accuracy} | arguments,
    )


def aligned_steps(folder, micro_batches, world=1, **changed):
    """Steps whose policy gradient is 0: (gradients of each, the trainer)."""
    from geomrl.integrations.trl import HiddenAlignGRPOTrainer

    gradients = Gradients()
    gradients.trainer = build_trainer(
        HiddenAlignGRPOTrainer, folder, micro_batches=micro_batches, world=world, callbacks=[gradients],
        reward_funcs=[nothing, accuracy], reward_weights=[1.0, 0.0], correct_from="accuracy",
        **{"alignment": {"weight": WEIGHT}} | changed,
    )  # fmt: skip
    gradients.trainer.train()
    return gradients, gradients.trainer


if __name__ == "__main__":
    out, parts = sys.argv[1:]
    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        gradients, trainer = aligned_steps(temporary, int(parts), world=2)
        found = gradients.kept[0], trainer._buffered_inputs, trainer.state.log_history[0]
        torch.save(found, f"{out}.{trainer.accelerator.process_index}")
        torch.distributed.destroy_process_group()
