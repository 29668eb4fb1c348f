"""Make rollouts: problems in, a graded table out, in chunks that survive a kill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.files import read_parquet, remove_leftovers, text_hash, write_parquet
from geomrl.models.identity import tokenizer_hash, vocabulary_hash
from geomrl.models.loading import LoadedModel, load_tokenizer
from geomrl.models.turns import end_ids
from geomrl.problems.problem import Problem
from geomrl.problems.prompts import Prompt, default_template, render_prompt
from geomrl.progress import Bar, Say
from geomrl.rollout.engine import Engine, Request, Sampling
from geomrl.rollout.engines.transformers import TransformersEngine
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

_FREE = ("chunk", "marker")  # of speed and rounding; of grading
_NEWER = ("tokenizer", "stop_ids", "prompts")


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """What to sample. `chunk` rollouts are generated together and are the unit that is redone.

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

    def __post_init__(self) -> None:
        if self.n < 1 or self.chunk < 1:
            raise GeomrlError(f"n = {self.n}, chunk = {self.chunk}: both must be at least 1")


@dataclass(frozen=True)
class _Planned:
    """A rollout before it is sampled: its row so far, and what the engine needs."""

    row: dict[str, Any]
    request: Request


def generate_rollouts(
    loaded: LoadedModel,
    engine: Engine,
    verifier: Verifier,
    problems: Sequence[Problem],
    config: RolloutConfig,
    run: Path,
    bar: Bar | None = None,
    say: Say = lambda line: None,
) -> pd.DataFrame:
    """Sample `config.n` responses a problem into `run/rollouts.parquet` and return the graded table.

    Rollouts are sampled in the (problem, sample) order, `config.chunk` at a time. Each chunk is
    written when it is whole, so a killed run redoes one chunk at most, with the same draws; another
    `chunk` resumes from there. Grading follows when all are sampled, and again, from the stored
    responses, where golds, marker or verifier have changed since. `bar` counts
    rollouts; `say` is called with a line where grading is done again.

    Raises:
        GeomrlError: the run contains rollouts of other settings, or unfinished ones of another
            sampler (`engines.token_draws`); the model's logits are not finite.
    """
    table_path, parts = run / ROLLOUTS, run / "rollouts.parts"
    recorded = read_manifest(run).get("rollouts", {}).get("settings", {})
    loaded = loaded.as_recorded(recorded.get("policy_hash"))
    planned = _plan(loaded, problems, config)
    golds = {f"{p.benchmark}/{p.problem_id}": str(p.gold) for p in problems}
    settings = rollout_settings(loaded, verifier, problems=problems, planned=planned, config=config)
    if isinstance(engine, TransformersEngine):
        settings |= engine.draw_settings(config.sampling)
    begun = table_path.exists() or any(parts.glob("part-*"))
    # A whole table of another sampler is as good; a half is never continued with other draws.
    newer = (*_NEWER, "sampler") if table_path.exists() else _NEWER
    record_step(run, "rollouts", settings, begun=begun, free=_FREE, newer=newer)
    if not table_path.exists():
        with sole_process(run / ".rollouts.lock", "a sampling"):
            if not table_path.exists():  # another process may have finished just now
                sampled = _sample_all(
                    loaded, engine, parts=parts, planned=planned, config=config, bar=bar or Bar()
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


def _sample_all(
    loaded: LoadedModel,
    engine: Engine,
    parts: Path,
    planned: Sequence[_Planned],
    config: RolloutConfig,
    bar: Bar,
) -> pd.DataFrame:
    """Return all rollouts in their order, ungraded: those of finished parts, and the others now."""
    remove_leftovers(parts)
    have = set(_finished(parts).get("rollout_id", ()))
    left = [(i, p) for i, p in enumerate(planned) if p.row["rollout_id"] not in have]
    done = len(planned) - len(left)
    bar.set(done, len(planned))
    for start in range(0, len(left), config.chunk):
        chunk = left[start : start + config.chunk]
        part = _sample(loaded, engine, chunk=[each for _, each in chunk], config=config, bar=bar)
        # Named by its first rollout's place: no two chunks share one, whatever their sizes.
        write_parquet(parts / f"part-{chunk[0][0]:08d}.parquet", part, SCHEMA)
        done += len(chunk)
        bar.set(done, len(planned))
    whole = _finished(parts).set_index("rollout_id", drop=False)
    return whole.loc[[each.row["rollout_id"] for each in planned]].reset_index(drop=True)


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
    loaded: LoadedModel,
    verifier: Verifier,
    problems: Sequence[Problem],
    planned: Sequence[_Planned],
    config: RolloutConfig,
) -> dict[str, Any]:
    """Return what decides what is sampled, in JSON's types; `_FREE` is beside it, for the record."""
    return {
        "policy": loaded.name,
        "policy_hash": loaded.identity,
        "vocabulary": loaded.vocabulary,
        "tokenizer": tokenizer_hash(loaded.tokenizer),
        "stop_ids": sorted(end_ids(loaded.model.generation_config, loaded.tokenizer)),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "marker": verifier.marker.spec,
        "problems": text_hash(*(f"{p.benchmark}/{p.problem_id}/{p.statement}" for p in problems)),
        "prompts": text_hash(*dict.fromkeys(str(p.row["prompt_ids"]) for p in planned)),
        "n_problems": len(problems),
        **sampling_settings(config),
    }


def sampling_settings(config: RolloutConfig) -> dict[str, Any]:
    """Return a configuration for the manifest; of the prompts' tokenizer, the prompts themselves tell."""
    return {k: v for k, v in asdict(config).items() if k != "prompt_tokenizer"}


def problem_prompt(problem: Problem, tokenizer: Any, config: RolloutConfig) -> Prompt:
    """Return a problem's prompt as a tokenizer renders it under a configuration."""
    return render_prompt(
        problem.statement,
        tokenizer,
        template=config.template or default_template(problem.benchmark),
        system=config.system,
        thinking=config.thinking,
    )


def _renders(loaded: LoadedModel, config: RolloutConfig) -> Any:
    """Return the tokenizer that renders the prompts; its ids must mean the same to the model."""
    if config.prompt_tokenizer is None:
        return loaded.tokenizer
    tokenizer = load_tokenizer(config.prompt_tokenizer)
    if vocabulary_hash(tokenizer) != loaded.vocabulary:
        raise GeomrlError(
            f"{config.prompt_tokenizer}: its vocabulary is another than {loaded.name}'s, so that its "
            "prompts would be other text to the model; name a tokenizer of the same vocabulary"
        )
    return tokenizer


def _plan(
    loaded: LoadedModel, problems: Sequence[Problem], config: RolloutConfig
) -> list[_Planned]:
    planned = []
    tokenizer = _renders(loaded, config)
    for problem in problems:
        prompt = problem_prompt(problem, tokenizer, config)
        _check_prompt(loaded, problem, prompt.ids, config.sampling.max_tokens)
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
                "policy": loaded.name,
                "policy_hash": loaded.identity,
                "gold": problem.gold,
            }
            planned.append(_Planned(row, Request(tuple(prompt.ids), seed)))
    return planned


def _check_prompt(
    loaded: LoadedModel, problem: Problem, ids: Sequence[int], max_tokens: int
) -> None:
    where = f"problem {problem.problem_id} of {problem.benchmark}"
    if not ids:
        raise GeomrlError(
            f"{where}: its prompt has no tokens; check the template and the tokenizer"
        )
    longest = loaded.max_length
    if longest is not None and len(ids) >= longest:
        raise GeomrlError(
            f"{where}: its prompt has {len(ids)} tokens, {loaded.name} takes {longest} in all; leave "
            "the problem out or use a model with a longer context"
        )
    steady = loaded.steady_length
    if steady is not None and len(ids) + max_tokens > steady:
        raise GeomrlError(
            f"{where}: prompt and response may have {len(ids)} + {max_tokens} tokens, but beyond {steady} "
            f"{loaded.name} takes other rotary frequencies (LongRoPE) for the whole batch, so a "
            f"rollout would depend on its neighbours; sample at most {max(steady - len(ids), 0)} tokens "
            "(--max-tokens) or use a model with one set of frequencies"
        )


def _sample(
    loaded: LoadedModel,
    engine: Engine,
    chunk: Sequence[_Planned],
    config: RolloutConfig,
    bar: Bar,
) -> pd.DataFrame:
    """Generate one chunk."""
    completions = engine.generate([p.request for p in chunk], config.sampling, bar.advance)
    texts = [response_text(loaded.tokenizer, c.ids, c.finish_reason) for c in completions]
    frame = pd.DataFrame([p.row for p in chunk]).assign(
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
