"""CPU time of similarity and comparison by place (a layer and an anchor), before and after.

    OMP_NUM_THREADS=1 python benchmarks/analysis.py --before FOLDER [--width 2048] [--runs 5]
        [--kinds similarity comparison probes]

FOLDER is an older checkout (`git worktree add FOLDER COMMIT`), of commit dc19af6 or later. Each side
runs in a process of its own, one at a time and in turn, on the same made states: 500 problems x 16
rollouts, of a direction that all share, one of the problem's and noise. What is timed:

    similarity    the similarity table of one place
    comparison    a base model and a checkpoint on both policies' rollouts, every measure
    probes        the same where linear probes and RSA's permutations run too

The two sides' figures are compared as well: the largest difference, of values and bounds.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from measuring import between_quartiles, in_turn

KINDS = ("similarity", "comparison", "probes")


def labels_of(problems, samples):
    """Return the rows of rollouts whose problems differ in difficulty; wrong answers repeat."""
    rng = np.random.default_rng(0)
    n = problems * samples
    problem = np.repeat(np.arange(problems), samples)
    correct = rng.random(n) < rng.beta(0.7, 0.7, problems)[problem]
    return pd.DataFrame(
        {
            "rollout_id": [f"r{i:06d}" for i in range(n)],
            "problem_id": [f"p{p:04d}" for p in problem],
            "benchmark": "made",
            "verdict": np.where(correct, "correct", "wrong"),
            "answer_class": np.where(correct, 0, rng.integers(1, 5, n)),
            "gold": (problem % 200).astype(str),
            "token_id": rng.integers(0, 40, n),
            "entropy_base": rng.random(n),
            "entropy_rl": rng.random(n),
            "length": rng.integers(10, 3000, n),
            "answer_token": rng.integers(0, 30, n),
        }
    )


def states_of(labels, samples, width, seed):
    """Return made float32 states of the rollouts."""
    rng = np.random.default_rng(seed)
    problems = np.random.default_rng(1).normal(size=(len(labels) // samples, width))
    noise = rng.normal(size=(len(labels), width))
    return (3 * rng.normal(size=width) + problems.repeat(samples, axis=0) + noise).astype("f4")


@cache
def data_of(problems, samples, width):
    """Return labels, and the states of four corners."""
    labels = labels_of(problems, samples)
    return labels, [states_of(labels, samples, width, seed) for seed in (2, 4, 3, 5)]


def similarity(labels, states):
    """Return the similarity table of one place, its figures alone."""
    from geomrl.geometry.similarity import similarity_table

    context = {"policy": "p", "encoder": "e", "step": 0, "benchmark": "made"}
    found = similarity_table(
        lambda layer, anchor: (labels, states[0]), ["5"], ["before_marker"], context=context
    )
    return found.table[["value", "low", "high"]]


def comparison(labels, states, probes=False):
    """Return the rows of one place of a comparison, their figures alone."""
    from geomrl.compare.encoder_change import geometry_evidence, pair_states
    from geomrl.compare.measures.measure import Compared, PlaceSettings
    from geomrl.compare.place import place_rows
    from geomrl.compare.rows import Place

    sets = {
        policy: pair_states(labels, *states[2 * k : 2 * k + 2])
        for k, policy in enumerate(("base", "rl"))
    }
    lens = pd.DataFrame({name: [] for name in ("policy", "encoder", "problem_id", "gold_logprob")})
    settings = PlaceSettings(seed=0, n_perm=999 if probes else 0, probes=probes)
    evidence = geometry_evidence(list(sets.values()))
    at = Compared(
        place=Place("5", "before_marker"), sets=sets, evidence=evidence, lens=lens,
        settings=settings,
    )  # fmt: skip
    return pd.DataFrame(place_rows(at))[["value", "low", "high"]]


def serve():
    """Time what each line of standard input asks for; answer with seconds and figures."""
    for line in sys.stdin:
        kind, *sizes = line.split()
        labels, states = data_of(*map(int, sizes))
        run = {
            "similarity": similarity,
            "comparison": comparison,
            "probes": lambda *data: comparison(*data, probes=True),
        }[kind]
        started = time.process_time()
        figures = run(labels, states)
        seconds = time.process_time() - started
        print(json.dumps([seconds, figures.to_numpy(dtype=float).tolist()]), flush=True)


class Side:
    """One version of geomrl in a process of its own; the newer is this checkout's."""

    def __init__(self, folder):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve"], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(folder)},
        )  # fmt: skip

    def run(self, kind, *sizes):
        """Return CPU seconds and figures."""
        print(kind, *sizes, file=self.process.stdin, flush=True)
        seconds, figures = json.loads(self.process.stdout.readline())
        return seconds, np.array(figures, dtype=float)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    args = parser.parse_args()
    if args.serve:
        return serve()
    if args.before is None:
        parser.error("--before: the folder of an older checkout")
    sides = {"before": Side(args.before), "after": Side(Path(__file__).resolve().parents[1])}
    print("| place | width | before, CPU-s | after, CPU-s | before / after | largest difference |")
    print("|---" * 6 + "|")
    for kind in args.kinds:
        for side in sides.values():  # imports, and the first run's caches
            side.run(kind, 20, args.samples, 64)
        seconds, figures = {name: [] for name in sides}, {}
        for run in range(args.runs):
            for name in in_turn(list(sides), run):
                took, figures[name] = sides[name].run(kind, args.problems, args.samples, args.width)
                seconds[name].append(took)
        ratios = [a / b for a, b in zip(seconds["before"], seconds["after"], strict=True)]
        times = [between_quartiles(each) for each in (*seconds.values(), ratios)]
        apart = np.nanmax(np.abs(figures["before"] - figures["after"]))
        cells = [kind, str(args.width), *times, f"{apart:.0e}"]
        print(f"| {' | '.join(cells)} |", flush=True)
    return None


if __name__ == "__main__":
    main()
