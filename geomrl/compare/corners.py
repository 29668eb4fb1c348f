"""The four corners of the 2x2 on disk: whose rollouts, read by whom.

OUT/policies/<policy>/rollouts.parquet          a run directory for each policy
OUT/policies/<policy>/states/<encoder>/         its rollouts, as each encoder reads them
OUT/lens/<policy>--<encoder>.parquet            the logit lens of each
OUT/parts/<base>--<checkpoint>/                 what is finished of their comparison
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from geomrl.compare.comparison import part_folder
from geomrl.compare.encoder_change import PairedStates, pair_states
from geomrl.errors import GeomrlError
from geomrl.files import read_parquet, text_hash
from geomrl.probe.anchors import before_the_answer
from geomrl.runs.parts import Parts, parts_key
from geomrl.runs.rollouts import columns_hash, problem_keys, with_answer_classes
from geomrl.runs.run import Run, open_run
from geomrl.verify.verifier import MathVerifier
from geomrl.verify.version import verifier_version

POLICIES = ("base", "rl")


def policy_folder(out: Path, policy: str) -> Path:
    """Return the run directory of a policy, by its model's key."""
    return out / "policies" / policy


def lens_file(out: Path, policy: str, encoder: str) -> Path:
    """Return where the lens of an encoder on a policy's rollouts is kept."""
    return out / "lens" / f"{policy}--{encoder}.parquet"


@dataclass(frozen=True)
class Corners:
    """A base model and one RL checkpoint, by their keys, in a comparison's folder."""

    out: Path
    base: str
    rl: str

    def key(self, role: str) -> str:
        """Return the key of "base" or "rl"."""
        return self.base if role == "base" else self.rl

    @cached_property
    def runs(self) -> dict[str, Run]:
        """The policies' run directories."""
        return {role: open_run(policy_folder(self.out, self.key(role))) for role in POLICIES}

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers stored, in forward order."""
        return self.runs["base"].store(self.base).settings.layers

    @property
    def anchors(self) -> tuple[str, ...]:
        """The anchors stored."""
        return self.runs["base"].store(self.base).settings.anchors

    @cached_property
    def contents(self) -> dict[str, str]:
        """By policy, a hash of its rollouts' labels and of the states that both encoders read."""
        return {
            role: " ".join([run.labels, *(states_hash(run, key) for key in (self.base, self.rl))])
            for role, run in self.runs.items()
        }

    @cached_property
    def labels(self) -> dict[str, pd.DataFrame]:
        """By policy, what the analysis needs of each rollout beside its states, by rollout_id."""
        found = {}
        for role, run in self.runs.items():
            rollouts = run.rollouts.set_index("rollout_id")
            answers = answer_tokens(run, self.base)
            found[role] = pd.DataFrame(
                {
                    "length": rollouts["response_ids"].map(len),
                    "answer_token": answers.reindex(rollouts.index),
                }
            )
        return found

    def paired(self, layer: str, anchor: str) -> dict[str, PairedStates]:
        """Return both policies' rollouts as both encoders read them at one layer and anchor.

        Raises:
            GeomrlError: the encoders did not read the same rollouts.
        """
        found = {}
        for role, run in self.runs.items():
            rows, base = run.states(layer, anchor, self.base)
            others, rl = run.states(layer, anchor, self.rl)
            if rows["rollout_id"].tolist() != others["rollout_id"].tolist():
                raise GeomrlError(
                    f"{run.path}: {self.base} and {self.rl} read other rollouts at {anchor}; delete "
                    "its states/ and run the same command again"
                )
            rows = rows.join(self.labels[role], on="rollout_id")
            rows = rows.assign(
                entropy_base=rows["entropy"], entropy_rl=others["entropy"].to_numpy(),
                problem_id=problem_keys(rows),
            )  # fmt: skip
            found[role] = pair_states(rows, base, rl)
        return found

    def lens(self, layer: str, anchor: str) -> pd.DataFrame:
        """Return the lens at one place; after the answer's start it is empty.

        Columns: policy, encoder, problem_id, gold_logprob.
        """
        if not before_the_answer(anchor):
            return pd.DataFrame(columns=["policy", "encoder", "problem_id", "gold_logprob"])
        parts = []
        for (policy, encoder), table in self._lenses.items():
            part = table[(table["anchor"] == anchor) & (table["layer"] == layer)]
            problems = part["problem_id"].astype(str)
            part = part.assign(policy=policy, encoder=encoder, problem_id=problems)
            parts.append(part[["policy", "encoder", "problem_id", "gold_logprob"]])
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def _lenses(self) -> dict[tuple[str, str], pd.DataFrame]:
        """The four lens files by policy and encoder, each read once for all places."""
        found = {}
        for policy, encoder in product(POLICIES, POLICIES):
            table = read_parquet(lens_file(self.out, self.key(policy), self.key(encoder)))
            names = table[["problem_id", "layer", "anchor"]].astype("category")
            found[policy, encoder] = names.assign(gold_logprob=table["gold_logprob"])
        return found

    def policy_tables(self, verifier: MathVerifier) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return both policies' rollouts with answer classes that mean the same in both.

        The classes are kept: comparing each answer of a problem with each other takes long.

        Raises:
            GeomrlError: the policies were not sampled on the same problems.
        """
        both = [self.runs[role].rollouts.assign(role=role) for role in POLICIES]
        table = pd.concat(both, ignore_index=True)
        answers = columns_hash(table[["benchmark", "problem_id", "verdict", "answer"]])
        key = parts_key(answers=answers, verifier=verifier_version())
        parts = Parts(part_folder(self.out, self.base, self.rl), key)
        found = parts.read_frame("policies", "answer_classes")
        if found is None:
            found = with_answer_classes(table, verifier)[["answer_class"]]
            parts.write_frame(found, "policies", "answer_classes")
        table["answer_class"] = found["answer_class"].astype("Int64")
        table = table.assign(problem=problem_keys(table), length=table["response_ids"].map(len))
        columns = ["problem", "sample", "verdict", "answer_class", "length"]
        base, rl = (table.loc[table["role"] == role, columns] for role in POLICIES)
        return base, rl


def states_hash(run: Run, encoder: str) -> str:
    """Return a hash of what decides the states that an encoder read, and of where it read them."""
    store = run.store(encoder)
    rows = columns_hash(store.rows()[["rollout_id", "anchor", "token_index"]])
    settings = store.settings
    return text_hash(settings.encoder_hash, settings.dtype, settings.rollouts, rows)


def answer_tokens(run: Run, encoder: str) -> pd.Series:
    """Return the first token of each rollout's answer, by rollout_id, where it is known."""
    store = run.store(encoder)
    rows = store.rows()
    rows = rows[(rows["anchor"] == "before_answer") & rows["token_index"].notna()]
    return rows.set_index("rollout_id")["next_token_id"]


def gold_targets(run: Run, targets: Mapping[str, int]) -> pd.Series:
    """Return each rollout's gold first token by rollout_id; rollouts without one are left out."""
    rollouts = run.rollouts
    ids = problem_keys(rollouts).map(targets)
    ids.index = pd.Index(rollouts["rollout_id"])
    return ids.dropna().astype(np.int64)
