"""`manifest.json`: what made a run directory, so that it explains itself and resumes safely."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from geomrl.errors import GeomrlError
from geomrl.files import read_json, write_json

LIBRARIES = (
    *("geomrl", "torch", "transformers", "nnsight", "numpy", "math-verify", "safetensors"),
    *("deepspeed", "peft", "vllm"),
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that results depend on."""
    found = {"python": sys.version.split()[0]}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "absent"
    return found


def git_commit() -> str | None:
    """Return the commit of the checkout that geomrl runs from, if it is one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def read_manifest(run: Path) -> dict[str, Any]:
    """Return a run's manifest; an empty one where the run does not exist yet."""
    path = run / "manifest.json"
    return read_json(path) if path.exists() else {}


def record_step(run: Path, step: str, settings: dict[str, Any], *, begun: bool) -> None:
    """Record a step's settings in the manifest, or check them against those recorded before.

    Settings are what decides the step's content, so a resumed command must bring the same ones.
    Where nothing of it is on disk (`begun` False: a first try that failed), new ones are taken.

    Raises:
        GeomrlError: the run holds this step's results for other settings.
    """
    manifest = read_manifest(run)
    before = manifest.get(step)
    if before is not None and begun:
        check_same_settings(run, step, before["settings"], settings)
        return
    entry = {
        "settings": settings,
        "command": sys.argv,
        "versions": versions(),
        "git_commit": git_commit(),
    }
    write_json(run / "manifest.json", {**manifest, step: entry})


def check_same_settings(run: Path, step: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to mix results of different settings in one folder.

    Raises:
        GeomrlError: a setting differs; the message lists each one.
    """
    different = [k for k in sorted({*before, *now}) if before.get(k) != now.get(k)]
    if different:
        listed = "; ".join(f"{k}: {before.get(k)!r} there, {now.get(k)!r} now" for k in different)
        raise GeomrlError(
            f"{run}: its {step} were made with other settings ({listed}). Use another --out, or "
            "repeat the settings to go on from where it stopped"
        )
