"""An alignment loss of the user's own: `alignment.kind: FILE.py:FUNCTION`.

    def push_apart(states, group, correct):
        ...
        return loss  # a scalar

The function is called with the anchor states of a whole optimiser update, of all ranks, so it may
compare what it likes, and its gradient is the same however the update is cut into micro-batches:

- states: [rows, hidden], float32 (float64 in the trial); one row a graded rollout with the anchor;
- group: [rows], 0 .. G-1: equal numbers are rollouts of one problem;
- correct: [rows], bool.

It returns one loss for the table, normalised as it sees fit; `alignment.weight` multiplies it.
Where nothing can be compared it returns 0. It must not draw at random, nor depend on the rows' order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomrl.errors import GeomrlError, reason_of
from geomrl.files import load_user_function

OwnLoss = Callable[
    [Float[Tensor, "rows hidden"], Int[Tensor, " rows"], Bool[Tensor, " rows"]], Float[Tensor, ""]
]
_HIDDEN = 5
_CLOSE = 1e-9  # relative, float64: what another order of summation changes is far below


def own_loss(
    kind: str,
    states: Float[Tensor, "rows hidden"],
    group: Int[Tensor, " rows"],
    correct: Bool[Tensor, " rows"],
) -> Float[Tensor, ""]:
    """Call a function of the user's on a table; return its loss, tied to the states' graph.

    Args:
        kind: "FILE.py:FUNCTION".
        states, group, correct: as above.

    Raises:
        GeomrlError: there is no such function, or it returned no scalar, or one that is not finite
            though the states are.
    """
    loss = _function(kind)(states, group, correct)
    if not isinstance(loss, Tensor) or loss.ndim or not loss.is_floating_point():
        what = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise GeomrlError(
            f"{kind}: returns {what}, but a loss is one number with a gradient: return a"
            " floating-point tensor without dimensions"
        )
    if not bool(torch.isfinite(loss)) and bool(torch.isfinite(states).all()):
        raise GeomrlError(
            f"{kind}: returns {loss.item()} for {len(states)} finite states of"
            f" {len(group.unique())} groups, {int(correct.sum())} of them correct: where nothing can"
            " be compared, return 0 * states.sum()"
        )
    return loss if loss.requires_grad else loss + states[:0].sum()


def try_own_loss(kind: str) -> list[str]:
    """Call a function of the user's on small tables, before a training that relies on it begins.

    Returns:
        What the user should know, a line each.

    Raises:
        GeomrlError: it fails, returns no finite scalar, has no finite gradient at the states, or
            depends on something else than the rows: chance, or their order.
    """
    states, group, correct = _example()
    value, gradient = _tried(kind, states, group, correct)
    for name, table in _edges(states, group, correct).items():
        if not bool(torch.isfinite(_tried(kind, *table)[1]).all()):
            raise GeomrlError(
                f"{kind}: its gradient is not finite for {name}; such tables occur: mask them out, or"
                " add a small number below roots and divisions"
            )
    if not gradient.any():
        raise GeomrlError(
            f"{kind}: has no gradient at the states: compute it from `states`, without detach() and"
            " item()"
        )
    again = _tried(kind, states, group, correct)[0]
    if again != value:
        raise GeomrlError(
            f"{kind}: gives {value:g} and then {again:g} for the same states, so ranks would disagree"
            " and no run could be repeated: draw nothing at random"
        )
    order = torch.randperm(len(states), generator=torch.Generator().manual_seed(1))
    other = _tried(kind, states[order], 3 - group[order], correct[order])[0]
    if abs(other - value) > _CLOSE * max(1.0, abs(value)):
        raise GeomrlError(
            f"{kind}: gives {value:g}, and {other:g} for the same rollouts in another order: it may"
            " use a row's group and correctness, and not its place"
        )
    _tried(kind, states.float(), group, correct)
    if _is_slope_of(kind, states, group, correct):
        return []
    return [
        f"note: {kind}: its gradient is not that of finite differences, as with detach() or a step"
        " function; the logged loss is then not what is descended"
    ]


def _function(kind: str) -> OwnLoss:
    return load_user_function(kind, "an alignment loss", "(states, group, correct)")


def _tried(kind: str, states: Tensor, group: Tensor, correct: Tensor) -> tuple[float, Tensor]:
    """Return the loss and its gradient [rows, hidden]; zero where it is a constant."""
    leaf = states.clone().requires_grad_()
    try:
        with torch.enable_grad():
            loss = own_loss(kind, leaf, group.clone(), correct.clone())
            found = torch.autograd.grad(loss, leaf)[0]
    except GeomrlError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise GeomrlError(
            f"{kind}: fails on {len(states)} states of {len(group.unique())} groups"
            f" ({type(error).__name__}: {reason_of(error)}); mend it: it is called with states"
            " [rows, hidden], group [rows] and correct [rows]"
        ) from error
    return float(loss.detach()), found


def _example() -> tuple[Tensor, Tensor, Tensor]:
    """Return a table of four groups: two mixed, one all correct, one all wrong."""
    draws = torch.Generator().manual_seed(0)
    group = torch.tensor([0, 1, 0, 2, 1, 3, 0, 2, 1, 3, 0, 1])
    correct = torch.tensor([1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 1, 0]).bool()
    states = torch.randn(len(group), _HIDDEN, generator=draws, dtype=torch.float64)
    return states, group, correct


def _edges(
    states: Tensor, group: Tensor, correct: Tensor
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return small tables that occur in a training, by what they are."""
    return {
        "a table of four groups": (states, group, correct),
        "a single rollout": (states[:1], group[:1], correct[:1]),
        "a table without a correct rollout": (states, group, torch.zeros_like(correct)),
        "a table without an incorrect rollout": (states, group, torch.ones_like(correct)),
        "a single group": (states[group == 0], group[group == 0], correct[group == 0]),
        "rollouts of one group with equal states": (states[group], group, correct),
    }


def _is_slope_of(kind: str, states: Tensor, group: Tensor, correct: Tensor) -> bool:
    """Say whether the gradient is that of finite differences."""
    leaf = states.clone().requires_grad_()
    return torch.autograd.gradcheck(
        lambda x: own_loss(kind, x, group, correct), (leaf,), raise_exception=False
    )
