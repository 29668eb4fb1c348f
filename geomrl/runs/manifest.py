"""`manifest.json`: what made a run directory, so that it explains itself and resumes safely."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from geomrl.errors import GeomrlError
from geomrl.files import read_json, write_json
from geomrl.runs.layout import MANIFEST
from geomrl.runs.locks import turn

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
    path = run / MANIFEST
    return read_json(path) if path.exists() else {}


def record_step(
    run: Path,
    step: str,
    settings: dict[str, Any],
    *,
    begun: bool,
    free: Collection[str] = (),
    newer: Collection[str] = (),
) -> None:
    """Record a step's settings in the manifest, or check them against those recorded before.

    Settings are what decides the step's content, so a resumed command must bring the same ones.
    Where nothing of it is on disk (`begun` False: a first try that failed), new ones are taken.

    Args:
        run: the run directory.
        step: the step's name.
        settings: in JSON's types.
        begun: whether some of the step's content is on disk.
        free: names of settings ("a" or "a.b") that change only rounding or speed: recorded, with
            every later change, and never compared.
        newer: names of settings that older versions of geomrl did not record: compared where both
            sides have them.

    Raises:
        GeomrlError: the run contains this step's results for other settings.
    """
    with turn(run):  # other steps of the run may be recorded by other processes
        manifest = read_manifest(run)
        before = manifest.get(step)
        if before is not None and begun:
            check_same_settings(run, step, before["settings"], settings, free=free, newer=newer)
            changed = _changes(before, settings, free)
            if not changed:
                return
            entry = {**before, "changes": [*before.get("changes", []), changed]}
        elif before is not None and _same(before, settings):
            return  # made again of the same: what is recorded is who made it first
        else:
            entry = {
                "settings": settings,
                "command": sys.argv,
                "versions": versions(),
                "git_commit": git_commit(),
            }
        write_json(run / MANIFEST, {**manifest, step: entry})


def _same(before: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Say whether a step's record is of the same settings and the same libraries."""
    return before["settings"] == _json(settings) and before.get("versions") == versions()


def _changes(
    before: dict[str, Any], settings: dict[str, Any], free: Collection[str]
) -> dict[str, Any]:
    """Return the free settings that differ from those last recorded."""
    last = flat_settings(before["settings"])
    for change in before.get("changes", []):
        last |= change
    return {
        name: value
        for name, value in flat_settings(settings).items()
        if name in free and _json(last.get(name)) != _json(value)
    }


def check_same_settings(
    run: Path,
    step: str,
    before: dict[str, Any],
    now: dict[str, Any],
    *,
    free: Collection[str] = (),
    newer: Collection[str] = (),
) -> None:
    """Refuse to mix results of different settings in one folder.

    `free` and `newer` as in `record_step`.

    Raises:
        GeomrlError: a setting differs; the message lists each one.
    """
    there, here = flat_settings(before), flat_settings(now)
    skipped = {*free, *(k for k in newer if k not in there or k not in here)}
    different = [
        k for k in sorted({*there, *here} - skipped) if _json(there.get(k)) != _json(here.get(k))
    ]
    if different:
        listed = "; ".join(f"{k}: {there.get(k)!r} there, {here.get(k)!r} now" for k in different)
        raise GeomrlError(
            f"{run}: its {step} were made with other settings ({listed}). Use another --out, or "
            "repeat the settings to go on from where it stopped"
        )


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level of names with dots between."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flat_settings(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _json(value: Any) -> Any:
    """Return a value as the manifest gives it back: tuples as lists."""
    return json.loads(json.dumps(value))
