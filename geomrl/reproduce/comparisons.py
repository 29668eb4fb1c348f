"""A comparison's checkpoints by arm: what changed, on average over training seeds, and between arms."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from geomrl.evaluate.arms import need_arms, with_arms
from geomrl.evaluate.comparison import Comparison
from geomrl.evaluate.rows import BOTH, CHANGE
from geomrl.reproduce.curves import LOOKS
from geomrl.reproduce.runs import ALIGNED, BASE, DAPO
from geomrl.stats.multiple import holm
from geomrl.stats.paired import detectable_difference, paired_difference
from geomrl.viz import theme
from geomrl.viz.series import Panels, Series
from geomrl.viz.tables import layer_order

POLICY = {"pass@1": "pass@1", "log_length": "length, log ratio"}
"""What changed in the policy, by the table's measure."""
ENCODER = {
    ("cosine", BOTH, "CC", "raw"): "CC, raw",
    ("cosine", BOTH, "II", "raw"): "II, raw",
    ("cosine", BOTH, "floor", "raw"): "floor, raw",
    ("alignment", BOTH, "CC", "centred"): "CC, centred",
    ("alignment", BOTH, "CC-II", "centred"): "CC - II, centred",
    ("alignment", BOTH, "CC-floor", "centred"): "CC - floor, centred",
    ("common_share", BOTH, "", "raw"): "common share",
    ("effective_rank", BOTH, "log ratio", "raw"): "effective rank, log ratio",
    ("cka", BOTH, "", ""): "CKA with the base encoder",
    ("procrustes", BOTH, "gain", ""): "Procrustes gain",
    ("log_norm_ratio", "base", "", ""): "norm, log ratio",
    ("lens_gold_logprob", "base", "", ""): "lens: gold answer, nats",
}
"""What changed in the encoder, on identical rollouts: (measure, policy, cell, space)."""
_KEYS = ["layer", "anchor", "measure"]
_CELLS = {"CC": "raw", "floor": "raw", "CC centred": "centred", "CC-II centred": "centred"}


def changes(comparison: Comparison) -> pd.DataFrame:
    """Return each checkpoint's changes: arm, seed, layer, anchor, measure (in words), value, n_problems.

    Raises:
        GeomrlError: the comparison lacks one of the two arms.
    """
    table = with_arms(comparison.table.drop(columns="seed"), "checkpoint")
    need_arms(table, (DAPO, ALIGNED), comparison.path)
    policy = table[(table["policy"] == CHANGE) & table["measure"].isin(list(POLICY))]
    policy = policy.assign(measure=policy["measure"].map(POLICY))
    keys = zip(table["measure"], table["policy"], table["cell"], table["space"], strict=True)
    words = pd.Series([ENCODER.get(key) for key in keys], table.index, dtype=object)
    encoder = table[(table["encoder"] == CHANGE) & words.notna()]
    encoder = encoder.assign(measure=words[encoder.index])
    both = pd.concat([policy, encoder])
    return both[["arm", "seed", *_KEYS, "value", "n_problems"]].reset_index(drop=True)


def arm_changes(found: pd.DataFrame) -> pd.DataFrame:
    """Return each arm's mean change and the two arms' difference, over training seeds.

    Args:
        found: of `changes`.

    Returns:
        layer, anchor, measure, arm (or "aligned - dapo"), value, low, high, p (t over seeds; of "no
        change", which is 0, and for CKA 1: not tested), p_holm (of the differences, over the measures
        of a place), detectable, n_seeds, n_problems (the fewest).
    """
    rows = []
    for (layer, anchor), place in found.groupby(["layer", "anchor"], sort=False):
        family: list[dict[str, Any]] = []
        for measure, part in place.groupby("measure", sort=False):
            wide = part.pivot(index="seed", columns="arm", values="value")
            series = {arm: wide[arm] for arm in (DAPO, ALIGNED) if arm in wide}
            series[f"{ALIGNED} - {DAPO}"] = wide[ALIGNED] - wide[DAPO]
            for arm, values in series.items():
                over = paired_difference(values.to_numpy(float))
                row: dict[str, Any] = {
                    "layer": layer, "anchor": anchor, "measure": measure, "arm": arm,
                    "value": over.value, "low": over.low, "high": over.high,
                    "p": np.nan if "CKA" in str(measure) and "-" not in arm else over.p,
                    "p_holm": np.nan, "detectable": detectable_difference(over.sd or np.nan, over.n),
                    "n_seeds": over.n, "n_problems": int(part["n_problems"].min()),
                }  # fmt: skip
                rows.append(row)
                if "-" in arm:
                    family.append(row)
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = float(p)
    return pd.DataFrame(rows)


def verdict_counts(comparison: Comparison) -> pd.DataFrame:
    """Return how often each verdict was reached in an arm: arm, verdict, components, checkpoints."""
    entries = with_arms(pd.DataFrame(comparison.record["checkpoints"]), "checkpoint")
    told = Counter(
        (row["arm"], row["verdict"], " + ".join(row["components"]))
        for row in entries.to_dict("records")
    )
    return pd.DataFrame(
        [(*key, n) for key, n in sorted(told.items())],
        columns=["arm", "verdict", "components", "checkpoints"],
    )


def cells_by_layer(comparison: Comparison, anchor: str) -> pd.DataFrame:
    """Return cells by layer, before RL and after it in either arm, each model on its own rollouts.

    Columns of `viz.series`: panel, series (base, dapo, aligned), layer, anchor, value, low, high,
    n_problems. Intervals are over problems for the base model, over seeds for the arms.
    """
    table = with_arms(comparison.table.drop(columns="seed"), "checkpoint")
    table = table[(table["measure"] == "cosine") & (table["anchor"] == anchor)]
    parts = []
    for panel, space in _CELLS.items():
        rows = table[(table["cell"] == panel.split()[0]) & (table["space"] == space)]
        before = rows[(rows["policy"] == "base") & (rows["encoder"] == "base")]
        before = before.drop_duplicates("layer").assign(series=BASE)
        after = rows[(rows["policy"] == "rl") & (rows["encoder"] == "rl")]
        over = []
        for (arm, layer), part in after.groupby(["arm", "layer"], sort=False):
            found = paired_difference(part["value"].to_numpy(float))
            over.append(
                {
                    "series": arm, "layer": layer, "anchor": anchor, "value": found.value,
                    "low": found.low, "high": found.high, "n_problems": part["n_problems"].min(),
                }
            )  # fmt: skip
        parts.append(pd.concat([before, pd.DataFrame(over)]).assign(panel=panel))
    frame = pd.concat(parts)
    frame = frame.assign(order=frame["layer"].map(layer_order)).dropna(subset="value")
    frame = frame.sort_values(["panel", "series", "order"], kind="stable")
    columns = ["panel", "series", "layer", "anchor", "value", "low", "high", "n_problems"]
    return frame[columns].reset_index(drop=True)


PANELS = Panels(
    titles={"CC": "CC, raw", "floor": "Floor, raw", "CC centred": "CC, centred",
            "CC-II centred": "CC − II, centred"},
    units={"CC": "cosine", "floor": "", "CC centred": "", "CC-II centred": ""},
    series={
        BASE: Series(theme.Look(theme.GREY, "X", "before RL"), dashed=True),
        **{arm: Series(look) for arm, look in LOOKS.items()},
    },
    levels={"CC centred": 0.0, "CC-II centred": 0.0},
)  # fmt: skip
