"""One-rank runs of tests/train/test_train_loop.py: whole trainings, and what must stop them."""

import gc
import json
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
from training import build_batch, build_config, build_policy, build_samples

from geomrl.errors import GeomrlError
from geomrl.train import trainer
from geomrl.train.config import load_config
from geomrl.train.deepspeed_engine import DeepSpeedEngine
from geomrl.train.update import optimiser_step
from geomrl.train.world import join_world

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
SMALL = [
    "evaluation=null", "data.prompts_per_step=3", "micro_batch.tokens=400",
    "dapo.updates_per_rollout=1", "dapo.max_rounds=3", "optimiser.warmup_updates=0",
]  # fmt: skip
RICH = [
    *SMALL, "seed=4", "steps=2", "rollout.samples=6", "rollout.mismatch_stop=0.01",
    "model.lora.rank=4", "model.lora.alpha=16", "dapo.kl=0.05",
    "rollout.temperature=0.5", "dapo.surplus=discard", "alignment.all_correct_groups=true",
    "alignment.layers=[-2,final]", "alignment.kind=contrastive_problems", "optimiser.lr=0.003",
]  # fmt: skip
LARGE = [*SMALL, "steps=1", "optimiser.lr=0.1"]
MOVING = [*SMALL, "steps=2", "optimiser.lr=0.001"]
ZEROS = (0, 1, 2, 3)


@contextmanager
def meddling(meddle):
    """Call `meddle(setup, point, occurrence)` at each point that a training reaches."""
    real, setups, seen = trainer.build, [], Counter()

    @contextmanager
    def build(*arguments, **named):
        with real(*arguments, **named) as setup:
            setups.append(setup)
            yield setup

    def tick(point):
        seen[point] += 1
        if setups:
            meddle(setups[0], point, seen[point])

    trainer.build = build
    try:
        yield tick
    finally:
        trainer.build = real


def stopped(settings, out, meddle=lambda *_: None):
    """Train until an error; return its words."""
    config = load_config(SMOKE, settings)
    try:
        with meddling(meddle) as tick:
            trainer.train(config, out, show=False, tick=tick)
    except GeomrlError as error:
        return str(error)
    return "finished"


def plant_nan(at):
    """At a point's occurrence, damage one row of a weight, as an overflow would."""

    def meddle(setup, point, occurrence):
        if (point, occurrence) == at:
            with torch.no_grad():
                setup.engine.policy.model.model.layers[1].mlp.up_proj.weight[3] = torch.nan

    return meddle


def stop_pushing(setup, point, occurrence):
    """From the first update on, the engine that samples keeps the weights that it has."""
    if point == "micro_batch":
        setup.sampler._push = lambda: None


def count_models(counts):
    """At the first update, note how many whole language models the process holds."""

    def meddle(setup, point, occurrence):
        if (point, occurrence) == ("micro_batch", 1):
            kind = type(setup.engine.policy.model)
            counts.append(sum(isinstance(held, kind) for held in gc.get_objects()))

    return meddle


def damaged_gradient(world, zero):
    """An optimiser step whose loss is finite and whose gradient is not."""
    config = build_config(deepspeed={"zero": zero}, optimiser={"clip_norm": 1.0})
    policy = build_policy()
    engine = DeepSpeedEngine(policy, config, world)
    policy.model.model.layers[1].mlp.register_full_backward_hook(
        lambda module, inputs, outputs: tuple(g * torch.nan for g in inputs)
    )
    try:
        optimiser_step(
            engine, None, build_batch(build_samples(), config), config, learning_rate=1e-3
        )
    except GeomrlError as error:
        return str(error)
    return "finished"


def main(folder):
    torch.set_num_threads(1)
    hopeless = folder / "hopeless.jsonl"
    lines = [{"problem": f"What is {a}+{b}?", "answer": "12345"} for a in (3, 4) for b in (5, 6)]
    hopeless.write_text("".join(json.dumps(line) + "\n" for line in lines))
    none = [*SMALL, f"data.problems={hopeless}", "dapo.max_rounds=2", "steps=1"]
    with join_world() as world:
        counts = []
        with meddling(count_models(counts)) as tick:
            trainer.train(load_config(SMOKE, RICH), folder / "rich", show=False, tick=tick)
        trainer.train(load_config(SMOKE, LARGE), folder / "large", show=False)
        words = {
            "models": counts,
            "nan before sampling": stopped(MOVING, folder / "a", plant_nan(("generate", 2))),
            "nan before the update": stopped(MOVING, folder / "b", plant_nan(("old_logprobs", 2))),
            "stale": stopped(
                [*MOVING, "rollout.mismatch_stop=0.01"], folder / "stale", stop_pushing
            ),
            "no group": stopped(none, folder / "none"),
        }
        words |= {f"nan gradient, zero {z}": damaged_gradient(world, z) for z in ZEROS}
    (folder / "words.json").write_text(json.dumps(words))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
