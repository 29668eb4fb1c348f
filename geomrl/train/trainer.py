"""The training loop: dynamic sampling, scoring, update, evaluation, checkpoint.

Hidden-Align ("Right Makes Might", arXiv 2606.03234) on top of DAPO (arXiv 2503.14476). Every draw
comes from a seed and a label, and every count is in the checkpoint, so that a
killed run resumes bit-exactly.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from geomrl.errors import GeomrlError
from geomrl.files import user_code_as_it_is, write_parquet
from geomrl.rollout.engine import Sampling
from geomrl.train.advantage import group_advantages
from geomrl.train.batch import Sample, samples_table, sampling_columns, with_advantages
from geomrl.train.checkpoint import (
    TrainState,
    load_checkpoint,
    save_checkpoint,
    save_model,
    seed_generators,
)
from geomrl.train.clock import timed
from geomrl.train.config import TrainConfig
from geomrl.train.display import TrainDisplay
from geomrl.train.dynamic_sampling import Collected, TrainingPrompt, collect_groups
from geomrl.train.held_out import evaluate
from geomrl.train.preflight import check
from geomrl.train.rates import Work, rates, sampling_work
from geomrl.train.setup import Setup, build
from geomrl.train.start import go_on, open_run
from geomrl.train.update_phase import Tick, update_phase
from geomrl.train.world import is_first, join_world, world_size


def train(
    config: TrainConfig,
    out: Path | str,
    *,
    resume: bool = False,
    show: bool = True,
    tick: Tick = lambda point: None,
) -> Path:
    """Train a policy into the run folder `out`, and return the folder of the trained model.

    DeepSpeed remembers the process group of its first engine, so several trainings in one process
    must share one: `with join_world(): train(a, ...); train(b, ...)` (`geomrl.train.world`).

    Args:
        config: the run's configuration.
        out: the run's folder.
        resume: from the newest whole checkpoint (from the start where there is none yet).
            Settings that decide memory, speed or rounding alone may have changed.
        show: show progress.
        tick: called with the name of each point that is reached.

    Raises:
        GeomrlError: see the message. What is on disk stays, and `resume` continues from there.
    """
    run = Path(out)
    with ExitStack() as stack:
        stack.enter_context(user_code_as_it_is())
        lines = check(config, world_size(), run)
        world = stack.enter_context(join_world())
        stack.enter_context(world.watchdog.watch(config.log.stalled_after))
        start = stack.enter_context(open_run(config, run, world, resume=resume))
        display = stack.enter_context(
            TrainDisplay(config.steps, show=show and is_first(), watchdog=world.watchdog)
        )
        for line in start.lines:
            display.say(line)
        setup = stack.enter_context(
            build(config, run, world=world, lines=lines if show else [], display=display)
        )
        seed_generators(config.seed, world.rank)
        checkpoint = start.point.checkpoint
        state = load_checkpoint(checkpoint, setup.engine) if checkpoint else TrainState()
        world.first_does(lambda: go_on(config, run, start, setup.log))
        evaluation = config.evaluation
        if state.step == 0 and evaluation is not None and evaluation.at_start:
            with timed("evaluate") as times:
                found = _evaluate(setup, 0, tick)
            _report(setup, 0, found | times)
        while state.step < config.steps:
            step = state.step + 1
            metrics = training_step(setup, state, step, tick)
            if evaluation is not None and _due(step, evaluation.every, config.steps):
                with timed("evaluate") as times:
                    metrics |= _evaluate(setup, step, tick)
                metrics |= times
            _report(setup, step, metrics)
            if _due(step, config.checkpoint.every, config.steps):
                display.phase("save")
                save_checkpoint(
                    run, setup.engine, setup.tokenizer, state,
                    keep=config.checkpoint.keep, model=config.checkpoint.model, tick=tick,
                )  # fmt: skip
        save_model(run / "model", setup.engine, setup.tokenizer)
        world.barrier()
    return run / "model"


def training_step(setup: Setup, state: TrainState, step: int, tick: Tick) -> dict[str, float]:
    """Run one training step: a rollout batch and the updates on it. Advances `state`."""
    config = setup.config
    started = time.perf_counter()
    with timed("generate") as generating:
        tick("generate")
        collected, sampled = _collect(setup, state, step)
        samples = _trained_samples(collected, config)
        setup.sampler.sleep()
    learnt = update_phase(setup, samples, step=step, updates=state.updates, tick=tick)
    state.updates += len(learnt.updates)
    setup.sampler.weights_changed()
    state.step, state.cursor, state.carried = step, collected.cursor, collected.carried
    metrics = _rollout_metrics(samples, collected) | learnt.metrics
    _check_mismatch(metrics["mismatch/mean"], config, step)
    _write_rollouts(setup, samples, step)
    metrics |= generating | {"time/step": time.perf_counter() - started}
    return metrics | _pace(setup, metrics, {"generate": sampled, **learnt.work})


def _pace(setup: Setup, metrics: dict[str, float], work: dict[str, Work]) -> dict[str, float]:
    """Return the step's rates: tokens, model FLOPs and MFU."""
    devices = setup.world.size
    seconds = {phase: metrics[f"time/{phase}"] for phase in ("step", *work)}
    rate = metrics["tokens"] / seconds["step"]
    return {
        "time/tokens_per_second": rate,
        "time/tokens_per_second_device": rate / devices,
        **rates(work, seconds, devices=devices, peak=setup.peak),
    }


def _collect(setup: Setup, state: TrainState, step: int) -> tuple[Collected, Work]:
    """Return the groups of one step, by dynamic sampling: those that are partly correct.

    With them comes what all sampling took, that of groups which were dropped too.
    """
    config = setup.config
    work: list[Work] = []

    def sample(prompts: list[TrainingPrompt], number: int) -> list[list[Sample]]:
        def progress(done: int, total: int) -> None:
            setup.display.phase(f"generate {number + 1}", done, total)

        groups = setup.sampler.sample(
            prompts,
            config.rollout.samples,
            _sampling(config),
            policy_step=step,
            seed=config.seed,
            purpose=("train", step),
            progress=progress,
        )
        work.append(sampling_work(setup.flops, groups))
        return groups

    collected = collect_groups(
        sample,
        setup.prompts,
        order=setup.order,
        cursor=state.cursor,
        carried=state.carried,
        wanted=config.data.prompts_per_step,
        dapo=config.dapo,
    )
    return collected, sum(work, Work())


def _sampling(config: TrainConfig) -> Sampling:
    """Return how training rollouts are drawn: from the policy itself, nothing cut off."""
    return Sampling(config.rollout.temperature, 1.0, 0, config.rollout.max_tokens)


def _trained_samples(collected: Collected, config: TrainConfig) -> list[Sample]:
    """Return the step's rollouts with their advantages, group by group."""
    samples = [sample for group in collected.groups for sample in group]
    advantages = group_advantages(
        torch.tensor([sample.reward for sample in samples], dtype=torch.float64),
        torch.tensor([sample.group for sample in samples]),
        std=config.dapo.std_advantage,
    )
    samples = with_advantages(samples, advantages.tolist())
    if config.alignment is not None and config.alignment.all_correct_groups:
        # An assumption of ours, off by default: groups without a policy gradient are aligned too.
        samples += [s.aligned_only() for group in collected.all_correct for s in group]
    return samples


def _rollout_metrics(samples: list[Sample], collected: Collected) -> dict[str, float]:
    """Return what the rollouts themselves say, before any update."""
    rewards = np.array([sample.reward for sample in samples if sample.trained])
    groups = np.array([sample.group for sample in samples if sample.trained])
    lengths = np.array([len(sample.response_ids) for sample in samples])
    spread = [rewards[groups == group].std(ddof=1) for group in np.unique(groups)]
    verdicts = Counter(sample.verdict for sample in samples)
    kept = [sample for group in collected.groups for sample in group]
    return {
        "reward/mean": float(rewards.mean()),
        "reward/group_std": float(np.mean(spread)),
        "pass_rate": collected.pass_rate,
        "pass_rate/kept": float(np.mean([sample.correct for sample in kept])),
        **{name: float(count) for name, count in collected.counts.items()},
        "length/mean": float(lengths.mean()),
        "length/max": float(lengths.max()),
        "length/truncated": float(np.mean([s.finish_reason == "length" for s in samples])),
        "no_answer": verdicts["no_answer"] / len(samples),
        "timeout": verdicts["timeout"] / len(samples),
    }


def _check_mismatch(mismatch: float, config: TrainConfig, step: int) -> None:
    """Stop where the engine that samples and the policy that learns disagree.

    Raises:
        GeomrlError: they do.
    """
    if mismatch > config.rollout.mismatch_stop:
        raise GeomrlError(
            f"step {step}: the trainer's and the rollout engine's log-probabilities differ by "
            f"{mismatch:.3f} nats on average (healthy is about .015; rollout.mismatch_stop is "
            f"{config.rollout.mismatch_stop}). The engine's weights or number format are not the "
            "policy's: compare model.dtype with the engine's, and look for a failed weight push"
        )


def _write_rollouts(setup: Setup, samples: list[Sample], step: int) -> None:
    every = setup.config.log.rollouts_every
    if setup.world.first and every and step % every == 0:
        drawn = sampling_columns(setup.config.model.name, _sampling(setup.config))
        table = samples_table(samples).assign(**drawn)
        write_parquet(setup.run / "rollouts" / f"step-{step:06d}.parquet", table)
    setup.display.rollouts(samples[: setup.config.log.show_rollouts], setup.config.data.marker)


def _evaluate(setup: Setup, step: int, tick: Tick) -> dict[str, float]:
    tick("evaluate")
    found = evaluate(
        setup.held_out,
        setup.sampler,
        engine=setup.engine,
        extractor=setup.extractor,
        finder=setup.finder,
        config=setup.config,
        step=step,
        out=setup.run / "eval" / f"step-{step:06d}",
        progress=lambda done, total: setup.display.phase("evaluate", done, total),
    )
    tick("evaluated")
    return found


def _report(setup: Setup, step: int, metrics: dict[str, float]) -> None:
    if setup.world.first:
        setup.log.append(step, metrics)
        setup.display.step(step, metrics)


def _due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last
