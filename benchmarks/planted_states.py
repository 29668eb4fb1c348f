"""Worlds of states in which the truth about two models is planted.

A rollout's base state is shared mean + its problem + its answer + noise, the noise's scale varying
over problems. The RL encoder reads the same rollouts through one or several planted changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.linalg import expm

from geomrl.compare.encoder_change import geometry_evidence, pair_states
from geomrl.compare.policy_change import policy_evidence
from geomrl.compare.verdict import Evidence

HIDDEN = 24
ANSWERS = 4


@dataclass(frozen=True)
class Design:
    """Sizes of a comparison."""

    problems: int = 80
    samples: int = 16


@dataclass(frozen=True, kw_only=True)
class World:
    """What the problems are, whatever the policy."""

    shared: np.ndarray  # [d]
    own: np.ndarray  # [P, d]
    by_answer: np.ndarray  # [P, 1 + ANSWERS, d]; 0 is the correct one
    spread: np.ndarray  # [P]
    chance: np.ndarray  # [P] of being right, base policy
    push: np.ndarray  # [P, d] unit vectors
    turn: np.ndarray  # [d, d] skew, of unit spectral radius


def build_world(rng: np.random.Generator, problems: int) -> World:
    shared = rng.normal(size=HIDDEN)
    skew = rng.normal(size=(HIDDEN, HIDDEN))
    skew -= skew.T
    push = rng.normal(size=(problems, HIDDEN))
    return World(
        shared=shared * 1.5,
        own=rng.normal(size=(problems, HIDDEN)),
        by_answer=rng.normal(size=(problems, 1 + ANSWERS, HIDDEN)) * 0.5,
        spread=np.exp(0.3 * rng.normal(size=problems)),
        chance=rng.beta(2.0, 2.0, problems),
        push=push / np.linalg.norm(push, axis=1, keepdims=True),
        turn=skew / np.linalg.norm(skew, 2),
    )


def draw_rollouts(
    rng: np.random.Generator, world: World, samples: int, shift: float = 0.0
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Return rows, base states [N, d], and the noise-free part of those states [N, d].

    `shift` is added to the logit of every problem's chance of being right.
    """
    problems = len(world.chance)
    odds = world.chance / (1 - world.chance) * np.exp(shift)
    right = rng.random((problems, samples)) < (odds / (1 + odds))[:, None]
    law = 1.0 / np.arange(1, ANSWERS + 1)
    wrong = 1 + rng.choice(ANSWERS, (problems, samples), p=law / law.sum())
    answer = np.where(right, 0, wrong)
    length = np.exp(rng.normal(4.0, 0.3, (problems, samples))).round()
    index = np.arange(problems)[:, None]
    centre = world.shared + world.own[:, None] + world.by_answer[index, answer]  # [P, n, d]
    noise = rng.normal(size=centre.shape) * world.spread[:, None, None]
    problem = np.repeat([f"p{p:05d}" for p in range(problems)], samples)
    rows = pd.DataFrame(
        {
            "rollout_id": [f"{p}/{i % samples:02d}" for i, p in enumerate(problem)],
            "problem_id": problem,
            "problem": problem,
            "sample": np.tile(np.arange(samples), problems),
            "verdict": np.where(right.ravel(), "correct", "wrong"),
            "answer_class": answer.ravel(),
            "length": length.ravel(),
        }
    )
    return rows, (centre + noise).reshape(-1, HIDDEN), centre.reshape(-1, HIDDEN)


def encode(
    change: str,
    size: float,
    states: np.ndarray,
    centre: np.ndarray,
    rows: pd.DataFrame,
    world: World,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return what the RL encoder reads where the base encoder reads `states`."""
    right = (rows["verdict"] == "correct").to_numpy()[:, None]
    problem = np.repeat(np.arange(len(world.chance)), len(rows) // len(world.chance))
    if change == "jitter":  # the last digits: training that led nowhere
        return states + size * rng.normal(size=states.shape)
    if change == "rotation":
        return states @ expm(size * np.pi * world.turn)
    if change == "collapse: shift":  # all states move the same way
        return states + size * 4.0 * world.shared
    if change == "collapse: shrink":  # all states move towards the mean of all
        return world.shared + (1 - size) * (states - world.shared)
    if change == "collapse: problems":  # problems move towards each other, rollouts do not
        return states - size * world.own[problem]
    if change == "collapse: rank":  # directions are lost
        kept = round(HIDDEN * (1 - size))
        return states @ world_basis(world)[:, :kept] @ world_basis(world)[:, :kept].T
    if change == "alignment: shrink":  # correct rollouts move to their problem's centre
        return np.where(right, states - size * (states - centre), states)
    if change == "alignment: push":  # correct rollouts move along a direction of their problem
        return np.where(right, states + size * 8.0 * world.push[problem], states)
    raise ValueError(change)


def world_basis(world: World) -> np.ndarray:
    """Return an orthonormal basis that knows nothing of the states."""
    return np.linalg.qr(world.turn + np.eye(HIDDEN))[0]


def planted_evidence(
    changes: Sequence[tuple[str, float]], seed: int, design: Design, *, n_perm: int = 999
) -> Evidence:
    """Return the evidence of one planted comparison.

    Args:
        changes: names and sizes, applied in turn; "policy" shifts the RL policy.
        seed: of everything.
        design: problems and samples.
    """
    rng = np.random.default_rng(seed)
    world = build_world(rng, design.problems)
    shift = sum(size for name, size in changes if name == "policy")
    rollouts = [draw_rollouts(rng, world, design.samples, by) for by in (0.0, shift)]
    sets = []
    for rows, states, centre in rollouts:
        read = encode(
            "jitter",
            rng.uniform(0, 0.05),
            states=states,
            centre=centre,
            rows=rows,
            world=world,
            rng=rng,
        )
        for name, size in changes:
            if name != "policy":
                read = encode(
                    name, size, states=read, centre=centre, rows=rows, world=world, rng=rng
                )
        sets.append(pair_states(rows, states, read))
    policy = policy_evidence(rollouts[0][0], rollouts[1][0], seed=seed, n_perm=n_perm, n_boot=200)
    return Evidence(policy, geometry_evidence(sets, seed=seed, n_boot=200))
