"""A loss as a user writes one: correct rollouts come together, problems part."""

import torch


def push_apart(states, group, correct):
    """Spread of correct states within groups over the spread of the groups' means, all rows."""
    n = int(group.max()) + 1
    sizes = torch.bincount(group, minlength=n).to(states)[:, None]
    means = states.new_zeros(n, states.shape[1]).index_add(0, group, states) / sizes
    within = ((states - means[group]) ** 2).sum(-1)[correct].sum()
    between = ((means - means.mean(0)) ** 2).sum()
    return within / (1 + between)
