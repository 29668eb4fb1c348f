"""A comparison's checkpoints by arm: what changed, on average over training seeds, and between arms.

An arm is a recipe that was trained with several seeds; its checkpoints are named ARM-SEED.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from geomrl.compare.arms import split_arm, with_arms
from geomrl.compare.rows import BOTH, CHANGE
from geomrl.stats.multiple import holm
from geomrl.stats.paired import paired_difference

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
SHOWN_CELLS = {"CC": "raw", "floor": "raw", "CC centred": "centred", "CC-II centred": "centred"}
"""Cells that are shown by layer, and their spaces."""


def seeded_arms(checkpoints: Sequence[str]) -> list[str]:
    """Return the arms that have two training seeds or more, in their order.

    >>> seeded_arms(["dapo-0", "dapo-1", "aligned-0", "aligned-1", "other"])
    ['dapo', 'aligned']
    """
    found = Counter(arm for arm, seed in map(split_arm, checkpoints) if seed is not None)
    return [arm for arm, seeds in found.items() if seeds > 1]


def changes(table: pd.DataFrame) -> pd.DataFrame:
    """Return each checkpoint's changes: arm, seed, layer, anchor, measure (in words), value, n_problems.

    Args:
        table: a comparison's.
    """
    table = with_arms(table.drop(columns="seed"), "checkpoint")
    policy = table[(table["policy"] == CHANGE) & table["measure"].isin(list(POLICY))]
    policy = policy.assign(measure=policy["measure"].map(POLICY))
    keys = zip(table["measure"], table["policy"], table["cell"], table["space"], strict=True)
    words = pd.Series([ENCODER.get(key) for key in keys], table.index, dtype=object)
    encoder = table[(table["encoder"] == CHANGE) & words.notna()]
    encoder = encoder.assign(measure=words[encoder.index])
    both = pd.concat([policy, encoder])
    return both[["arm", "seed", *_KEYS, "value", "n_problems"]].reset_index(drop=True)


def arm_changes(found: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """Return each arm's mean change, and how later arms differ from the first, over training seeds.

    Args:
        found: of `changes`.
        arms: their names, that of reference first.

    Returns:
        layer, anchor, measure, arm ("ARM - REFERENCE" for a difference, paired by seed), value, low,
        high, p (t over seeds; of "no change", which is 0, and for CKA 1: not tested), p_holm (of the
        differences, over all measures of a place), detectable, n_seeds, n_problems (the fewest).
    """
    rows = []
    for (layer, anchor), place in found.groupby(["layer", "anchor"], sort=False):
        family: list[dict[str, Any]] = []
        for measure, part in place.groupby("measure", sort=False):
            wide = part.pivot(index="seed", columns="arm", values="value")
            series = {arm: wide[arm] for arm in arms if arm in wide}
            gaps = {
                difference_name(arm, arms[0]): wide[arm] - wide[arms[0]]
                for arm in arms[1:]
                if {arm, arms[0]} <= set(wide)
            }
            for arm, values in {**series, **gaps}.items():
                over = paired_difference(values.to_numpy(float))
                tested = arm in gaps or "CKA" not in str(measure)
                row: dict[str, Any] = {
                    "layer": layer, "anchor": anchor, "measure": measure, "arm": arm,
                    "value": over.value, "low": over.low, "high": over.high,
                    "p": over.p if tested else np.nan, "p_holm": np.nan,
                    "detectable": over.detectable,
                    "n_seeds": over.n, "n_problems": int(part["n_problems"].min()),
                }  # fmt: skip
                rows.append(row)
                if arm in gaps:
                    family.append(row)
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = float(p)
    return pd.DataFrame(rows)


def difference_name(arm: str, reference: str) -> str:
    """Return how a difference of two arms is called in tables.

    >>> difference_name("aligned", "dapo")
    'aligned - dapo'
    """
    return f"{arm} - {reference}"


def verdicts_by_arm(entries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return how often each verdict was reached in an arm: arm, verdict, components, checkpoints.

    Args:
        entries: the checkpoints of a comparison's verdict file.
    """
    counts = Counter(
        (split_arm(e["checkpoint"])[0], e["verdict"], " + ".join(e["components"])) for e in entries
    )
    return pd.DataFrame(
        [(*key, n) for key, n in sorted(counts.items())],
        columns=["arm", "verdict", "components", "checkpoints"],
    )


def cells_by_layer(table: pd.DataFrame, anchor: str) -> pd.DataFrame:
    """Return cells by layer, before RL and after it in either arm, each model on its own rollouts.

    Args:
        table: a comparison's.
        anchor: an anchor.

    Returns:
        panel (of `SHOWN_CELLS`), series ("base", or an arm), layer, anchor, value, low, high, n_problems.
        Intervals are over problems for the base model, over seeds for the arms.
    """
    table = with_arms(table.drop(columns="seed"), "checkpoint")
    table = table[(table["measure"] == "cosine") & (table["anchor"] == anchor)]
    columns = ["panel", "series", "layer", "anchor", "value", "low", "high", "n_problems"]
    parts = [pd.DataFrame(columns=columns)]
    for panel, space in SHOWN_CELLS.items():
        rows = table[(table["cell"] == panel.split()[0]) & (table["space"] == space)]
        before = rows[(rows["policy"] == "base") & (rows["encoder"] == "base")]
        parts.append(before.drop_duplicates("layer").assign(series="base", panel=panel)[columns])
        after = rows[(rows["policy"] == "rl") & (rows["encoder"] == "rl")]
        for (arm, layer), part in after.groupby(["arm", "layer"], sort=False):
            found = paired_difference(part["value"].to_numpy(float))
            row = {
                "panel": panel, "series": arm, "layer": layer, "anchor": anchor,
                "value": found.value, "low": found.low, "high": found.high,
                "n_problems": part["n_problems"].min(),
            }  # fmt: skip
            parts.append(pd.DataFrame([row]))
    kept = [part for part in parts if len(part)]
    frame = pd.concat(kept, ignore_index=True) if kept else parts[0]
    return frame.dropna(subset="value").reset_index(drop=True)
