"""Take a trained model out of a run, as a plain Hugging Face folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from geomrl.errors import GeomrlError
from geomrl.train.checkpoint import checkpoint_folder, checkpoints, step_of
from geomrl.train.fingerprints import damage, of_model


def export(run: Path | str, out: Path | str, *, step: int | None = None) -> Path:
    """Copy the model of a checkpoint to `out`, where `geomrl probe` and transformers read it.

    Args:
        run: a training run.
        out: a folder that does not exist yet, or is empty.
        step: which checkpoint; None takes the newest whole one.

    Raises:
        GeomrlError: the run has no such checkpoint, it is torn, or `out` contains something.
    """
    run, out = Path(run), Path(out)
    there = checkpoints(run)
    if not there:
        raise GeomrlError(f"{run}: holds no checkpoint; make one with `geomrl train`")
    asked = there if step is None else [checkpoint_folder(run, step)]
    faults = {folder: _fault(folder) for folder in asked if folder in there}
    folder = next((folder for folder, fault in faults.items() if fault is None), None)
    if folder is None:
        wanted = "no whole checkpoint" if step is None else f"no whole checkpoint of step {step}"
        kept = ", ".join(str(step_of(folder)) for folder in reversed(there))
        why = "; ".join(f"step {step_of(folder)}: {fault}" for folder, fault in faults.items())
        raise GeomrlError(
            f"{run}: {wanted} (there is: {kept}{'; ' if why else ''}{why}); older ones are deleted as"
            " checkpoint.keep says"
        )
    if out.exists() and any(out.iterdir()):
        raise GeomrlError(f"{out}: is not empty; give a new folder")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder / "model", partial)
    if out.exists():
        out.rmdir()
    partial.rename(out)
    return out


def _fault(folder: Path) -> str | None:
    """Return why the model cannot be taken out of a checkpoint; None where it can."""
    fault = damage(folder, of_model)
    if fault is None and not (folder / "model").is_dir():
        return "written without its model (checkpoint.model: false)"
    return fault
