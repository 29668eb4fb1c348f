"""The update phase of a training step: old log-probabilities, then the optimiser's updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from geomrl.seeds import derive_rng, derive_seed
from geomrl.train.alignment_term import Table, is_group_local
from geomrl.train.batch import Sample
from geomrl.train.clock import timed
from geomrl.train.config import AlignmentConfig, TrainConfig
from geomrl.train.gauges import alignment_metrics
from geomrl.train.minibatch import MiniBatch
from geomrl.train.passes import score
from geomrl.train.planning import group_members, groups_fit
from geomrl.train.positions import alignment_labels, alignment_weight
from geomrl.train.rates import Work, scoring_work, update_work
from geomrl.train.setup import Setup
from geomrl.train.update import mean_metrics, optimiser_step

Tick = Callable[[str], None]
"""Told the name of each point that is reached; tests stop runs there."""


@dataclass(frozen=True)
class Learnt:
    """What the update phase did: metrics to log, those of each optimiser update, work by phase."""

    metrics: dict[str, float]
    updates: list[dict[str, float]]
    work: dict[str, Work]


def update_phase(
    setup: Setup, samples: list[Sample], step: int, updates: int, tick: Tick = lambda point: None
) -> Learnt:
    """Learn from a step's rollouts: everything of a training step but the sampling.

    Args:
        setup: the run's parts.
        samples: the step's rollouts with their advantages, the same on every rank.
        step: the training step.
        updates: optimiser updates made before it.
        tick: called with the name of each point that is reached.
    """
    config, alignment, display = setup.config, setup.config.alignment, setup.display
    with timed("old_logprobs") as scoring:
        batches, tables = _mini_batches(setup, samples, step)
        tick("old_logprobs")
    weight = alignment_weight(alignment, step) if alignment is not None else 0.0
    found, states = [], []
    with timed("update") as updating:
        for number, batch in enumerate(batches):

            def progress(done: int, total: int, number: int = number) -> None:
                tick("micro_batch")
                display.phase("update", number * total + done, len(batches) * total)

            result = optimiser_step(
                setup.engine,
                setup.extractor if alignment is not None else None,
                batch,
                config,
                learning_rate=learning_rate(config, updates + number),
                weight=weight,
                table=tables[number],
                progress=progress,
            )
            found.append(result.metrics)
            states.append(result.table)
    metrics = mean_metrics(found)
    if alignment is not None:
        metrics |= _gauges(alignment.layers[-1], batches, states, len(samples))
        metrics["weight/align"] = weight
    work = {"update": update_work(setup.flops, samples)}
    if _scores(config):
        work["old_logprobs"] = scoring_work(setup.flops, samples)
    return Learnt(metrics | scoring | updating, found, work)


def learning_rate(config: TrainConfig, updates: int) -> float:
    """Return the rate of the next update: a linear rise over `warmup_updates`, then constant."""
    warmup = config.optimiser.warmup_updates
    return config.optimiser.lr * min(1.0, (updates + 1) / warmup if warmup else 1.0)


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
    old_table = _reads_old_table(config)
    mode = config.rollout.old_logprobs
    scored: list[torch.Tensor] | None = None
    states: Table = {}
    if _scores(config):
        reads = alignment is not None and (old_table or _table_helps(alignment, samples, config))
        scored, states = score(
            setup.engine,
            samples,
            budget=budget,
            packing=config.micro_batch.packing,
            extractor=setup.extractor if reads else None,
            anchors=anchors or [],
            layers=alignment.layers if alignment is not None and reads else [],
            progress=lambda done, total: setup.display.phase("old logprobs", done, total),
        )
    reference = None
    if setup.reference is not None:
        reference = score(
            setup.reference, samples, budget=budget, packing=config.micro_batch.packing
        )[0]
    row = {i: r for r, i in enumerate(i for i, a in enumerate(anchors or []) if a is not None)}
    batches: list[MiniBatch] = []
    tables: list[Table | None] = []
    for number, chosen in enumerate(deal_groups(samples, updates, config.seed, step)):
        part = [samples[i] for i in chosen]
        own = [anchors[i] for i in chosen] if anchors is not None else None
        labels = None
        if alignment is not None and own is not None:
            seed = derive_seed(config.seed, "control", step, number)
            labels = alignment_labels(part, own, alignment, seed)
        batches.append(
            MiniBatch(
                samples=part,
                old=[_old(samples[i], scored[i] if scored else None, mode, step) for i in chosen],
                reference=[reference[i] for i in chosen] if reference is not None else None,
                anchors=own,
                labels=labels,
                step=step,
            )
        )
        rows = [row[i] for i in chosen if i in row]
        # Under "auto" the pass's states serve the first update alone: then the weights move on.
        used = bool(states) and (old_table or number == 0)
        tables.append({k: v[rows] for k, v in states.items()} if used else None)
    return batches, tables


def _reads_old_table(config: TrainConfig) -> bool:
    return config.alignment is not None and config.alignment.table == "old_logprobs"


def _scores(config: TrainConfig) -> bool:
    """Say whether a pass for old log-probabilities is made."""
    mode, updates = config.rollout.old_logprobs, config.dapo.updates_per_rollout
    return mode == "trainer" or _reads_old_table(config) or (mode == "auto" and updates > 1)


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


def deal_groups(samples: list[Sample], updates: int, seed: int, step: int) -> list[list[int]]:
    """Return each update's rollouts: whole groups, shuffled, in equal numbers.

    Groups that are only aligned are dealt apart, so that every update has some to train on.
    """
    groups = group_members([sample.group for sample in samples])
    order = derive_rng(seed, "mini-batches", step).permutation(len(groups))
    trained = np.array([samples[groups[number][0]].trained for number in order], dtype=bool)
    n = min(updates, int(trained.sum()))
    shares = zip(np.array_split(order[trained], n), np.array_split(order[~trained], n), strict=True)
    return [[i for number in (*a, *b) for i in groups[number]] for a, b in shares]


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
