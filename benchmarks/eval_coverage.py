"""Do the intervals, tests and power of `geomrl eval` keep what they promise?

    python benchmarks/eval_coverage.py [--repeats 1000] [--problems 30] [--samples 16]

Simulated evaluations: each problem's chance of being right follows a Beta law. Four tables, one
line each:

coverage   nominal 95 % intervals of what several benchmarks give together (the average of pass@1 and
           of pass@8 over four benchmarks of 30, 30, 40 and 270 problems) and of paired differences
           of two models. Truths are those of the law. (interval_coverage.py has the single ones.)
level      how often tests at 5 % reject where nothing differs. "alike": both models have each
           problem's same chance. "on average": their chances differ by problem, and cancel in the
           mean. Holm: any of eight benchmarks is called different. Permutation of correctness: on
           states that carry nothing of it.
power      how often a planted difference is found ("simulated"), beside what the tool predicts from
           each evaluation's own spread, on average ("own"; "error" is what it misses by), and what the
           law's true spread would predict: with rare large differences that one is far too low.
warned     share of evaluations of 30 problems that warn of fewer than ten mixed problems.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import pandas as pd
import scipy.special
from interval_coverage import LAWS, draw_world

from geomrl.geometry.groups import group_rows
from geomrl.geometry.label_tests import draw_verdicts, verdict_statistics
from geomrl.geometry.spaces import raw_space
from geomrl.stats.intervals import FEW, mean_of_means_interval
from geomrl.stats.multiple import holm
from geomrl.stats.paired_means import paired_difference_interval
from geomrl.stats.passk import pass_at_k
from geomrl.stats.permutation import permutation_p
from geomrl.stats.power import mean_of_means_error, t_power
from geomrl.stats.sign_flip import sign_flip_p

SIZES = (30, 30, 40, 270)
EIGHT = (30, 30, 30, 30, 40, 45, 272, 674)
SHIFTS = (0.3, 0.6, 1.0)  # log-odds
FLIPS = 999
LARGE = 400_000


def shifted(chance: np.ndarray, shift: float, rng: np.random.Generator) -> np.ndarray:
    """Return the second model's chances: log-odds moved by `shift`, unequally over problems."""
    moved = scipy.special.logit(np.clip(chance, 1e-9, 1 - 1e-9))
    return scipy.special.expit(moved + shift + 0.7 * rng.normal(size=chance.shape))


def draw_values(rng: np.random.Generator, chance: np.ndarray, samples: int, k: int) -> np.ndarray:
    """Return each problem's pass@k from one simulated evaluation."""
    return pass_at_k(rng.binomial(samples, chance), samples, k)


def coverage(law: tuple[float, float], problems: int, samples: int, repeats: int) -> pd.DataFrame:
    """Return coverage and width of the average's and the difference's intervals."""
    rng = np.random.default_rng(23)
    chance = rng.beta(*law, 2_000_000)
    other = shifted(chance, 0.3, rng)
    truth = {}
    for k in (1, 8):
        one, two = (1 - (1 - c) ** k for c in (chance, other))
        truth |= {f"average pass@{k}": one.mean(), f"difference pass@{k}": (two - one).mean()}
        truth[f"average difference pass@{k}"] = (two - one).mean()
    rows = []
    for _ in range(repeats):
        parts = [rng.beta(*law, size) for size in SIZES]
        twos = [shifted(part, 0.3, rng) for part in parts]
        one = rng.beta(*law, problems)
        two = shifted(one, 0.3, rng)
        for k in (1, 8):
            first = [draw_values(rng, part, samples, k) for part in parts]
            second = [draw_values(rng, part, samples, k) for part in twos]
            alone = [draw_values(rng, chance, samples, k) for chance in (two, one)]
            found = {
                f"average pass@{k}": mean_of_means_interval(first, n_boot=1000, bounds=(0, 1)),
                f"difference pass@{k}": paired_difference_interval(
                    alone[:1], alone[1:], n_boot=1000, bounds=(0, 1)
                ),
                f"average difference pass@{k}": paired_difference_interval(
                    second, first, n_boot=1000, bounds=(0, 1)
                ),
            }
            rows += [
                (name, i.low <= truth[name] <= i.high, i.high - i.low) for name, i in found.items()
            ]
    frame = pd.DataFrame(rows, columns=["quantity", "covers", "width"])
    means = frame.groupby("quantity", sort=False)[["covers", "width"]].mean()
    return means.assign(truth=pd.Series(truth)).rename(columns={"covers": "coverage"})


def level(law: tuple[float, float], problems: int, samples: int, repeats: int) -> pd.Series:
    """Return how often tests at 5 % reject where there is nothing to find."""
    rng = np.random.default_rng(29)
    found: dict[str, list[bool]] = {}
    for repeat in range(repeats):
        for k in (1, 8):
            chance = rng.beta(*law, problems)
            same = draw_values(rng, chance, samples, k) - draw_values(rng, chance, samples, k)
            # Two draws of the law in any order: their difference is 0 on average, seldom by problem.
            other = np.where(rng.random(problems) < 0.5, chance, rng.beta(*law, problems))
            mixed = draw_values(rng, other, samples, k) - draw_values(rng, chance, samples, k)
            for name, gaps in (("alike", same), ("on average", mixed)):
                p = sign_flip_p([gaps], seed=repeat, label=f"{name}{k}", n_flips=FLIPS)
                found.setdefault(f"{name} pass@{k}", []).append(p <= 0.05)
        ps = []
        for number, size in enumerate(EIGHT):
            chance = rng.beta(*law, size)
            gaps = draw_values(rng, chance, samples, 1) - draw_values(rng, chance, samples, 1)
            ps.append(sign_flip_p([gaps], seed=repeat, label=str(number), n_flips=FLIPS))
        found.setdefault("Holm over eight", []).append(bool(holm(ps).min() <= 0.05))
    return pd.DataFrame(found).mean()


def permutation_level(
    law: tuple[float, float], problems: int, samples: int, repeats: int
) -> tuple[float, int]:
    """Return how often permuting correctness rejects on states without it, and of how many runs."""
    rng = np.random.default_rng(31)
    rejected = []
    for repeat in range(repeats):
        labels, _ = draw_world(rng, law, problems, samples)
        states = rng.normal(size=(len(labels), 8)) + np.repeat(
            rng.normal(size=(problems, 8)), samples, axis=0
        )
        groups = group_rows(labels)
        space = raw_space(states[groups.order], groups)
        draws = draw_verdicts(groups, 199, seed=repeat)
        if len(draws.problems) < 2:
            continue
        grams = [space.within(p) for p in range(groups.n_problems)]
        statistics = verdict_statistics(grams, draws)
        rejected.append(permutation_p(statistics[0], statistics[1:]) <= 0.05)
    return float(np.mean(rejected)), len(rejected)


def power(law: tuple[float, float], problems: int, samples: int, repeats: int) -> pd.DataFrame:
    """Return predicted and simulated power by planted shift and k."""
    rng = np.random.default_rng(37)
    rows = []
    for shift in SHIFTS:
        for k in (1, 8):
            chance = rng.beta(*law, LARGE)
            other = shifted(chance, shift, rng)
            gaps = draw_values(rng, other, samples, k) - draw_values(rng, chance, samples, k)
            effect, sd = float(gaps.mean()), float(gaps.std())
            predicted = t_power(effect / (sd / np.sqrt(problems)), problems - 1)
            hits, own = [], []
            for repeat in range(repeats):
                one = rng.beta(*law, problems)
                two = shifted(one, shift, rng)
                gap = draw_values(rng, two, samples, k) - draw_values(rng, one, samples, k)
                p = sign_flip_p([gap], seed=repeat, label="power", n_flips=FLIPS)
                hits.append(p <= 0.05)
                se, df = mean_of_means_error([gap])
                own.append(t_power(effect / se, df) if se > 0 else np.nan)
            rows.append(
                {
                    "shift": shift,
                    "k": k,
                    "effect": effect,
                    "true spread": predicted,
                    "own": float(np.nanmean(own)),
                    "simulated": float(np.mean(hits)),
                }
            )
    table = pd.DataFrame(rows)
    return table.assign(error=table["simulated"] - table["own"])


def warned(law: tuple[float, float], problems: int, samples: int, repeats: int) -> float:
    """Return the share of evaluations with fewer than ten mixed problems."""
    rng = np.random.default_rng(41)
    counts = rng.binomial(samples, rng.beta(*law, (repeats, problems)))
    return float((((counts > 0) & (counts < samples)).sum(axis=1) < FEW).mean())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--problems", type=int, default=30)
    parser.add_argument("--samples", type=int, default=16)
    options = parser.parse_args()
    size = (options.problems, options.samples, options.repeats)
    warnings.simplefilter("ignore", RuntimeWarning)
    for law in LAWS:
        print(f"\nBeta{law}, {options.problems} problems x {options.samples}")
        print(f"warned {warned(law, *size):.3f}")
        print(coverage(law, *size).round(3).to_string())
        print(level(law, *size).round(3).to_string())
        rate, runs = permutation_level(law, *size)
        print(f"permutation of correctness {rate:.3f} of {runs}")
        print(power(law, *size).round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
