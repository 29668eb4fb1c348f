"""Alignment or collapse: did correct rollouts of a problem draw together, or did all states?

On unit vectors CC rises in both cases. Alignment raises CC above the floor and the centred cosine;
collapse raises the floor as much, and lowers the effective rank.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd

from geomrl.ablate.ablation import Ablation
from geomrl.ablate.control_tests import measured
from geomrl.ablate.grid import BASELINE
from geomrl.ablate.readings import readings
from geomrl.errors import GeomrlError
from geomrl.stats.multiple import holm
from geomrl.stats.paired import paired_difference

BEYOND = "CC beyond floor"


def movements(ablation: Ablation) -> pd.DataFrame:
    """Return what each arm changed against weight 0, paired by seed.

    `BEYOND` is the change of CC minus that of the floor: above 0 where correct rollouts of a
    problem drew together more than states of different problems did. It is a difference of two
    cells' means, not a matched contrast: the floor is of all problems.

    Returns:
        arm, measure (those of `controls.MEASURES`, and `BEYOND`), difference, low, high, p_holm
        (over the arms of a measure), n_seeds, detectable.

    Raises:
        GeomrlError: the ablation's trainings evaluated no geometry.
    """
    if ablation.place is None:
        raise GeomrlError(
            f"{ablation.path}: its trainings evaluated no geometry; give the section `evaluation` "
            "anchors and layers"
        )
    rows = measured(ablation)
    rows = rows[rows["reference"] == BASELINE]
    columns = ["arm", "measure", "difference", "low", "high", "p_holm", "n_seeds", "detectable"]
    return pd.concat([rows[columns], _beyond(ablation)[columns]], ignore_index=True)


def _beyond(ablation: Ablation) -> pd.DataFrame:
    place = ablation.place
    values = ablation.results.pivot(index=["seed", "arm"], columns="metric", values="value")
    gap = (values[f"eval/{place}/CC"] - values[f"eval/{place}/floor"]).unstack("arm")
    compared = ablation.table[ablation.table["reference"] == BASELINE]["arm"].unique()
    found = []
    for arm in compared:
        change = paired_difference((gap[arm] - gap[BASELINE]).to_numpy(float))
        numbers = asdict(change)
        found.append(
            {"arm": arm, "measure": BEYOND, "difference": numbers.pop("value"),
             "n_seeds": numbers.pop("n"), **numbers,
             "detectable": change.detectable}
        )  # fmt: skip
    frame = pd.DataFrame(found)
    return frame.assign(p_holm=holm(frame["p"].to_numpy(float)))


def judged_movements(ablation: Ablation) -> pd.DataFrame:
    """Return each arm's words: arm, geometry (`readings`), beyond.

    `beyond` is "more than others", "less than others" or "not told apart from others" by whether
    the pointwise 95 % interval of `BEYOND` lies above, below or around 0.
    """
    beyond = _beyond(ablation).set_index("arm")
    words = np.select(
        [beyond["low"] > 0, beyond["high"] < 0], ["more than others", "less than others"],
        "not told apart from others",
    )  # fmt: skip
    said = readings(ablation)[["arm", "geometry"]]
    return said.assign(beyond=said["arm"].map(dict(zip(beyond.index, words, strict=True))))
