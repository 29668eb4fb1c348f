"""The settings of a training in its manifest: what decides its content, and what may change on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from geomrl.files import write_json
from geomrl.runs.layout import MANIFEST, USER_CODE
from geomrl.runs.manifest import (
    check_same_settings,
    flat_settings,
    read_manifest,
    record_step,
)
from geomrl.train.config import TrainConfig
from geomrl.train.user_code import check_unchanged, user_code

STEP = "train"
"""The training's name in the manifest."""

_NOT_CONTENT = ("steps", "checkpoint", "log")
"""How long a run is and what is kept of it: not recorded in the manifest."""

ROUNDING_OR_SPEED = (
    *("micro_batch", "model.head_chunk", "model.activation_checkpointing", "model.attention"),
    *("rollout.chunk", "rollout.vllm", "evaluation.every", "deepspeed.processes"),
)
"""What decides memory, speed and the order of sums, or when is measured: may change at a resume.

The loss is one sum over an update, however that is cut, and every rollout draws from its own seed.
"""

Changes = dict[str, tuple[Any, Any]]
"""Setting, with dots -> its value before and now."""


def recorded_settings(config: TrainConfig, world_size: int) -> dict[str, Any]:
    """Return what the manifest contains of a configuration, and of code of the user's in it."""
    settings = {k: v for k, v in config.model_dump(mode="json").items() if k not in _NOT_CONTENT}
    code = user_code(config)
    return {**settings, "world": world_size, **({USER_CODE: code} if code else {})}


def record_start(config: TrainConfig, run: Path, world_size: int) -> None:
    """Record a run that begins, in its manifest."""
    record_step(run, STEP, recorded_settings(config, world_size), begun=False)


def changes(config: TrainConfig, run: Path, world_size: int) -> Changes:
    """Return what differs from a run's settings, where that decides memory, speed or rounding alone.

    Settings that a run's record lacks, since they came later, had their defaults.

    Raises:
        GeomrlError: something else differs, which the message lists; or a file of the user's code.
    """
    entry = read_manifest(run)[STEP]
    before = _with_defaults(entry["settings"])
    for change in entry.get("changes", []):
        for name, values in change["settings"].items():
            _put(before, name, values["now"])
    now = recorded_settings(config, world_size)
    check_unchanged(run, before.pop(USER_CODE, {}), now.pop(USER_CODE, {}))
    differing = {name: (old, new) for name, old, new in _differences(before, now)}
    allowed = {name: both for name, both in differing.items() if _may_change(name)}
    refused = {name: both for name, both in differing.items() if name not in allowed}
    check_same_settings(
        run,
        STEP,
        {name: old for name, (old, _) in refused.items()},
        {name: new for name, (_, new) in refused.items()},
    )
    return allowed


def record_changes(run: Path, changed: Changes, step: int) -> None:
    """Add changed settings to the manifest, with the first training step that they apply to."""
    if not changed:
        return
    manifest = read_manifest(run)
    settings = {name: {"before": old, "now": new} for name, (old, new) in changed.items()}
    entry = manifest[STEP]
    entry["changes"] = [*entry.get("changes", []), {"from_step": step, "settings": settings}]
    write_json(run / MANIFEST, manifest)


def content(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a whole recorded configuration decides results: setting with dots -> value.

    Two trainings whose contents are equal differ by rounding at most.
    """
    settings = flat_settings(_completed(recorded))
    kept = ("checkpoint.", "log.")
    return {k: v for k, v in settings.items() if not (k.startswith(kept) or _may_change(k))}


def _completed(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded configuration with the defaults of settings that came later."""
    try:
        return TrainConfig.model_validate(recorded).model_dump(mode="json")
    except ValidationError:  # a later version refuses it: it is compared as it is
        return dict(recorded)


def _may_change(name: str) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in ROUNDING_OR_SPEED)


def _with_defaults(recorded: Mapping[str, Any]) -> dict[str, Any]:
    settings = dict(recorded)
    beside = {key: settings.pop(key) for key in ("world", USER_CODE) if key in settings}
    known = _completed({**settings, "steps": 1})
    return {"world": 1, **{k: v for k, v in known.items() if k not in _NOT_CONTENT}, **beside}


def _differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (setting with dots, before, now) of all that differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted({*before, *now}):
            inner = f"{name}.{key}" if name else key
            yield from _differences(before.get(key), now.get(key), inner)
    elif before != now:
        yield name, before, now


def _put(settings: dict[str, Any], name: str, value: Any) -> None:
    """Set a setting by its name with dots."""
    *path, last = name.split(".")
    for key in path:
        settings = settings[key]
    settings[last] = value
