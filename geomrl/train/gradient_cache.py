"""The alignment loss under micro-batching: its gradient is taken once, on a table of states.

A loss over groups cannot be summed over micro-batches that split the groups. So the optimiser
step's anchor states are gathered without gradient, the loss is differentiated on that table, and
each micro-batch back-propagates <dL/dh_i, h_i> for its own rows: by the chain rule the parameters
receive the loss's exact gradient, whatever the loss, the split or the number of ranks (the
gradient caching of Gao et al. 2021, arXiv 2101.06983). It is exact where the table contains the
states of the current weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomrl.errors import GeomrlError
from geomrl.train.alignment import eligible_groups, hidden_align, widen


@dataclass(frozen=True)
class CachedGradients:
    """The alignment loss of an optimiser step and its gradient at each state.

    Attributes:
        loss: mean over layers.
        gradients: by layer, [rollouts, hidden], rows as in the tables; zero for a rollout that
            takes no part. float32, or float64 where the table is.
        n_groups: eligible groups.
    """

    loss: float
    gradients: dict[str, Float[Tensor, "rollouts hidden"]]
    n_groups: int


def cached_gradients(
    tables: Mapping[str, Float[Tensor, "rollouts hidden"]],
    group: Int[Tensor, " rollouts"],
    correct: Bool[Tensor, " rollouts"],
    kind: str,
    temperature: float,
) -> CachedGradients:
    """Return the loss, averaged over layers, and its gradient at every state of the tables.

    Args:
        tables: by layer, [rollouts, hidden] states of the whole optimiser step, of all ranks.
        group: [rollouts] problem of each row.
        correct: [rollouts].
        kind, temperature: as for `hidden_align`.

    Raises:
        GeomrlError: there is no layer, or as for `hidden_align`.
    """
    if not tables:
        raise GeomrlError("no layer to align: name one or more, such as final")
    leaves = {layer: widen(table.detach()).requires_grad_() for layer, table in tables.items()}
    with torch.enable_grad():
        losses = [
            hidden_align(leaf, group, correct, kind, temperature=temperature)
            for leaf in leaves.values()
        ]
        loss = torch.stack(losses).mean()
        found = torch.autograd.grad(loss, list(leaves.values()))
    return CachedGradients(
        loss=float(loss.detach()),
        gradients=dict(zip(leaves, found, strict=True)),
        n_groups=eligible_groups(group, correct, kind),
    )


def surrogate(
    states: Mapping[str, Float[Tensor, "rows hidden"]],
    gradients: Mapping[str, Float[Tensor, "rows hidden"]],
) -> Float[Tensor, ""]:
    """Return the scalar whose gradient at `states` is `gradients`: the sum of <g, h>.

    Its value is not the loss; it is 0 for kinds that are blind to the states' lengths. Over no
    rows it is a zero tied to the graph, so that every rank runs the same backward.

    Args:
        states: by layer, [rows, hidden] of one micro-batch, with their graph.
        gradients: the same layers and rows of `CachedGradients.gradients`.

    Raises:
        GeomrlError: there is no layer, or layers or shapes disagree.
    """
    if not states or set(states) != set(gradients):
        raise GeomrlError(
            f"states of layers {sorted(states)} with gradients of layers {sorted(gradients)}: both "
            f"must come from the same, one or more, layers"
        )
    total = []
    for layer, h in states.items():
        g = gradients[layer].detach()
        if g.shape != h.shape:
            raise GeomrlError(
                f"layer {layer}: states of shape {list(h.shape)} with gradients of shape "
                f"{list(g.shape)}; choose the micro-batch's rows of both"
            )
        total.append((g * h.to(g.dtype)).sum())
    return torch.stack(total).sum()
