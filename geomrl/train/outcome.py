"""What a training run changed on held-out problems: its first evaluation against its last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geomrl.files import read_json, read_parquet, write_json
from geomrl.probe.summary import interval_dict
from geomrl.runs.layout import ROLLOUTS, SUMMARY
from geomrl.stats.intervals import Interval, mean_interval
from geomrl.stats.passk import pass_at_k

N_BOOT = 2000


def outcome(run: Path | str, seed: int = 0) -> dict[str, Any] | None:
    """Compare a run's first and last evaluation, paired by problem, and write RUN/summary.json.

    Both evaluations sample the same problems with the same seeds. Differences in pass@k are means
    over problems with intervals over problems: they say what this training did on problems like
    these, not what another seed of it would do (`geomrl ablate` does). Cosines stand as each
    evaluation has them, beside their floor.

    Args:
        run: a training run.
        seed: of the bootstrap.

    Returns:
        `before`, `after` and `difference` by metric in JSON's types; None where there are not two
        evaluations.
    """
    run = Path(run)
    folders = sorted(p for p in (run / "eval").glob("step-*") if (p / SUMMARY).exists())
    if len(folders) < 2:
        return None
    first, last = folders[0], folders[-1]
    counts = [_correct(folder) for folder in (first, last)]
    n = int(counts[0]["samples"].iloc[0])
    found: dict[str, Any] = {
        "steps": [int(folder.name.removeprefix("step-")) for folder in (first, last)],
        "n_problems": len(counts[0]),
        "n_samples": n,
        "seed": seed,
        "accuracy": {},
    }
    for k in sorted({1, min(8, n)}):
        each = [pass_at_k(table["correct"].to_numpy(), n, k) for table in counts]
        found["accuracy"][f"pass@{k}"] = {
            "before": interval_dict(_interval(each[0], f"before/pass@{k}", seed, (0.0, 1.0))),
            "after": interval_dict(_interval(each[1], f"after/pass@{k}", seed, (0.0, 1.0))),
            "difference": interval_dict(
                _interval(each[1] - each[0], f"difference/pass@{k}", seed, (-1.0, 1.0))
            ),
        }
    figures = [read_json(folder / SUMMARY)["metrics"] for folder in (first, last)]
    found["geometry"] = {
        name.removeprefix("eval/"): {"before": _cell(figures[0], name), "after": _cell(figures[1], name)}
        for name in figures[0]
        if name.count("/") == 3 and not name.endswith(("_low", "_high"))
    }  # fmt: skip
    write_json(run / SUMMARY, found)
    return found


def _correct(folder: Path) -> pd.DataFrame:
    """Return each problem's correct samples and samples, in a fixed order."""
    table = read_parquet(folder / ROLLOUTS)
    right = table["verdict"].eq("correct").groupby([table["benchmark"], table["problem_id"]])
    return pd.DataFrame({"correct": right.sum(), "samples": right.size()}).sort_index()


def _interval(values: np.ndarray, label: str, seed: int, bounds: tuple[float, float]) -> Interval:
    return mean_interval(values, seed=seed, label=label, n_boot=N_BOOT, bounds=bounds)


def _cell(figures: dict[str, float | None], name: str) -> dict[str, float | None]:
    ends = {end: figures[f"{name}_{end}"] for end in ("low", "high") if f"{name}_{end}" in figures}
    return {"value": figures.get(name), **ends}
