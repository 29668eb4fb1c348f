"""Pairs of models in which the truth is planted: edits of the bundled reasoner's weights.

A state at layer "final" can be changed without any change of the policy: put an affine map behind
the final norm and its inverse into the head. A rotation of the whole residual stream is exact too,
once the norms' weights are folded into what follows them. The policy alone is changed by scaling the
head. Each pair is then compared as `geomrl compare` does: rollouts sampled from both, states read
from both by the extractor.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from planted_states import Design
from scipy.linalg import expm
from torch import nn

from geomrl.compare.encoder_change import geometry_evidence, pair_states
from geomrl.compare.policy_change import policy_evidence
from geomrl.compare.verdict import Evidence
from geomrl.models.loading import LoadedModel
from geomrl.models.options import ModelOptions
from geomrl.probe.extraction import ModelProbe
from geomrl.problems.load import load_problems
from geomrl.problems.problem import Problem
from geomrl.rollout.engine import Sampling
from geomrl.rollout.engines.transformers import TransformersEngine
from geomrl.rollout.generate import RolloutConfig, generate_rollouts
from geomrl.runs.rollouts import problem_keys, with_answer_classes
from geomrl.seeds import derive_rng
from geomrl.verify.verifier import MathVerifier

ANCHOR = "marker_end"  # where the reasoner's states know the answer, so that there is what to align
ANSWER_DIRECTIONS = 8
SUPPRESSED = 0.9
"""The base of an alignment: the directions that tell answers apart, shrunk by this share."""


@dataclass(frozen=True)
class Edit:
    """State' = state @ matrix + shift at layer "final"; logits' = scale * logits."""

    matrix: np.ndarray
    shift: np.ndarray
    scale: float = 1.0


def edited(loaded: LoadedModel, edit: Edit) -> LoadedModel:
    """Return the model with another final state, and the same logits but for their scale."""
    model = copy.deepcopy(loaded.model)
    head = model.get_output_embeddings().weight.detach().double()  # [vocabulary, d]
    back = torch.from_numpy(np.linalg.inv(edit.matrix))
    behind, new_head = nn.Linear(*edit.matrix.shape), nn.Linear(head.shape[1], head.shape[0])
    with torch.no_grad():
        behind.weight.copy_(torch.from_numpy(edit.matrix.T))
        behind.bias.copy_(torch.from_numpy(edit.shift))
        weight = edit.scale * head @ back.T
        new_head.weight.copy_(weight)
        new_head.bias.copy_(-(weight @ torch.from_numpy(edit.shift)))
    model.model.norm = nn.Sequential(model.model.norm, behind)
    model.lm_head = new_head
    return replace(loaded, model=model.eval().requires_grad_(False))


def rotated(loaded: LoadedModel, turn: np.ndarray) -> LoadedModel:
    """Return the model with its residual stream rotated by `turn` [d, d], logits unchanged.

    RMSNorm without weights commutes with a rotation, so its weights go into the matrices behind it
    first (as in SliceGPT, arXiv 2401.15024); `turn` the identity gives that folded model.
    """
    model = copy.deepcopy(loaded.model)
    inner, q = model.model, torch.from_numpy(turn)
    head = nn.Linear(*reversed(model.get_output_embeddings().weight.shape), bias=False)

    def put(parameter: torch.Tensor, value: torch.Tensor) -> None:
        parameter.copy_(value)

    with torch.no_grad():
        put(head.weight, loaded.model.get_output_embeddings().weight)
        model.lm_head = head
        readers = [(inner.norm, [head])]
        for layer in inner.layers:
            attention, mlp = layer.self_attn, layer.mlp
            readers += [
                (layer.input_layernorm, [attention.q_proj, attention.k_proj, attention.v_proj]),
                (layer.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj]),
            ]
            for writer in (attention.o_proj, mlp.down_proj):
                put(writer.weight, q.T @ writer.weight.double())
        for norm, matrices in readers:
            for matrix in matrices:
                put(matrix.weight, (matrix.weight.double() * norm.weight.double()) @ q)
            norm.weight.fill_(1.0)
        put(inner.embed_tokens.weight, inner.embed_tokens.weight.double() @ q)
    return replace(loaded, model=model.eval().requires_grad_(False))


@lru_cache(maxsize=1)
def reasoner() -> tuple[LoadedModel, list[Problem]]:
    """Return the bundled reasoner and its held-out problems."""
    return ModelOptions("cpu").load("reasoner"), load_problems("arithmetic")


@dataclass(frozen=True)
class Reference:
    """What edits need to know of the reasoner's states, from problems that no draw uses."""

    mean: np.ndarray  # [d]
    answers: np.ndarray  # [d, k] directions between correct rollouts of different problems


@lru_cache(maxsize=1)
def reference() -> Reference:
    loaded, problems = reasoner()
    rollouts = sample(loaded, problems[-80:], 8, seed=12345)
    rows, states = read(loaded, rollouts)
    right = states[(rows["verdict"] == "correct").to_numpy()]
    _, _, directions = np.linalg.svd(right - right.mean(axis=0), full_matrices=False)
    return Reference(states.mean(axis=0), directions[:ANSWER_DIRECTIONS].T)


def sample(loaded: LoadedModel, problems: Sequence[Problem], n: int, seed: int) -> pd.DataFrame:
    """Return graded rollouts."""
    config = RolloutConfig(n=n, seed=seed, chunk=512, sampling=Sampling(max_tokens=160))
    with tempfile.TemporaryDirectory() as folder, MathVerifier() as verifier:
        engine = TransformersEngine(loaded)
        return generate_rollouts(
            loaded, engine, verifier=verifier, problems=problems, config=config, run=Path(folder)
        )


def read(loaded: LoadedModel, rollouts: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the rollouts that reach the anchor, and their final states."""
    probe = ModelProbe(loaded)
    with MathVerifier() as verifier:
        located = probe.locate(rollouts, verifier.marker, [ANCHOR])
    rows, states = probe.read(located, ["final"], 16384)
    has = rows["token_index"].notna().to_numpy()
    labels = rollouts.assign(problem_id=problem_keys(rollouts)).set_index("rollout_id")
    rows = rows[has].join(
        labels[["problem_id", "verdict", "answer_class", "gold"]], on="rollout_id"
    )
    return rows.reset_index(drop=True), states["final"].float().numpy()


def random_turn(seed: int, size: float, d: int) -> np.ndarray:
    """Return a rotation; `size` 1 turns the fastest plane by a half circle."""
    skew = derive_rng(seed, "turn").normal(size=(d, d))
    skew -= skew.T
    return expm(size * np.pi * skew / np.linalg.norm(skew, 2))


def planted_pair(
    changes: Sequence[tuple[str, float]], seed: int
) -> tuple[LoadedModel, LoadedModel]:
    """Return base and RL model of one draw."""
    loaded, _ = reasoner()
    d = loaded.model.config.hidden_size
    if [name for name, _ in changes] == ["rotation"]:
        return rotated(loaded, np.eye(d)), rotated(loaded, random_turn(seed, changes[0][1], d))
    found = reference()
    project = found.answers @ found.answers.T
    aligns = any(name == "alignment" for name, _ in changes)
    base = np.eye(d) - (SUPPRESSED if aligns else 0.0) * project
    jitter = derive_rng(seed, "jitter").normal(size=(d, d)) / np.sqrt(d)
    matrix, shift, scale = base @ (np.eye(d) + 0.01 * jitter), np.zeros(d), 1.0
    for name, size in changes:
        if name == "alignment":
            matrix = (np.eye(d) - (SUPPRESSED - size) * project) @ np.linalg.solve(base, matrix)
        elif name == "policy":
            scale = float(np.exp(size))
        elif name == "collapse: shift":
            shift = shift + size * 4.0 * (found.mean @ matrix)
        elif name == "collapse: shrink":
            shift = (1 - size) * shift + size * (found.mean @ matrix + shift)
            matrix = (1 - size) * matrix
        elif name == "rotation":
            turn = random_turn(seed, size, d)
            matrix, shift = matrix @ turn, shift @ turn
        else:
            raise ValueError(name)
    return edited(loaded, Edit(base, np.zeros(d))), edited(loaded, Edit(matrix, shift, scale))


def draw_problems(seed: int, design: Design) -> list[Problem]:
    """Return a draw's problems: none of the 80 that `reference` looks at."""
    _, problems = reasoner()
    usable = problems[:-80]
    chosen = derive_rng(seed, "problems").choice(len(usable), design.problems, replace=False)
    return [usable[i] for i in sorted(chosen.tolist())]


@lru_cache(maxsize=1)
def base_rollouts(seed: int, design: Design) -> pd.DataFrame:
    """Return the base policy's rollouts: the reasoner's, whose logits every base model shares."""
    return sample(reasoner()[0], draw_problems(seed, design), design.samples, 2 * seed)


def planted_evidence(
    changes: Sequence[tuple[str, float]], seed: int, design: Design, *, n_perm: int = 999
) -> Evidence:
    """Return the evidence of one planted comparison; each draw has its own problems and samples."""
    taken = draw_problems(seed, design)
    models = planted_pair(changes, seed)
    rollouts = [base_rollouts(seed, design), sample(models[1], taken, design.samples, 2 * seed + 1)]
    sets = []
    for table in rollouts:
        (rows, base), (_, rl) = (read(model, table) for model in models)
        sets.append(pair_states(rows, base, rl))
    policy = policy_evidence(*_tables(rollouts), seed=seed, n_perm=n_perm, n_boot=200)
    return Evidence(policy, geometry_evidence(sets, seed=seed, n_boot=200))


def _tables(rollouts: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    both: Any = pd.concat(
        [table.assign(role=i) for i, table in enumerate(rollouts)], ignore_index=True
    )
    with MathVerifier() as verifier:
        both = with_answer_classes(both, verifier)
    both = both.assign(problem=problem_keys(both), length=both["response_ids"].map(len))
    return [both[both["role"] == i] for i in range(len(rollouts))]
