"""Take a trained model out of a run, as a plain Hugging Face folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from geomrl.errors import GeomrlError
from geomrl.train.checkpoint import checkpoint_folder, is_whole, newest_checkpoint


def export(run: Path | str, out: Path | str, *, step: int | None = None) -> Path:
    """Copy the model of a checkpoint to `out`, where `geomrl probe` and transformers read it.

    Args:
        run: a training run.
        out: a folder that does not exist yet, or is empty.
        step: which checkpoint; None takes the newest whole one.

    Raises:
        GeomrlError: the run has no such checkpoint, it is torn, or `out` holds something.
    """
    run, out = Path(run), Path(out)
    there = sorted(int(p.name.removeprefix("step-")) for p in (run / "checkpoints").glob("step-*"))
    if not there:
        raise GeomrlError(f"{run}: holds no checkpoint; make one with `geomrl train`")
    folder = newest_checkpoint(run) if step is None else checkpoint_folder(run, step)
    if folder is None or not folder.exists() or not is_whole(folder):
        wanted = "no whole checkpoint" if step is None else f"no whole checkpoint of step {step}"
        raise GeomrlError(
            f"{run}: {wanted} (there is: {', '.join(map(str, there))}); older ones are deleted as "
            "checkpoint.keep says"
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
