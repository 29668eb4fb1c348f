"""Make rollouts: problems in, a graded table out, in chunks that survive a kill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.files import read_parquet, remove_leftovers, text_hash, write_parquet
from geomrl.models.identity import tokenizer_hash, vocabulary_hash
from geomrl.models.loading import NamedModel, load_tokenizer
from geomrl.problems.problem import Problem
from geomrl.problems.prompts import Prompt, default_template, render_prompt
from geomrl.progress import Bar, Say
from geomrl.rollout.cut_off import CutOffs
from geomrl.rollout.engine import Completion, Engine, Request, Sampling
from geomrl.rollout.engines import engine_version
from geomrl.rollout.grading import (
    golds_of,
    grade_table,
    record_grading,
    verdict_changes,
    why_grade_again,
)
from geomrl.runs.layout import ROLLOUTS
from geomrl.runs.locks import sole_process
from geomrl.runs.manifest import read_manifest, record_step
from geomrl.runs.rollouts import (
    SCHEMA,
    labels_hash,
    read_rollouts,
    rollout_id,
    write_rollouts,
)
from geomrl.seeds import derive_seed
from geomrl.verify.verifier import Verifier

_FREE = ("chunk", "marker", "engine_version")  # of speed and rounding; of grading
_NEWER = ("tokenizer", "stop_ids", "prompts")


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """What to sample, and with which engine.

    `chunk` rollouts are generated together and are the unit that is redone; with vLLM, which chooses
    how many run at once, a problem is. `engine` is "transformers", "vllm", or "auto" (vLLM where it
    is installed and there is a GPU); `tensor_parallel` devices are joined in one vLLM engine.
    template None takes the benchmark's own; thinking None leaves the chat template's default.
    prompt_tokenizer names the model whose chat template renders the prompts, where that is not to be
    the model's own: two models are compared on the same prompts.
    """

    n: int = 16
    seed: int = 0
    chunk: int = 64
    sampling: Sampling = field(default_factory=Sampling)
    template: str | None = None
    system: str | None = None
    thinking: bool | None = None
    prompt_tokenizer: str | None = None
    engine: str = "auto"
    tensor_parallel: int = 1

    def __post_init__(self) -> None:
        if self.n < 1 or self.chunk < 1:
            raise GeomrlError(f"n = {self.n}, chunk = {self.chunk}: both must be at least 1")


@dataclass(frozen=True)
class _Planned:
    """A rollout before it is sampled: its row so far, and what the engine needs."""

    row: dict[str, Any]
    request: Request


def generate_rollouts(
    model: NamedModel,
    engine: Engine,
    verifier: Verifier,
    problems: Sequence[Problem],
    config: RolloutConfig,
    run: Path,
    bar: Bar | None = None,
    say: Say = lambda line: None,
) -> pd.DataFrame:
    """Sample `config.n` responses a problem into `run/rollouts.parquet` and return the graded table.

    Rollouts are sampled in the (problem, sample) order, `config.chunk` at a time, or a problem at a
    time where the engine schedules. Each batch is written when it is whole, in whatever order that
    is, so a killed run redoes what was in flight, with the same draws; another `chunk` resumes from
    there. Grading follows when all are sampled, and again, from the stored
    responses, where golds, marker or verifier have changed since. `bar` counts
    rollouts; `say` is called with a line where grading is done again, and where many responses are
    cut off at `max_tokens`.

    Raises:
        GeomrlError: the run contains rollouts of other settings, or unfinished ones of another
            sampler (`engines.token_draws`); the model's logits are not finite.
    """
    table_path, parts = run / ROLLOUTS, run / "rollouts.parts"
    recorded = read_manifest(run).get("rollouts", {}).get("settings", {})
    model = model.as_recorded(recorded.get("policy_hash"))
    planned = _plan(model, problems, config)
    golds = {f"{p.benchmark}/{p.problem_id}": str(p.gold) for p in problems}
    settings = rollout_settings(model, verifier, problems=problems, planned=planned, config=config)
    settings |= engine.draw_settings(model.model_config, config.sampling)
    begun = rollouts_begun(run)
    if not (begun and engine.key == "transformers" and "engine" not in recorded):
        # An older geomrl, which had no other engine, recorded none.
        settings |= {"engine": engine.key, "engine_version": engine_version(engine.key)}
    # A whole table of another sampler is as good; a half is never continued with other draws.
    newer = (*_NEWER, "sampler") if table_path.exists() else _NEWER
    record_step(run, "rollouts", settings, begun=begun, free=_FREE, newer=newer)
    if not table_path.exists():
        with sole_process(run / ".rollouts.lock", "a sampling"):
            if not table_path.exists():  # another process may have finished just now
                sampled = _sample_all(
                    model.tokenizer,
                    engine,
                    parts=parts,
                    planned=planned,
                    config=config,
                    bar=bar or Bar(),
                    say=say,
                )
                write_rollouts(table_path, grade_table(sampled, golds, verifier))
                record_grading(run, golds, verifier)
            _forget(parts)
    return grade_again(run, golds, verifier, say)


def grade_again(
    run: Path,
    golds: Mapping[str, str],
    verifier: Verifier,
    say: Say = lambda line: None,
) -> pd.DataFrame:
    """Return a run's table, graded again where golds, marker or verifier have changed.

    Args:
        run: the run directory.
        golds: by "benchmark/problem_id"; empty where the table's own are right.
        verifier: the judge.
        say: called with why, and with how many verdicts changed.
    """
    path = run / ROLLOUTS
    before = read_rollouts(path)
    why = why_grade_again(run, before, golds, verifier)
    if why is None:
        return before
    say(f"grading again: {why}")
    with sole_process(run / ".rollouts.lock", "a grading"):
        write_rollouts(path, grade_table(before, golds, verifier))
        after = read_rollouts(path)
        changed = labels_hash(before) != labels_hash(after)
        record_grading(run, golds or golds_of(after), verifier, labels_changed=changed)
    n = verdict_changes(before, after)
    say(f"{n} of {len(after)} verdicts changed; nothing was sampled again")
    return after


def rollouts_begun(run: Path) -> bool:
    """Say whether a run has rollouts, or some of them."""
    return (run / ROLLOUTS).exists() or any((run / "rollouts.parts").glob("part-*"))


def _sample_all(
    tokenizer: Any,
    engine: Engine,
    parts: Path,
    planned: Sequence[_Planned],
    config: RolloutConfig,
    bar: Bar,
    say: Say,
) -> pd.DataFrame:
    """Return all rollouts in their order, ungraded: those of finished parts, and the others now."""
    remove_leftovers(parts)
    have = set(_finished(parts).get("rollout_id", ()))
    left = [(i, p) for i, p in enumerate(planned) if p.row["rollout_id"] not in have]
    bar.set(len(planned) - len(left), len(planned))
    batches = _by_problem(left) if engine.schedules else _by_number(left, config.chunk)
    requests = [[each.request for _, each in batch] for batch in batches]
    cut_off = CutOffs(config.sampling.max_tokens, say)
    if batches:
        for place, completions in engine.stream(requests, config.sampling, bar.advance):
            cut_off.count(completions)
            rows = [each.row for _, each in batches[place]]
            # Named by its first rollout's place: no two batches share one, whatever their sizes.
            path = parts / f"part-{batches[place][0][0]:08d}.parquet"
            write_parquet(path, _completed(tokenizer, rows, completions), SCHEMA)
    bar.set(len(planned), len(planned))
    whole = _finished(parts).set_index("rollout_id", drop=False)
    return whole.loc[[each.row["rollout_id"] for each in planned]].reset_index(drop=True)


_Batch = list[tuple[int, _Planned]]
"""Rollouts with their places in the plan."""


def _by_problem(left: _Batch) -> list[_Batch]:
    return [list(batch) for _, batch in groupby(left, key=lambda each: _problem(each[1].row))]


def _problem(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["benchmark"], row["problem_id"]


def _by_number(left: _Batch, size: int) -> list[_Batch]:
    # Batches that are redone are those that a run without a kill has: what of a batch is left, is the
    # whole of it, and how many rows are computed together may move a log-probability's last digit.
    return [left[start : start + size] for start in range(0, len(left), size)]


def _finished(parts: Path) -> pd.DataFrame:
    found = [read_parquet(path) for path in sorted(parts.glob("part-*.parquet"))]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _forget(parts: Path) -> None:
    """Delete the parts of a table that is written."""
    if parts.is_dir():
        for path in parts.glob("*"):
            path.unlink()
        parts.rmdir()


def rollout_settings(
    model: NamedModel,
    verifier: Verifier,
    problems: Sequence[Problem],
    planned: Sequence[_Planned],
    config: RolloutConfig,
) -> dict[str, Any]:
    """Return what decides what is sampled, in JSON's types; `_FREE` is beside it, for the record."""
    return {
        "policy": model.name,
        "policy_hash": model.identity,
        "vocabulary": model.vocabulary,
        "tokenizer": tokenizer_hash(model.tokenizer),
        "stop_ids": sorted(model.stop_ids),
        "dtype": str(model.dtype).removeprefix("torch."),
        "marker": verifier.marker.spec,
        "problems": text_hash(*(f"{p.benchmark}/{p.problem_id}/{p.statement}" for p in problems)),
        "prompts": text_hash(*dict.fromkeys(str(p.row["prompt_ids"]) for p in planned)),
        "n_problems": len(problems),
        **sampling_settings(config),
    }


def sampling_settings(config: RolloutConfig) -> dict[str, Any]:
    """Return a configuration for the manifest; of the prompts' tokenizer, the prompts themselves tell.

    The engine is recorded by itself, where it is no longer "auto".
    """
    apart = ("prompt_tokenizer", "engine", "tensor_parallel")
    return {k: v for k, v in asdict(config).items() if k not in apart}


def problem_prompt(problem: Problem, tokenizer: Any, config: RolloutConfig) -> Prompt:
    """Return a problem's prompt as a tokenizer renders it under a configuration."""
    return render_prompt(
        problem.statement,
        tokenizer,
        template=config.template or default_template(problem.benchmark),
        system=config.system,
        thinking=config.thinking,
    )


def _renders(model: NamedModel, config: RolloutConfig) -> Any:
    """Return the tokenizer that renders the prompts; its ids must mean the same to the model."""
    if config.prompt_tokenizer is None:
        return model.tokenizer
    tokenizer = load_tokenizer(config.prompt_tokenizer)
    if vocabulary_hash(tokenizer) != model.vocabulary:
        raise GeomrlError(
            f"{config.prompt_tokenizer}: its vocabulary is another than {model.name}'s, so that its "
            "prompts would be other text to the model; name a tokenizer of the same vocabulary"
        )
    return tokenizer


def _plan(model: NamedModel, problems: Sequence[Problem], config: RolloutConfig) -> list[_Planned]:
    planned = []
    tokenizer = _renders(model, config)
    for problem in problems:
        prompt = problem_prompt(problem, tokenizer, config)
        _check_prompt(model, problem, prompt.ids, config.sampling.max_tokens)
        for sample in range(config.n):
            seed = derive_seed(
                config.seed, "rollout", problem.benchmark, problem.problem_id, sample
            )
            row = {
                "rollout_id": rollout_id(problem.benchmark, problem.problem_id, sample),
                "benchmark": problem.benchmark,
                "problem_id": problem.problem_id,
                "sample": sample,
                "problem": problem.statement,
                "prompt": prompt.text,
                "prompt_kind": prompt.kind,
                "template": config.template or default_template(problem.benchmark),
                "system": config.system,
                "prompt_ids": prompt.ids,
                "token_source": "generated",
                **asdict(config.sampling),
                "seed": seed,
                "policy": model.name,
                "policy_hash": model.identity,
                "gold": problem.gold,
            }
            planned.append(_Planned(row, Request(tuple(prompt.ids), seed)))
    return planned


def _check_prompt(model: NamedModel, problem: Problem, ids: Sequence[int], max_tokens: int) -> None:
    where = f"problem {problem.problem_id} of {problem.benchmark}"
    if not ids:
        raise GeomrlError(
            f"{where}: its prompt has no tokens; check the template and the tokenizer"
        )
    longest = model.max_length
    if longest is not None and len(ids) >= longest:
        raise GeomrlError(
            f"{where}: its prompt has {len(ids)} tokens, {model.name} takes {longest} in all; leave "
            "the problem out or use a model with a longer context"
        )
    steady = model.steady_length
    if steady is not None and len(ids) + max_tokens > steady:
        raise GeomrlError(
            f"{where}: prompt and response may have {len(ids)} + {max_tokens} tokens, but beyond {steady} "
            f"{model.name} takes other rotary frequencies (LongRoPE) for the whole batch, so a "
            f"rollout would depend on its neighbours; sample at most {max(steady - len(ids), 0)} tokens "
            "(--max-tokens) or use a model with one set of frequencies"
        )


def _completed(
    tokenizer: Any, rows: Sequence[dict[str, Any]], completions: Sequence[Completion]
) -> pd.DataFrame:
    """Return rows of rollouts with what was sampled, ungraded."""
    texts = [response_text(tokenizer, c.ids, c.finish_reason) for c in completions]
    frame = pd.DataFrame(rows).assign(
        response=texts,
        response_ids=pd.Series([c.ids for c in completions]),
        logprobs=pd.Series([c.logprobs for c in completions]),
        finish_reason=[c.finish_reason for c in completions],
    )
    return frame.reindex(columns=SCHEMA.names)


def response_text(tokenizer: Any, ids: Sequence[int], finish_reason: str) -> str:
    """Return what the ids say, the end-of-sequence token left out and every other one kept."""
    kept = ids[:-1] if finish_reason == "stop" else ids
    return tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
