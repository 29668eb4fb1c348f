"""Builders of rollout tables with chosen verdicts, for evaluations."""

import numpy as np
import pandas as pd

from geomrl.runs.rollouts import SCHEMA, rollout_id


def build_rollouts(correct, n=4, *, policy="m", texts=None, **columns):
    """A rollout table: `correct` is {benchmark: [right samples of each problem]}.

    Wrong samples have answer classes 1, 2, 1, 2, ...; the last wrong one of every problem has none.
    """
    rows = []
    for benchmark, counts in correct.items():
        for p, c in enumerate(counts):
            text = (texts or {}).get((benchmark, p), f"{benchmark}: what is {p} + {p}?")
            for s in range(n):
                right, silent = s < c, c <= s == n - 1
                verdict = "correct" if right else "no_answer" if silent else "wrong"
                rows.append(
                    {
                        "rollout_id": rollout_id(benchmark, f"p{p}", s),
                        "benchmark": benchmark,
                        "problem_id": f"p{p}",
                        "sample": s,
                        "problem": text,
                        "prompt": text,
                        "verdict": verdict,
                        "answer": None if silent else str(0 if right else 1 + (s - c) % 2),
                        "answer_class": pd.NA if silent else 0 if right else 1 + (s - c) % 2,
                        "finish_reason": "length" if silent else "stop",
                        "temperature": 1.0,
                        "policy": policy,
                    }
                    | columns
                )
    frame = pd.DataFrame(rows).reindex(columns=SCHEMA.names)
    return frame.astype({"answer_class": "Int64"})


def drawn_counts(seed, sizes, n, shift=0.0):
    """Numbers of right samples of problems whose chances follow a Beta law, shifted."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.binomial(n, np.clip(rng.beta(1, 1, size) + shift, 0, 1)).tolist()
        for name, size in sizes.items()
    }
