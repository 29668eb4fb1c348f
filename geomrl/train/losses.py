"""The kinds of alignment loss, one row each: what a kind compares, and what it is in words.

A kind is a row here and a function of its name in `geomrl.train.loss_functions`. One of the user's
own is "FILE.py:FUNCTION" (`geomrl.train.own_loss`). Imports neither torch nor transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from geomrl.errors import GeomrlError
from geomrl.files import is_user_code


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What the framework must know of a kind of alignment loss.

    Attributes:
        name: the value of `alignment.kind`.
        words: a group's loss, in a line.
        others: the rollouts of other groups that a group's loss depends on: none, their correct
            ones, all of theirs, or unknown (a function of the user's, which is called with the
            whole table).
        needs_wrong: a group takes part only where it has a rollout that is not correct.
        temperature: whether `alignment.temperature` is used.
    """

    name: str
    words: str
    others: Literal["none", "correct", "all", "unknown"] = "none"
    needs_wrong: bool = False
    temperature: bool = False

    @property
    def across_groups(self) -> bool:
        """Whether the loss needs all groups of an optimiser update in one table."""
        return self.others != "none"

    @property
    def needs_another_group(self) -> bool:
        """Whether a group alone has no loss."""
        return self.others in ("correct", "all")


LOSSES = {
    loss.name: loss
    for loss in (
        Loss(name="cosine", words="1 - the mean cosine of two correct rollouts"),
        Loss(
            name="repel", words="the mean cosine of two correct rollouts: the default, turned round"
        ),
        Loss(
            name="leave_one_out", words="1 - the mean cosine with the sum of the other directions"
        ),
        Loss(name="mse", words="the mean squared difference of two correct rollouts' coordinates"),
        Loss(
            name="l1_detached",
            words="the mean absolute difference from another correct rollout, held still as teacher",
        ),
        Loss(
            name="contrastive_wrong",
            words="supervised contrastive, against the group's incorrect rollouts",
            needs_wrong=True,
            temperature=True,
        ),
        Loss(
            name="contrastive_problems",
            words="supervised contrastive, against correct rollouts of other groups",
            others="correct",
            temperature=True,
        ),
        Loss(
            name="supcon",
            words="supervised contrastive, against all other rollouts",
            others="all",
            temperature=True,
        ),
        Loss(
            name="soft_nn",
            words="soft nearest neighbour, against all other rollouts",
            others="all",
            temperature=True,
        ),
        Loss(
            name="relational",
            words="the mean squared difference of two rollouts' cosines with other groups' centroids",
            others="correct",
        ),
        Loss(
            name="centred",
            words="cosine, of states minus the mean of the other groups' means",
            others="all",
        ),
    )
}
"""All kinds by name; the first is the default."""


def loss_row(kind: str) -> Loss:
    """Return a kind's row; of "FILE.py:FUNCTION" the row of any function of the user's.

    Raises:
        GeomrlError: the kind is unknown.
    """
    if is_user_code(kind):
        return Loss(name=kind, words="a function of your own, of the whole table", others="unknown")
    if kind not in LOSSES:
        raise GeomrlError(
            f"alignment loss {kind!r} is unknown: choose among {', '.join(LOSSES)}, or name one of "
            "your own as FILE.py:FUNCTION"
        )
    return LOSSES[kind]


def loss_label(kind: str) -> str:
    """Return a kind's name for an axis.

    >>> loss_label("leave_one_out"), loss_label("mine/losses.py:push_apart")
    ('leave one out', 'losses.py: push apart')
    """
    if not is_user_code(kind):
        return kind.replace("_", " ")
    file, _, name = kind.rpartition(":")
    return f"{Path(file).name}: {name.replace('_', ' ')}"
