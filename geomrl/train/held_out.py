"""Evaluate during training: held-out pass@1 and pass@k with intervals, and the geometry there.

The same problems, samples' seeds and anchors every time, so that a run is a trajectory and two
evaluations differ by their weights alone. RUN/eval/step-000010 contains the rollouts, the similarity
table (see `geomrl.geometry.similarity`) and the figures that go into `metrics.jsonl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from geomrl.errors import GeomrlError
from geomrl.files import user_code_name, write_json, write_parquet
from geomrl.geometry.similarity import similarity_table
from geomrl.probe.extractor import Extractor
from geomrl.progress import Progress
from geomrl.rollout.engine import Sampling
from geomrl.runs.layout import ROLLOUTS, SIMILARITY, SUMMARY
from geomrl.runs.rollouts import SCHEMA, with_answer_classes
from geomrl.stats.intervals import Interval, mean_interval
from geomrl.stats.passk import count_correct, pass_at_k
from geomrl.train.batch import Sample, samples_table, sampling_columns
from geomrl.train.config import EvaluationConfig, TrainConfig
from geomrl.train.deepspeed_engine import Engine
from geomrl.train.dynamic_sampling import TrainingPrompt
from geomrl.train.passes import read_states
from geomrl.train.positions import AnchorFinder
from geomrl.train.sampling import Sampler

N_BOOT = 1000
N_PERM = 200
_CELLS = ("CC", "II", "CI", "II_same_answer", "floor", "CC-II", "CC-II_same_answer")
_RANKS = ("effective_rank", "participation_ratio")


def evaluate(
    prompts: Sequence[TrainingPrompt],
    sampler: Sampler,
    engine: Engine,
    extractor: Extractor,
    finder: AnchorFinder,
    config: TrainConfig,
    *,
    step: int,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Sample, grade, read and compare; return the step's `eval/` metrics on every rank.

    Args:
        prompts: the held-out problems.
        sampler: with the policy's present weights.
        engine: around the policy.
        extractor: of the policy, called through the engine.
        finder: of anchors.
        config: with a section `evaluation`.
        step: the training step after which this is.
        out: RUN/eval/step-...; rank 0 writes there.
        progress: called with how much is sampled.
    """
    settings = config.evaluation
    if settings is None:
        raise ValueError("the configuration has no section evaluation")
    sampling = Sampling(
        settings.temperature, settings.top_p, 0, settings.max_tokens or config.rollout.max_tokens
    )
    groups = sampler.sample(
        prompts,
        settings.samples,
        sampling,
        policy_step=step,
        seed=settings.seed,
        purpose=("evaluation",),
        progress=progress,
    )  # fmt: skip
    samples = [sample for group in groups for sample in group]
    positions = [finder.find(sample, settings.anchors) for sample in samples]
    used = [sorted({p for p in at if p is not None}) for at in positions]
    states = read_states(
        engine,
        extractor,
        sequences=[sample.ids for sample in samples],
        positions=used,
        layers=settings.layers,
        budget=config.micro_batch.tokens,
    )
    if not engine.world.first:
        return {}
    drawn = sampling_columns(config.model.name, sampling)
    rollouts = with_answer_classes(samples_table(samples).assign(**drawn), sampler.verifier)
    metrics = accuracy(samples, settings, config.seed)
    tables, notes = [], []
    for benchmark in dict.fromkeys(sample.benchmark for sample in samples):
        table, note = _geometry(
            rollouts,
            benchmark,
            positions=positions,
            used=used,
            states=states,
            settings=settings,
            seed=config.seed,
            step=step,
        )
        notes += [note] if note else []
        if table is not None:
            tables.append(table)
            metrics |= _geometry_metrics(table, "" if len(tables) == 1 else f"{benchmark}/")
    write_parquet(out / ROLLOUTS, rollouts, SCHEMA)
    if tables:
        write_parquet(out / SIMILARITY, pd.concat(tables, ignore_index=True))
    write_json(out / SUMMARY, {"step": step, "metrics": _finite(metrics), "notes": notes})
    return metrics


def accuracy(samples: Sequence[Sample], settings: EvaluationConfig, seed: int) -> dict[str, float]:
    """Return pass@1 and pass@k, over all problems and by benchmark, with intervals by problem."""
    benchmarks = list(dict.fromkeys(sample.benchmark for sample in samples))
    metrics: dict[str, float] = {}
    n = settings.samples
    for name in [None, *(benchmarks if len(benchmarks) > 1 else [])]:
        part = [s for s in samples if name is None or s.benchmark == name]
        prefix = "eval" if name is None else f"eval/{name}"
        ids = [f"{s.benchmark}/{s.problem_id}" for s in part]
        counts = count_correct(ids, [s.correct for s in part], n)[1]
        for k in sorted({1, *settings.k}):
            found = mean_interval(
                pass_at_k(counts, n, k), seed=seed, label=f"{prefix}/pass@{k}", n_boot=N_BOOT,
                bounds=(0.0, 1.0),
            )  # fmt: skip
            metrics |= _with_interval(f"{prefix}/pass@{k}", found)
        metrics |= {f"{prefix}/n_problems": len(counts), f"{prefix}/n_samples": n}
    lengths = [len(sample.response_ids) for sample in samples]
    silent = [sample.verdict == "no_answer" for sample in samples]
    return metrics | {
        "eval/length": float(np.mean(lengths)),
        "eval/no_answer": float(np.mean(silent)),
    }


def _geometry(
    rollouts: pd.DataFrame,
    benchmark: str,
    positions: Sequence[Sequence[int | None]],
    used: Sequence[Sequence[int]],
    states: dict[str, torch.Tensor],
    settings: EvaluationConfig,
    seed: int,
    step: int,
) -> tuple[pd.DataFrame | None, str | None]:
    """Return one benchmark's similarity table, or why there is none."""
    stored = list(map(user_code_name, settings.anchors))
    first = np.cumsum([0, *(len(at) for at in used)])
    here = np.flatnonzero(rollouts["benchmark"] == benchmark).tolist()

    def read(layer: str, anchor: str) -> tuple[pd.DataFrame, Any]:
        column = stored.index(anchor)
        found = [(i, positions[i][column]) for i in here]
        kept = [i for i, position in found if position is not None]
        at = [first[i] + used[i].index(p) for i, p in found if p is not None]
        rows = rollouts.iloc[kept].reset_index(drop=True)
        return rows, states[layer][at].float().numpy()

    try:
        result = similarity_table(
            read, settings.layers, stored, seed=seed, n_boot=N_BOOT, n_perm=N_PERM,
            context={
                "policy": "policy", "encoder": "policy", "step": step, "benchmark": benchmark
            },
        )  # fmt: skip
    except GeomrlError as error:  # no two graded rollouts of one problem: early, or a tiny set
        return None, str(error)
    return result.table, None


def _geometry_metrics(table: pd.DataFrame, prefix: str) -> dict[str, float]:
    """Return the figures that are followed over training, by anchor and layer."""
    metrics: dict[str, float] = {}
    cosines = table[(table["measure"] == "cosine") & (table["weighting"] == "problem")]
    for row in cosines.to_dict("records"):
        if row["cell"] not in _CELLS or row["space"] not in ("raw", "centred"):
            continue
        suffix = "" if row["space"] == "raw" else "_centred"
        key = f"eval/{prefix}{row['anchor']}/{row['layer']}/{row['cell']}{suffix}"
        metrics |= {key: row["value"], f"{key}_low": row["low"], f"{key}_high": row["high"]}
    ranks = table[table["measure"].isin(_RANKS) & (table["cell"] == "C")]
    for row in ranks.to_dict("records"):
        metrics[f"eval/{prefix}{row['anchor']}/{row['layer']}/{row['measure']}"] = row["value"]
    return {key: float(value) for key, value in metrics.items()}


def _with_interval(name: str, found: Interval) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _finite(metrics: dict[str, float]) -> dict[str, float | None]:
    return {k: v if np.isfinite(v) else None for k, v in metrics.items()}
