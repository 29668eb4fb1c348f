"""Builders of small tables of anchor states with labels."""

import numpy as np
import torch


def build_table(seed=0, *, groups=5, samples=6, hidden=4, dtype=torch.float64, shared=0.5):
    """Rollouts of problems in mixed order; group 0 has no correct one, 1 one, 2 no wrong one."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(max(2, samples - 3), samples + 1, groups)
    group = np.repeat(np.arange(groups), sizes)
    correct = rng.random(len(group)) < 0.6
    for name, n in ((0, 0), (1, 1), (2, sizes[2])):
        correct[group == name] = np.arange(sizes[name]) < n
    for name in range(3, groups):  # two correct and a wrong one at least, at any size
        rows = np.flatnonzero(group == name)
        correct[rows[:2]], correct[rows[-1]] = True, len(rows) < 3
    states = (
        shared + rng.normal(size=(groups, hidden))[group] + rng.normal(size=(len(group), hidden))
    )
    order = rng.permutation(len(group))
    names = np.array([40, 7, 23, 99, 3, *range(100, 100 + groups)])[group]  # numbers with gaps
    return (
        torch.tensor(states[order], dtype=dtype),
        torch.tensor(names[order]),
        torch.tensor(correct[order]),
    )
