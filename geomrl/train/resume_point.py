"""Where a training resumes: the newest checkpoint that is whole, and what becomes of all that is newer.

What was finished is never deleted for being damaged: it moves to RUN/set-aside-1. What a kill cut
off, and the steps after the last checkpoint, go, and are made again.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import yaml

from geomrl.errors import GeomrlError
from geomrl.files import read_json
from geomrl.runs.layout import METRICS
from geomrl.train.checkpoint import checkpoints, step_of
from geomrl.train.fingerprints import COMPLETE, absent_rank, damage, for_training
from geomrl.train.metrics_log import logged_steps
from geomrl.train.world import World

_STEP = re.compile(r"step-(\d+)(\.parquet)?")


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """Where a training resumes.

    `checkpoint` is None at the start; `step` is its step; `damaged` are newer checkpoints with what is
    wrong, and `redone` the finished steps that are made again.
    """

    checkpoint: Path | None = None
    step: int = 0
    damaged: dict[Path, str] = field(default_factory=dict)
    redone: list[int] = field(default_factory=list)
    unlogged: list[int] = field(default_factory=list)

    def warnings(self, run: Path) -> list[str]:
        """Return what of the run is lost or damaged, a line each."""
        found = [f"{folder}: {why}; it is passed over" for folder, why in self.damaged.items()]
        if self.damaged:
            found.append(f"{run}: what is newer than step {self.step} moves to {_aside(run)}")
        if self.unlogged:
            found.append(f"{run / METRICS}: lacks {_span(self.unlogged)}, and so will all figures")
        return found

    def line(self, run: Path) -> str:
        """Return where the run resumes, in words."""
        where = f"goes on after step {self.step}" if self.step else "no checkpoint yet, starts anew"
        return f"{run}: {where}" + (f"; {_span(self.redone)} again" if self.redone else "")


def find_resume_point(run: Path, world: World) -> ResumePoint:
    """Return where to resume; all ranks take part, each hashing its share. Nothing is changed.

    Raises:
        GeomrlError: there were checkpoints and none is whole, or metrics.jsonl is damaged.
    """
    folders, logged = world.first_does(lambda: (checkpoints(run), logged_steps(run)))
    damaged: dict[Path, str] = {}
    for folder in folders:
        fault = _fault(folder, world)
        if fault is None:
            step = step_of(folder)
            return ResumePoint(
                checkpoint=folder,
                step=step,
                damaged=damaged,
                redone=[n for n in logged if n > step],
                unlogged=sorted({*range(1, step + 1)} - {*logged}),
            )
        if not world.first_does(partial(_cut_off, folder, logged)):
            damaged[folder] = fault
    if damaged:
        newest, why = next(iter(damaged.items()))
        raise GeomrlError(
            f"{newest}: {why}, and no other checkpoint of {run} is whole. Nothing was changed: copy the"
            " folder again from where it is whole, or train anew into another --out"
        )
    if world.first_does(lambda: _had_checkpoints(run, logged)):
        raise GeomrlError(
            f"{run / 'checkpoints'}: holds no checkpoint, though {_span(logged)} of this run were"
            " finished and saved. Nothing was changed: copy the folder again from where it is whole, or"
            " train anew into another --out"
        )
    return ResumePoint(redone=[n for n in logged if n])


def _steps(run: Path, folder: str) -> list[tuple[int, Path]]:
    """Return what a run wrote a step of into one of its folders, with the step."""
    found = [(_STEP.fullmatch(path.name), path) for path in (run / folder).glob("*")]
    return [(int(match[1]), path) for match, path in found if match]


def leave_later(run: Path, point: ResumePoint) -> None:
    """Take away what a run wrote after the point at which it resumes, on rank 0 alone.

    What is dropped because a checkpoint is damaged is set aside; what is merely made again goes.
    """
    damaged = bool(point.damaged)
    aside = _aside(run)
    if damaged and (run / METRICS).exists():
        _copy(run / METRICS, aside / METRICS)
    for folder in ("rollouts", "eval", "checkpoints"):
        for step, path in _steps(run, folder):
            if step <= point.step:
                continue
            if damaged:
                target = aside / path.relative_to(run)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def _aside(run: Path) -> Path:
    """Return the next free folder for what is set aside."""
    taken = [int(p.name.rpartition("-")[2]) for p in run.glob("set-aside-*")]
    return run / f"set-aside-{max(taken, default=0) + 1}"


def _fault(folder: Path, world: World) -> str | None:
    """Return what keeps a training from resuming from a checkpoint; all ranks take part."""
    faults = world.gather(damage(folder, for_training, (world.rank, world.size)))
    found = next((fault for fault in faults if fault), None)
    if found is not None:
        return found
    return world.first_does(
        lambda: absent_rank(
            read_json(folder / COMPLETE), int(read_json(folder / "trainer.json")["world"])
        )
    )


def _cut_off(folder: Path, logged: list[int]) -> bool:
    """Say whether a kill while it was being written explains a checkpoint's state.

    Then its record is missing, and its step is the last one in metrics.jsonl: the next one's line
    comes after the record. A trained model beside it comes after the record too.
    """
    if (folder / COMPLETE).exists() or (folder.parents[1] / "model").exists():
        return False
    return bool(logged) and logged[-1] == step_of(folder)


def _had_checkpoints(run: Path, logged: list[int]) -> bool:
    """Say whether a run must once have had a checkpoint: it ended, or went on past the first."""
    if (run / "model").exists():
        return True
    settings = run / "config.yaml"
    if not logged or not settings.exists():
        return False
    recorded = yaml.safe_load(settings.read_text())
    return logged[-1] > int(recorded["checkpoint"]["every"])


def _span(steps: list[int]) -> str:
    """Return steps in words.

    >>> _span([2]), _span([2, 3, 4])
    ('step 2', 'steps 2 to 4')
    """
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
