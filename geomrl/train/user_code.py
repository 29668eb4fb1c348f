"""Files of the user's code that a training uses (loss, anchors, engine), tried before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from geomrl.errors import GeomrlError
from geomrl.files import is_user_code, user_code_hashes
from geomrl.train.config import TrainConfig

if TYPE_CHECKING:
    from geomrl.train.world import World


def user_code(config: TrainConfig) -> dict[str, str]:
    """Return "FILE.py:NAME" -> hash of the file, of all code of the user's that is trained with.

    Raises:
        GeomrlError: a file is absent.
    """
    named = [config.rollout.engine]
    if config.alignment is not None:
        named += [config.alignment.kind, config.alignment.anchor]
    if config.evaluation is not None:
        named += config.evaluation.anchors
    return user_code_hashes(named)


def check_unchanged(where: object, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse to resume with another content of a file than the results so far were made with.

    Raises:
        GeomrlError: a file that both sides name has changed.
    """
    changed = [name for name in now if before.get(name, now[name]) != now[name]]
    if changed:
        raise GeomrlError(
            f"{where}: was begun with another {changed[0].rpartition(':')[0]}, which has changed"
            " since: put the file back as it was, or use another --out"
        )


def require_same_code(config: TrainConfig, world: World) -> None:
    """Check that all ranks see the same files of the user's code.

    Raises:
        GeomrlError: one sees another content than rank 0; it is raised on all ranks.
    """
    first, *others = world.gather(user_code(config))
    for rank, seen in enumerate(others, start=1):
        differing = [name for name in first if seen[name] != first[name]]
        if differing:
            raise GeomrlError(
                f"{differing[0]}: rank {rank} has another content of this file than rank 0, so their"
                " results would differ: copy the file to all machines"
            )


def try_user_code(config: TrainConfig) -> list[str]:
    """Load and try what a training uses of the user's code; return what the user should know.

    Raises:
        GeomrlError: a file is absent or broken, or what it has is no loss or no anchor.
    """
    from geomrl.probe.anchors import try_anchor
    from geomrl.train.own_loss import try_own_loss

    lines = [f"{name}: of your own, {content}" for name, content in user_code(config).items()]
    if config.alignment is not None and is_user_code(config.alignment.anchor):
        try_anchor(config.alignment.anchor)
    for anchor in config.evaluation.anchors if config.evaluation is not None else []:
        try_anchor(anchor)
    if config.alignment is not None and is_user_code(config.alignment.kind):
        lines += try_own_loss(config.alignment.kind)
    return lines
