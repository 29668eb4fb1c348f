"""How often do nominal 95 % intervals over problems cover the truth?

    python benchmarks/interval_coverage.py [--repeats 1000] [--problems 30] [--samples 16]

Rollouts are simulated: each problem's chance of being right follows a Beta law, and states are a
shared mean + the problem + its answers + noise, with spread that grows with difficulty, so that
nothing is normal or equal across problems. Truths come from one very large simulation of the same
law. Prints one line a law and quantity: truth, coverage, mean width. 93 to 97 % is the aim;
the law (.15, 1.2) is as skewed as AIME for a weak model, and is where intervals fall short.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import pandas as pd

from geomrl.geometry.cells import cross_cells, estimate_cells, within_cells
from geomrl.geometry.groups import group_rows
from geomrl.geometry.spaces import raw_space
from geomrl.stats.intervals import mean_interval
from geomrl.stats.passk import pass_at_k

LAWS = ((2.0, 2.0), (0.5, 0.5), (0.3, 0.9), (0.15, 1.2))
CELLS = ("CC", "II", "CC-II", "floor", "CC-floor")
HIDDEN = 16
ANSWERS = 4


def draw_world(
    rng: np.random.Generator, law: tuple[float, float], problems: int, samples: int
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return rows and states [problems * samples, HIDDEN] of one simulated run."""
    chance = rng.beta(*law, problems)
    right = rng.random((problems, samples)) < chance[:, None]
    answer = np.where(right, 0, 1 + rng.integers(0, ANSWERS, (problems, samples)))
    own = rng.normal(size=(problems, 1, HIDDEN)) * np.exp(0.5 * rng.normal(size=(problems, 1, 1)))
    by_answer = rng.normal(size=(problems, ANSWERS + 1, HIDDEN))
    noise = rng.normal(size=(problems, samples, HIDDEN)) * (1.5 - chance)[:, None, None]
    mean = np.where(np.arange(HIDDEN) == 0, 3.0, 0.0)
    states = mean + own + by_answer[np.arange(problems)[:, None], answer] + noise
    index = np.arange(problems * samples)
    rows = pd.DataFrame(
        {
            "rollout_id": [f"{i:07d}" for i in index],
            "problem_id": [f"{i // samples:06d}" for i in index],
            "verdict": np.where(right.ravel(), "correct", "wrong"),
        }
    )
    return rows, states.reshape(-1, HIDDEN)


def cell_intervals(rows: pd.DataFrame, states: np.ndarray, n_boot: int) -> dict[str, tuple]:
    """Return value, low and high of each of `CELLS`."""
    groups = group_rows(rows)
    space = raw_space(states[groups.order], groups)
    grams = [space.within(p) for p in range(groups.n_problems)]
    within, across = within_cells(grams, groups), cross_cells(space, groups)
    found = estimate_cells(within, across, seed=0, label="coverage", n_boot=n_boot)
    return {
        e.cell: (e.interval.value, e.interval.low, e.interval.high)
        for e in found
        if e.weighting == "problem" and e.cell in CELLS
    }


def pass_intervals(
    counts: np.ndarray, samples: int, n_boot: int
) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """Yield pass@1 and pass@8 with their intervals."""
    for k in (1, 8):
        each = pass_at_k(counts, samples, k)
        i = mean_interval(each, label="coverage", n_boot=n_boot, bounds=(0.0, 1.0))
        yield f"pass@{k}", (i.value, i.low, i.high)


def measure(
    law: tuple[float, float], problems: int, samples: int, repeats: int, n_boot: int
) -> pd.DataFrame:
    """Return truth, coverage and mean width of each quantity under one law."""
    rng = np.random.default_rng(17)
    chances = rng.beta(*law, 2_000_000)
    truth = {f"pass@{k}": float(np.mean(1 - (1 - chances) ** k)) for k in (1, 8)}
    large = [cell_intervals(*draw_world(rng, law, 3000, samples), 2) for _ in range(10)]
    truth |= {cell: float(np.mean([found[cell][0] for found in large])) for cell in CELLS}
    rows = []
    for _ in range(repeats):
        labels, states = draw_world(rng, law, problems, samples)
        counts = (labels["verdict"] == "correct").groupby(labels["problem_id"]).sum().to_numpy()
        found = {
            **dict(pass_intervals(counts, samples, n_boot)),
            **cell_intervals(labels, states, n_boot),
        }
        for name, (_, low, high) in found.items():
            given = np.isfinite(low)
            rows.append((name, given, low <= truth[name] <= high, high - low))
    frame = pd.DataFrame(rows, columns=["quantity", "given", "covers", "width"])
    given = frame[frame["given"]].groupby("quantity", sort=False)
    return pd.DataFrame(
        {
            "truth": pd.Series(truth),
            "coverage": given["covers"].mean(),
            "width": given["width"].mean(),
            "no interval": 1 - frame.groupby("quantity")["given"].mean(),
        }
    ).loc[list(truth)]


def main() -> None:
    """Print the coverage table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--problems", type=int, default=30)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--n-boot", type=int, default=1000)
    options = parser.parse_args()
    for law in LAWS:
        found = measure(
            law,
            options.problems,
            samples=options.samples,
            repeats=options.repeats,
            n_boot=options.n_boot,
        )
        print(f"\nBeta{law}, {options.problems} problems x {options.samples}")
        print(found.round(3).to_string(), flush=True)


if __name__ == "__main__":
    main()
