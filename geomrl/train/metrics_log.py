"""`metrics.jsonl`: one line of numbers a training step, and TensorBoard or W&B when asked."""

from __future__ import annotations

import json
import math
import numbers
import os
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

from geomrl.errors import GeomrlError, MissingExtra
from geomrl.files import atomic_path, read_json, write_json
from geomrl.runs.layout import METRICS

if TYPE_CHECKING:
    from geomrl.train.config import LogConfig


class MetricsLog:
    """Appends one line a step to RUN/metrics.jsonl and forwards it to the loggers asked for.

    Make it on rank 0 alone. When a run is resumed, call `rewind` before the first `append`.

    Args:
        run: the run's folder; made when the first line is written.
        config: which loggers to forward to.

    Raises:
        MissingExtra: TensorBoard or W&B is asked for and not installed.
    """

    def __init__(self, run: Path, config: LogConfig) -> None:
        require_loggers(config)
        self.path = Path(run) / METRICS
        self._config = config
        self._writers: list[_TensorBoard | _WandB] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def append(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Write one step's metrics; on return the line is on the disk.

        What is not a finite number is written as null, since JSON has no word for it.

        Args:
            step: the training step that these belong to; 0 is before training.
            metrics: numbers by name (Python's, NumPy's, or tensors of one element).
        """
        row: dict[str, int | float | None] = {"step": int(step)}
        row |= {name: _number(value) for name, value in metrics.items() if name != "step"}
        line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        if self._writers is None:
            self._writers = _open_writers(self.path.parent, self._config, int(step))
        known = {name: value for name, value in row.items() if value is not None}
        for writer in self._writers:
            writer.append(int(step), known)

    def rewind(self, step: int) -> None:
        """Keep the lines up to `step` only; -1 keeps none. A torn last line goes too.

        A run that resumes from the checkpoint of `step` writes the later ones again.

        Raises:
            GeomrlError: a line other than the last one cannot be read.
        """
        if not self.path.exists():
            return
        kept = [line for line, row in _lines(self.path) if row["step"] <= step]
        with atomic_path(self.path) as temporary:
            temporary.write_bytes(b"".join(kept))

    def close(self) -> None:
        """Let the loggers finish; `metrics.jsonl` needs no closing."""
        for writer in self._writers or []:
            writer.close()
        self._writers = None


def read_metrics(run: Path | str) -> pd.DataFrame:
    """Return RUN/metrics.jsonl: one row a step, in order; NaN where a step lacks a metric.

    A run may be read while it trains: a last line that is still being written is left out.

    Raises:
        GeomrlError: there is no such file, it contains no whole line, or one in its midst is torn.
    """
    path = Path(run) / METRICS
    if not path.exists():
        raise GeomrlError(
            f"{run}: not a training run (no {METRICS} in it); make one with `geomrl train`"
        )
    rows = [row for _, row in _lines(path)]
    if not rows:
        raise GeomrlError(f"{path}: holds no whole line yet; wait until a step is finished")
    frame = pd.DataFrame(rows)
    numbers = frame.columns.drop("step")
    # A metric that is null in every line would be a column of objects.
    return frame.astype(dict.fromkeys(numbers, float)).sort_values("step", ignore_index=True)


def logged_steps(run: Path) -> list[int]:
    """Return the steps that RUN/metrics.jsonl has whole lines of, in order; none without the file.

    Raises:
        GeomrlError: a line other than the last one cannot be read.
    """
    path = Path(run) / METRICS
    return sorted(int(row["step"]) for _, row in _lines(path)) if path.exists() else []


def require_loggers(config: LogConfig) -> None:
    """Say what is missing before a model is loaded.

    Raises:
        MissingExtra: TensorBoard or W&B is asked for and not installed.
    """
    if config.tensorboard and find_spec("tensorboard") is None:
        raise MissingExtra("tensorboard", "tensorboard", "log.tensorboard")
    if config.wandb is not None and find_spec("wandb") is None:
        raise MissingExtra("wandb", "wandb", "log.wandb")


def _lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Return the whole lines with their rows.

    Only the last line can be torn by a kill, and then it lacks its end: lines are written at once.
    """
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
            row["step"] = int(row["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise GeomrlError(
                f"{path}, line {number}: not a JSON object with a step ({error}); mend or delete "
                "that line"
            ) from error
        found.append((line, row))
    return found


def _number(value: Any) -> int | float | None:
    if value is None:
        return None
    if isinstance(value, numbers.Integral):  # True is 1
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None


class _TensorBoard:
    """One scalar a metric under RUN/tensorboard."""

    def __init__(self, run: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an interrupted run had logged from this step on is hidden: it is logged again.
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=first)

    def append(self, step: int, metrics: dict[str, int | float]) -> None:
        for name, value in metrics.items():
            if name != "step":
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """One W&B run, found again by the id in RUN/wandb.json when training resumes."""

    def __init__(self, run: Path, project: str) -> None:
        import wandb

        record = run / "wandb.json"
        if not record.exists():
            write_json(record, {"id": uuid.uuid4().hex[:12]})
        self._run = wandb.init(
            project=project, id=read_json(record)["id"], name=run.name, dir=str(run), resume="allow"
        )
        # W&B's own step never goes back; ours does when a run resumes, so it is a metric.
        self._run.define_metric("*", step_metric="step")

    def append(self, step: int, metrics: dict[str, int | float]) -> None:
        self._run.log({**metrics, "step": step})

    def close(self) -> None:
        self._run.finish()


def _open_writers(run: Path, config: LogConfig, first: int) -> list[_TensorBoard | _WandB]:
    writers: list[_TensorBoard | _WandB] = []
    if config.tensorboard:
        writers.append(_TensorBoard(run, first))
    if config.wandb is not None:
        writers.append(_WandB(run, config.wandb))
    return writers
