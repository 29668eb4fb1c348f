"""How a training run is opened: its folder, its lock, its settings, and from where it resumes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from geomrl.files import atomic_path, remove_leftovers
from geomrl.runs.locks import sole_process
from geomrl.train.config import TrainConfig, resolved_yaml
from geomrl.train.metrics_log import MetricsLog
from geomrl.train.preflight import check_folder
from geomrl.train.resume_point import ResumePoint, find_resume_point, leave_later
from geomrl.train.run_settings import Changes, changes, record_changes, record_start
from geomrl.train.shared_folder import require_shared
from geomrl.train.user_code import require_same_code
from geomrl.train.world import World

_logger = logging.getLogger("geomrl")


@dataclass(frozen=True)
class Start:
    """Where a run starts, and the settings that changed since its last start."""

    point: ResumePoint = field(default_factory=ResumePoint)
    changed: Changes = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


@contextmanager
def open_run(config: TrainConfig, run: Path, world: World, *, resume: bool) -> Iterator[Start]:
    """Lock a run's folder while the block runs, and find from where the training resumes.

    All ranks take part, and all of them raise what one finds. Nothing of an earlier start is changed
    here: `go_on` does so when the models are loaded.

    Args:
        config: the run's configuration.
        run: its folder.
        world: the ranks.
        resume: whether an earlier start is resumed.

    Raises:
        GeomrlError: the folder contains another run, or one that was not to be resumed; another
            process trains there; a rank does not see the folder, or sees other code of the user's;
            no checkpoint is whole.
    """
    world.first_does(lambda: check_folder(run, resume=resume))  # before a folder is made
    require_shared(run, world)
    require_same_code(config, world)
    with ExitStack() as stack:
        lock = sole_process(run / ".lock", "a training")
        world.first_does(lambda: stack.enter_context(lock))
        begun = world.first_does(lambda: check_folder(run, resume=resume))
        if not begun:
            world.first_does(lambda: record_start(config, run, world.size))
            world.first_does(lambda: _write_config(config, run))
            yield Start()
            return
        changed = world.first_does(lambda: changes(config, run, world.size))
        point = find_resume_point(run, world)
        for warning in point.warnings(run) if world.first else []:
            _logger.warning(warning)  # also where nothing else is shown
        lines = [
            f"{name}: {old} until now, {new} from here" for name, (old, new) in changed.items()
        ]
        yield Start(point, changed, [point.line(run), *lines])


def go_on(config: TrainConfig, run: Path, start: Start, log: MetricsLog) -> None:
    """Make a run's folder what it was at the point from which it resumes; on rank 0 alone.

    Args:
        config: the run's configuration.
        run: its folder.
        start: what `open_run` found.
        log: its metrics.
    """
    # What is cut off in a step's evaluation or checkpoint goes with its folder.
    for folder in (run, run / "rollouts"):
        remove_leftovers(folder)
    leave_later(run, start.point)
    log.rewind(start.point.step or -1)
    record_changes(run, start.changed, start.point.step + 1)
    _write_config(config, run)


def _write_config(config: TrainConfig, run: Path) -> None:
    with atomic_path(run / "config.yaml") as temporary:
        temporary.write_text(resolved_yaml(config))
