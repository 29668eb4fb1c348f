"""The training loop: sample, keep the groups that teach, score, update, evaluate, save.

Hidden-Align ("Right Makes Might", arXiv 2606.03234) on top of DAPO (arXiv 2503.14476). Every draw
comes from a seed and a label, and every count is in the checkpoint, so a run that was killed goes
on to the bit.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch

from geomrl.errors import GeomrlError
from geomrl.files import write_parquet
from geomrl.rollout.engine import Sampling
from geomrl.seeds import derive_rng, derive_seed
from geomrl.train.advantage import group_advantages
from geomrl.train.alignment_term import Table, is_group_local
from geomrl.train.batch import Sample, samples_table, sampling_columns, with_advantages
from geomrl.train.checkpoint import (
    TrainState,
    forget_later,
    load_checkpoint,
    save_checkpoint,
    save_model,
    seed_generators,
)
from geomrl.train.collect import Collected, TrainingPrompt, collect_groups
from geomrl.train.config import AlignmentConfig, TrainConfig
from geomrl.train.display import TrainDisplay
from geomrl.train.evaluation import evaluate
from geomrl.train.gauges import alignment_metrics
from geomrl.train.minibatch import MiniBatch
from geomrl.train.passes import score
from geomrl.train.planning import groups_fit
from geomrl.train.positions import alignment_labels, alignment_weight
from geomrl.train.preflight import check
from geomrl.train.setup import Setup, begin_run, build
from geomrl.train.update import mean_metrics, optimiser_step
from geomrl.train.world import is_first, join_world, world_size

Tick = Callable[[str], None]
"""Told the name of each point that the loop reaches; tests stop runs there."""


def train(
    config: TrainConfig,
    out: Path | str,
    *,
    resume: bool = False,
    show: bool = True,
    tick: Tick = lambda point: None,
) -> Path:
    """Train a policy into the run folder `out`, and return the folder of the trained model.

    Args:
        config: the run's configuration.
        out: the run's folder.
        resume: go on from the newest whole checkpoint (from the start where there is none yet).
        show: show progress.
        tick: told each point that is reached.

    Raises:
        GeomrlError: see the message. What is on disk stays, and `resume` goes on from there.
    """
    run = Path(out)
    lines = check(config, world_size())
    with ExitStack() as stack:
        world = stack.enter_context(join_world())
        begin_run(config, run, world, resume=resume)
        display = stack.enter_context(TrainDisplay(config.steps, show=show and is_first()))
        setup = stack.enter_context(build(config, run, world, lines if show else [], display))
        seed_generators(config.seed, world.rank)
        state = load_checkpoint(run, setup.engine) or TrainState()
        if world.first:
            forget_later(run, state.step)
            setup.log.rewind(state.step if state.step else -1)
        world.barrier()
        evaluation = config.evaluation
        if state.step == 0 and evaluation is not None and evaluation.at_start:
            with _timed("evaluate") as times:
                found = _evaluate(setup, 0, tick)
            _report(setup, 0, found | times)
        while state.step < config.steps:
            step = state.step + 1
            metrics = training_step(setup, state, step, tick)
            if evaluation is not None and _due(step, evaluation.every, config.steps):
                with _timed("evaluate") as times:
                    metrics |= _evaluate(setup, step, tick)
                metrics |= times
            _report(setup, step, metrics)
            if _due(step, config.checkpoint.every, config.steps):
                display.phase("save")
                save_checkpoint(
                    run, setup.engine, setup.tokenizer, state,
                    keep=config.checkpoint.keep, tick=tick,
                )  # fmt: skip
        save_model(run / "model", setup.engine, setup.tokenizer)
        world.barrier()
    return run / "model"


def training_step(setup: Setup, state: TrainState, step: int, tick: Tick) -> dict[str, float]:
    """Run one training step: a rollout batch and the updates on it. Advances `state`."""
    config, display = setup.config, setup.display
    started = time.perf_counter()
    with _timed("generate") as generating:
        tick("generate")
        collected = _collect(setup, state, step)
        samples = _trained_samples(collected, config)
        setup.sampler.sleep()
    with _timed("old_logprobs") as scoring:
        batches, tables = _mini_batches(setup, samples, step)
        tick("old_logprobs")
    weight = alignment_weight(config.alignment, step) if config.alignment is not None else 0.0
    found, states = [], []
    with _timed("update") as updating:
        for number, batch in enumerate(batches):

            def progress(done: int, total: int, number: int = number) -> None:
                tick("micro_batch")
                display.phase("update", number * total + done, len(batches) * total)

            result = optimiser_step(
                setup.engine,
                setup.extractor if config.alignment is not None else None,
                batch,
                config,
                learning_rate=learning_rate(config, state.updates),
                weight=weight,
                table=tables[number],
                progress=progress,
            )
            state.updates += 1
            found.append(result.metrics)
            states.append(result.table)
    setup.sampler.weights_changed()
    state.step, state.cursor, state.carried = step, collected.cursor, collected.carried
    metrics = _rollout_metrics(samples, collected) | mean_metrics(found)
    if config.alignment is not None:
        metrics |= _gauges(config.alignment.layers[-1], batches, states, len(samples))
        metrics["weight/align"] = weight
    _check_mismatch(metrics["mismatch/mean"], config, step)
    _write_rollouts(setup, samples, step)
    total = time.perf_counter() - started
    rate = metrics["tokens"] / total
    times = {"time/step": total, "time/tokens_per_second": rate}
    return metrics | times | generating | scoring | updating


def learning_rate(config: TrainConfig, updates: int) -> float:
    """Return the rate of the next update: a linear rise over `warmup_updates`, then constant."""
    warmup = config.optimiser.warmup_updates
    return config.optimiser.lr * min(1.0, (updates + 1) / warmup if warmup else 1.0)


def _collect(setup: Setup, state: TrainState, step: int) -> Collected:
    """Sample rounds of prompts until enough groups teach something."""
    config = setup.config

    def sample(prompts: list[TrainingPrompt], number: int) -> list[list[Sample]]:
        def progress(done: int, total: int) -> None:
            setup.display.phase(f"generate {number + 1}", done, total)

        return setup.sampler.sample(
            prompts,
            config.rollout.samples,
            _sampling(config),
            policy_step=step,
            seed=config.seed,
            purpose=("train", step),
            progress=progress,
        )

    return collect_groups(
        sample, setup.prompts, setup.order, state.cursor, state.carried,
        wanted=config.data.prompts_per_step, dapo=config.dapo,
    )  # fmt: skip


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


def _mini_batches(
    setup: Setup, samples: list[Sample], step: int
) -> tuple[list[MiniBatch], list[Table | None]]:
    """Cut the rollouts into the step's optimiser updates, with all that their losses need.

    Returns, for each update, also the alignment table of the old log-probabilities' pass, where
    that pass is made and the table is to be used.
    """
    config, alignment = setup.config, setup.config.alignment
    updates = config.dapo.updates_per_rollout
    budget = config.micro_batch.tokens
    anchors = None
    if alignment is not None:
        anchors = [setup.finder.alignment_position(s, alignment.anchor) for s in samples]
    old_table = alignment is not None and alignment.table == "old_logprobs"
    mode = config.rollout.old_logprobs
    scored: list[torch.Tensor] | None = None
    states: Table = {}
    if mode == "trainer" or old_table or (mode == "auto" and updates > 1):
        reads = alignment is not None and (old_table or _table_helps(alignment, samples, config))
        scored, states = score(
            setup.engine,
            samples,
            budget=budget,
            extractor=setup.extractor if reads else None,
            anchors=anchors or [],
            layers=alignment.layers if alignment is not None and reads else [],
            progress=lambda done, total: setup.display.phase("old logprobs", done, total),
        )
    reference = None
    if setup.reference is not None:
        reference = score(setup.reference, samples, budget=budget)[0]
    row = {i: r for r, i in enumerate(i for i, a in enumerate(anchors or []) if a is not None)}
    batches: list[MiniBatch] = []
    tables: list[Table | None] = []
    for number, chosen in enumerate(_parts(samples, updates, config.seed, step)):
        part = [samples[i] for i in chosen]
        own = [anchors[i] for i in chosen] if anchors is not None else None
        labels = None
        if alignment is not None and own is not None:
            seed = derive_seed(config.seed, "control", step, number)
            labels = alignment_labels(part, own, alignment, seed)
        batches.append(
            MiniBatch(
                part,
                [_old(samples[i], scored[i] if scored else None, mode, step) for i in chosen],
                [reference[i] for i in chosen] if reference is not None else None,
                own,
                labels,
                step,
            )
        )
        rows = [row[i] for i in chosen if i in row]
        # Under "auto" the pass's states serve the first update alone: then the weights move on.
        used = bool(states) and (old_table or number == 0)
        tables.append({k: v[rows] for k, v in states.items()} if used else None)
    return batches, tables


def _table_helps(alignment: AlignmentConfig, samples: list[Sample], config: TrainConfig) -> bool:
    """Say whether a pass's states could be of use under "auto": whole groups need none."""
    lengths, groups = [s.n_tokens for s in samples], [s.group for s in samples]
    budget = config.micro_batch.tokens
    whole = config.micro_batch.keep_groups and groups_fit(lengths, groups, budget)
    return alignment.table == "auto" and not (whole and is_group_local(alignment))


def _old(sample: Sample, scored: torch.Tensor | None, mode: str, step: int) -> torch.Tensor | None:
    """Return the log-probabilities that a rollout's ratio is taken to; None is the present ones."""
    if mode == "engine" or sample.policy_step < step:  # carried over: its own policy's are known
        return torch.tensor(sample.logprobs, dtype=torch.float64)
    return scored


def _parts(samples: list[Sample], updates: int, seed: int, step: int) -> list[list[int]]:
    """Return each update's rollouts: whole groups, shuffled, in equal numbers.

    Groups that are only aligned are dealt apart, so that every update has some to train on.
    """
    members: dict[int, list[int]] = {}
    for index, sample in enumerate(samples):
        members.setdefault(sample.group, []).append(index)
    groups = list(members.values())
    order = derive_rng(seed, "mini-batches", step).permutation(len(groups))
    trained = np.array([samples[groups[number][0]].trained for number in order], dtype=bool)
    n = min(updates, int(trained.sum()))
    shares = zip(np.array_split(order[trained], n), np.array_split(order[~trained], n), strict=True)
    return [[i for number in (*a, *b) for i in groups[number]] for a, b in shares]


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


def _gauges(
    layer: str, batches: list[MiniBatch], states: list[Table | None], total: int
) -> dict[str, float]:
    """Return the geometry of the rollouts that were trained on, at the last of the layers."""
    kept = [(b.labels, s[layer]) for b, s in zip(batches, states, strict=True) if s and b.labels]
    table = torch.cat([state for _, state in kept])
    group = torch.cat([labels.true_group for labels, _ in kept])
    correct = torch.cat([labels.true_correct for labels, _ in kept])
    found = alignment_metrics(table, group, correct).as_dict()
    return {
        **{f"align/{name}": float(value) for name, value in found.items() if name != "eligible"},
        "align/without_anchor": float(total - len(table)),
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
        setup.engine,
        setup.extractor,
        setup.finder,
        setup.config,
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


@contextmanager
def _timed(phase: str) -> Iterator[dict[str, float]]:
    """Fill in how long the block took, as a metric."""
    times: dict[str, float] = {}
    started = time.perf_counter()
    yield times
    times[f"time/{phase}"] = time.perf_counter() - started
