"""Synthetic groups of rollouts with anchor states whose structure is known."""

import numpy as np
import pandas as pd


def build_world(
    seed=0,
    *,
    problems=12,
    samples=8,
    hidden=6,
    accuracy=(2.0, 2.0),
    wrong_answers=3,
    zipf=1.0,
    shared=1.0,
    problem=1.0,
    answer=0.0,
    correct=0.0,
    noise=1.0,
    golds=None,
    uneven=False,
):
    """Return rows and states = shared mean + problem + answer + correctness + noise.

    `accuracy` is the Beta law of the problems' chance of being right; wrong answers follow a Zipf
    law. Each of the strengths multiplies standard normal vectors, one per thing named; `correct`
    draws one direction a problem that only its correct rollouts have.
    """
    rng = np.random.default_rng(seed)
    middle = shared * np.ones(hidden)
    law = 1.0 / np.arange(1, wrong_answers + 1) ** zipf
    rows, states = [], []
    for p in range(problems):
        n = int(rng.integers(2, samples + 1)) if uneven else samples
        right = rng.random(n) < rng.beta(*accuracy)
        answers = np.where(right, 0, 1 + rng.choice(wrong_answers, n, p=law / law.sum()))
        own = problem * rng.normal(size=hidden)
        by_answer = answer * rng.normal(size=(wrong_answers + 1, hidden))
        lift = correct * rng.normal(size=hidden)
        states.append(
            middle + own + by_answer[answers] + right[:, None] * lift
            + noise * rng.normal(size=(n, hidden))
        )  # fmt: skip
        for i in range(n):
            rows.append(
                {
                    "rollout_id": f"p{p:03d}-{i:02d}",
                    "problem_id": f"p{p:03d}",
                    "verdict": "correct" if right[i] else "wrong",
                    "answer_class": int(answers[i]),
                    "gold": str(p if golds is None else p % golds),
                }
            )
    table = pd.DataFrame(rows).astype({"answer_class": "Int64"})
    return table, np.concatenate(states).astype(np.float32)


def reader(rows, states, gain=0.1):
    """Return read_states over one world: layer k adds k * gain to every state."""

    def read(layer, anchor):
        return rows, states + np.float32(gain * (0 if layer == "final" else int(layer)))

    return read
