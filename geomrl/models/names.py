"""What users may call a model, and the folder that is meant: no weights are read here.

reasoner                          the bundled checkpoint
Qwen/Qwen3-1.7B, path/to/folder   a hub id, a Hugging Face folder
RUN                               a training run: its trained model, RUN/model
RUN@25                            the same run after training step 25; RUN@0 is what it began with
RUN/checkpoints/step-000025       the same, as a path
"""

from __future__ import annotations

import re
from pathlib import Path

from geomrl.errors import GeomrlError
from geomrl.runs.layout import is_training_run
from geomrl.runs.manifest import read_manifest

_STEP = re.compile(r"(?P<run>.+)@(?P<step>\d+)")
_CHECKPOINT = re.compile(r"step-(\d+)")


def checkpoint_path() -> Path:
    """Return the folder of the bundled reasoner, an ordinary Hugging Face model folder."""
    return Path(__file__).parents[1] / "reasoner" / "checkpoint"


def resolve_model(name: str) -> str:
    """Return the folder or hub id that `name` stands for.

    Raises:
        GeomrlError: a training run that has no such step, or no trained model yet.
    """
    if name == "reasoner":
        return str(checkpoint_path())
    folder = Path(name)
    if (folder / "config.json").exists():
        return name
    step = split_step(name)
    if step is not None:
        return _at_step(*step)
    if _CHECKPOINT.fullmatch(folder.name) and (folder / "model").is_dir():
        return _whole(folder)
    if is_training_run(folder):
        if not (folder / "model" / "config.json").exists():
            raise GeomrlError(
                f"{folder}: this training has no final model yet; finish it with `geomrl train "
                f"--resume`, or name a step: {folder}@STEP ({_steps(folder)})"
            )
        return str(folder / "model")
    return name


def split_step(name: str) -> tuple[Path, int] | None:
    """Return run and step of "RUN@STEP"; None where `name` is something else.

    >>> split_step("Qwen/Qwen3-1.7B") is None
    True
    """
    found = _STEP.fullmatch(name)
    if found is None or not Path(found["run"]).is_dir():
        return None
    return Path(found["run"]), int(found["step"])


def split_label(text: str) -> tuple[str | None, str]:
    """Return label and model of "LABEL=MODEL"; no label where `text` names a model alone.

    >>> split_label("dapo-0=runs/dapo"), split_label("runs/lr=1/dapo")
    (('dapo-0', 'runs/dapo'), (None, 'runs/lr=1/dapo'))
    """
    label, equals, rest = text.partition("=")
    named = bool(equals) and "/" not in label and label != ""
    return (label, rest) if named else (None, text)


def model_label(name: str) -> str:
    """Return a short name for tables and folders.

    >>> model_label("Qwen/Qwen3-1.7B"), model_label("runs/dapo@25")
    ('Qwen3-1.7B', 'dapo@25')
    >>> model_label("runs/dapo/checkpoints/step-000025"), model_label("runs/dapo/model")
    ('dapo@25', 'dapo')
    """
    parts = [part for part in Path(name).parts if part not in ("/", ".")] or [name]
    if len(parts) > 1 and parts[-1] == "model":
        parts = parts[:-1]
    step = _CHECKPOINT.fullmatch(parts[-1])
    if step and len(parts) > 2 and parts[-2] == "checkpoints":
        return f"{parts[-3]}@{int(step[1])}"
    return parts[-1]


def _at_step(run: Path, step: int) -> str:
    folder = run / "checkpoints" / f"step-{step:06d}"
    if folder.is_dir():
        return _whole(folder)
    train = read_manifest(run).get("train")
    if train is None:
        raise GeomrlError(f"{run}@{step}: {run} is no training run; name a model folder or hub id")
    if step == 0:
        return resolve_model(str(train["settings"]["model"]["name"]))
    raise GeomrlError(
        f"{run}@{step}: no checkpoint of that step ({_steps(run)}); "
        "older ones are deleted as checkpoint.keep says"
    )


def _whole(folder: Path) -> str:
    """Return a checkpoint's model; its record is written last."""
    if not (folder / "complete.json").exists():
        raise GeomrlError(
            f"{folder}: this checkpoint was cut off while being written; take another"
        )
    if not (folder / "model").is_dir():
        raise GeomrlError(
            f"{folder}: was written without its model (checkpoint.model: false); take the trained model,"
            f" {folder.parents[1] / 'model'}"
        )
    return str(folder / "model")


def _steps(run: Path) -> str:
    steps = sorted(int(p.name.removeprefix("step-")) for p in (run / "checkpoints").glob("step-*"))
    return f"there is: {', '.join(map(str, [0, *steps]))}"
