"""The tables of an ablation: what each run ended with, and each arm's paired differences.

All arms are evaluated on the same problems with the same sampling seeds, so a difference is paired
by problem as well as by training seed. The interval is over training seeds alone: it tells whether
a difference would come back with other seeds, on these problems.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from geomrl.ablate.grid import BASELINE, CONTROL, DEFAULT, Plan
from geomrl.files import read_parquet
from geomrl.problems.arithmetic import operation_path
from geomrl.runs.layout import ROLLOUTS
from geomrl.stats.multiple import holm
from geomrl.stats.paired import detectable_difference, paired_difference
from geomrl.stats.rarefaction import rarefied_count
from geomrl.train.metrics_log import read_metrics

PRIMARY = "eval/pass@1"
DIVERSITY = "eval/path_diversity"
GEOMETRY = (
    *("CC", "II", "floor", "CC_centred", "floor_centred", "CC-II", "CC-II_same_answer"),
    *("effective_rank", "participation_ratio"),
)
_PLAIN = ("eval/no_answer", "eval/length")
_LEVEL = 0.05

KEYS = ["metric", "arm", "reference"]
NUMBERS = [
    *("value", "reference_value", "difference", "low", "high", "sd", "p", "p_holm"),
    *("n_seeds", "n_comparisons", "detectable", "detectable_corrected"),
]


def final_metrics(run: Path, step: int) -> dict[str, float]:
    """Return what a finished training's last evaluation measured: metric -> value.

    pass@k, shares and lengths, and of the geometry `GEOMETRY` at each anchor and layer; of the
    bundled arithmetic also `DIVERSITY`. Empty where the run has no evaluation after that step.

    Args:
        run: the training's folder.
        step: its last step.
    """
    table = read_metrics(run)
    found: dict[str, float] = {}
    for row in table[table["step"] == step].to_dict("records"):
        found = {str(k): float(v) for k, v in row.items() if _is_compared(str(k)) and v == v}
    diversity = path_diversity(run / "eval" / f"step-{step:06d}" / ROLLOUTS)
    return found if diversity is None or not found else {**found, DIVERSITY: diversity}


def _is_compared(name: str) -> bool:
    parts = name.split("/")
    if parts[0] != "eval":
        return False
    if len(parts) in (2, 3):  # of all problems, or of one benchmark's
        return name in _PLAIN or parts[-1].removeprefix("pass@").isdigit()
    return len(parts) == 4 and parts[3] in GEOMETRY


def path_diversity(rollouts: Path) -> float | None:
    """Return the share of pairs of correct rollouts of one problem that took different paths.

    Mean over problems with such a pair. A share of pairs, unlike a count of paths, does not grow
    with the number of correct rollouts. None without the file, or for other than the arithmetic.
    """
    if not rollouts.exists():
        return None
    table = read_parquet(rollouts)
    correct = table[table["verdict"] == "correct"]
    if correct.empty or not (correct["benchmark"].str.startswith("arithmetic")).all():
        return None
    shares = []
    for _, responses in correct.groupby("problem_id", sort=False)["response"]:
        kinds = responses.map(operation_path).value_counts().tolist()
        if len(responses) > 1:
            shares.append(rarefied_count(kinds, 2) - 1.0)
    return float(np.mean(shares)) if shares else None


def compare(results: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Return one row a metric, arm and reference: the paired difference and what it rests on.

    Every arm is compared with the baseline, and the default with each negative control: whether
    aligning *correct* states matters. p values are Holm-adjusted over the arms within a metric and
    kind of reference, `n_comparisons` of them.

    Args:
        results: one row a run and metric: arm, seed, metric, value.
        plan: the arms.

    Returns:
        Columns `KEYS`, negative_control, `NUMBERS`. `detectable` is the smallest true difference
        found with 80 % power by one test at 0.05, `detectable_corrected` at 0.05 / n_comparisons.
    """
    names = [arm.name for arm in plan.arms]
    controls = [level.arm for level in plan.levels if level.factor == CONTROL]
    families = [
        [(name, BASELINE) for name in names if name != BASELINE],
        [(DEFAULT, name) for name in controls],
    ]
    parts = [
        _family(metric, table.pivot(index="seed", columns="arm", values="value"), family)
        for metric, table in results.groupby("metric", sort=False)
        for family in families
    ]
    found = pd.DataFrame([row for part in parts for row in part])
    found.insert(3, "negative_control", found["arm"].isin(controls))
    return found[[*KEYS, "negative_control", *NUMBERS]]


def _family(
    metric: object, wide: pd.DataFrame, pairs: Iterable[tuple[str, str]]
) -> list[dict[str, object]]:
    """Compare pairs of arms (columns of `wide`, whose rows are seeds); adjust over all of them."""
    rows: list[dict[str, object]] = []
    for arm, reference in pairs:
        if arm not in wide or reference not in wide:
            continue  # all its runs failed
        both = wide[[arm, reference]].dropna()
        found = asdict(paired_difference((both[arm] - both[reference]).to_numpy()))
        rows.append(
            {
                "metric": metric, "arm": arm, "reference": reference, "value": both[arm].mean(),
                "reference_value": both[reference].mean(), "difference": found.pop("value"),
                "n_seeds": found.pop("n"), **found,
            }
        )  # fmt: skip
    p_holm = holm([float(str(row["p"])) for row in rows])
    tests = int((~np.isnan(p_holm)).sum())
    for row, p in zip(rows, p_holm, strict=True):
        n = int(str(row["n_seeds"]))
        sd = float(str(row["sd"])) or np.nan  # without spread nothing is known of it
        row["p_holm"] = p
        row["n_comparisons"] = tests
        row["detectable"] = detectable_difference(sd, n)
        row["detectable_corrected"] = detectable_difference(sd, n, level=_LEVEL / max(tests, 1))
    return rows


def headline_place(metrics: Sequence[str], anchor: str, layer: str) -> str | None:
    """Return the "ANCHOR/LAYER" whose geometry stands for an arm's: the aligned one if evaluated.

    >>> headline_place(["eval/marker_end/final/CC", "eval/pass@1"], "before_marker", "final")
    'marker_end/final'
    """
    places = [name.split("/")[1:3] for name in metrics if name.count("/") == 3]
    known = list(dict.fromkeys("/".join(place) for place in places))
    wanted = f"{anchor}/{layer}"
    return wanted if wanted in known else next(iter(known), None)
