"""A rollout in memory while it is trained on, and its way to and from a rollout table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import pandas as pd

from geomrl.rollout.engine import Sampling
from geomrl.runs.rollouts import SCHEMA


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sampled and graded response to a training prompt.

    `group` is the prompt's index among the training prompts; `logprobs` are the engine's, of the
    drawn tokens, in nats. `reward` is shaped (overlong penalty included): correctness always comes
    from the verdict. `policy_step` is the training step whose weights sampled it; a group that was
    carried over has an earlier one. `advantage` is set when its step begins. `trained` is False
    for rollouts that take part in alignment only.
    """

    group: int
    sample: int
    benchmark: str
    problem_id: str
    problem: str
    gold: str
    prompt: str
    prompt_kind: str
    prompt_ids: tuple[int, ...]
    response: str
    response_ids: tuple[int, ...]
    logprobs: tuple[float, ...] = field(repr=False)
    finish_reason: str
    seed: int
    verdict: str
    answer: str | None
    verdict_reason: str | None
    policy_step: int
    reward: float
    advantage: float = 0.0
    trained: bool = True

    @property
    def correct(self) -> bool:
        """Whether the verifier called it correct."""
        return self.verdict == "correct"

    @property
    def ids(self) -> list[int]:
        """Prompt and response together."""
        return [*self.prompt_ids, *self.response_ids]

    @property
    def n_tokens(self) -> int:
        """How many there are of `ids`."""
        return len(self.prompt_ids) + len(self.response_ids)

    def aligned_only(self) -> Sample:
        """Return the rollout as one that the policy's loss leaves out."""
        return replace(self, advantage=0.0, trained=False)


def with_advantages(samples: Sequence[Sample], advantages: Sequence[float]) -> list[Sample]:
    """Return the samples with their advantages set."""
    return [replace(s, advantage=float(a)) for s, a in zip(samples, advantages, strict=True)]


EXTRA = ("group", "reward", "advantage", "trained")
"""What a training run's rollout tables contain beside the columns of `runs.rollouts`."""


def samples_table(samples: Sequence[Sample]) -> pd.DataFrame:
    """Return a rollout table with the training columns; nothing of a sample is lost."""
    rows = [
        {
            **{name: getattr(s, name) for name in SCHEMA.names if hasattr(s, name)},
            "rollout_id": f"{s.benchmark}/{s.problem_id}/{s.policy_step}/{s.sample}",
            "prompt_ids": list(s.prompt_ids),
            "response_ids": list(s.response_ids),
            "logprobs": list(s.logprobs),
            "token_source": "generated",
            **{name: getattr(s, name) for name in EXTRA},
        }
        for s in samples
    ]
    return pd.DataFrame(rows).reindex(columns=[*SCHEMA.names, *EXTRA])


def sampling_columns(policy: str, sampling: Sampling) -> dict[str, Any]:
    """Return what all samples of one step share, as columns of a rollout table."""
    return {"policy": policy, **asdict(sampling)}


def read_samples(table: pd.DataFrame) -> list[Sample]:
    """Return the samples that `samples_table` wrote.

    Log-probabilities pass through float32 in a parquet file, which is what engines give.
    """
    return [_sample(row) for row in table.to_dict("records")]


def _sample(row: dict[Any, Any]) -> Sample:
    named: dict[str, Any] = {f.name: row[f.name] for f in fields(Sample)}
    for name in ("answer", "verdict_reason"):  # null comes back as NaN
        named[name] = row[name] if isinstance(row[name], str) else None
    for name in ("group", "sample", "seed", "policy_step"):
        named[name] = int(row[name])
    for name in ("prompt_ids", "response_ids"):
        named[name] = tuple(map(int, row[name]))
    return Sample(
        **named
        | {
            "logprobs": tuple(map(float, row["logprobs"])),
            "reward": float(row["reward"]),
            "advantage": float(row["advantage"]),
            "trained": bool(row["trained"]),
        }
    )
