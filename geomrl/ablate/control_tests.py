"""Do negative controls do what alignment of correct rollouts does?

The arms `control=...` align wrong rollouts, shuffled ones or a random position at the default's
weight. An effect of the default that they share is no effect of aligning *correct* rollouts.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from geomrl.ablate.ablation import Ablation
from geomrl.ablate.grid import BASELINE, CONTROL, DEFAULT
from geomrl.ablate.table import PRIMARY
from geomrl.errors import GeomrlError
from geomrl.stats.multiple import holm
from geomrl.stats.paired import detectable_difference

MEASURES = (PRIMARY, "CC", "floor", "CC_centred", "effective_rank")
"""pass@1, and the geometry at the ablation's place."""
_LEVEL = 0.05


def measure_names(place: str | None) -> dict[str, str]:
    """Return metric -> its short name, for each of `MEASURES` at a place.

    >>> measure_names("before_marker/final")["eval/before_marker/final/CC"]
    'CC'
    """
    return {m if m == PRIMARY else f"eval/{place}/{m}": m.removeprefix("eval/") for m in MEASURES}


def measured(ablation: Ablation) -> pd.DataFrame:
    """Return the comparisons of `MEASURES` at the ablation's place, named in the column measure."""
    names = measure_names(ablation.place)
    table = ablation.table[ablation.table["metric"].isin(list(names))]
    return table.assign(measure=table["metric"].map(names))


def control_comparisons(ablation: Ablation) -> pd.DataFrame:
    """Return the default and each control against weight 0, and the default against each control.

    p values are Holm-adjusted anew, within a measure and kind of reference, over the comparisons of
    this table alone: the other arms of the ablation are not part of the question.

    Returns:
        measure, arm, reference, value, reference_value, difference, low, high, p, p_holm, n_seeds,
        n_comparisons, detectable, detectable_corrected (at 0.05 / n_comparisons).

    Raises:
        GeomrlError: the ablation has no negative control.
    """
    controls = ablation.levels.loc[ablation.levels["factor"] == CONTROL, "arm"].tolist()
    if not controls:
        raise GeomrlError(
            f"{ablation.path}: this ablation has no negative controls; add `control: [wrong, "
            "shuffled_correct, shuffled_groups, random_position]` to the factors of GRID.yaml"
        )
    table = measured(ablation)
    against = table["reference"] == BASELINE
    asked = (against & table["arm"].isin([DEFAULT, *controls])) | (
        (table["arm"] == DEFAULT) & table["reference"].isin(controls)
    )
    kept = table[asked]
    parts = [
        _adjusted(part)
        for measure in measure_names(ablation.place).values()
        for _, part in kept[kept["measure"] == measure].groupby(
            kept["reference"] == BASELINE, sort=False
        )
    ]
    columns = [
        *("measure", "arm", "reference", "value", "reference_value", "difference", "low", "high"),
        *("p", "p_holm", "n_seeds", "n_comparisons", "detectable", "detectable_corrected"),
    ]
    return pd.concat(parts, ignore_index=True)[columns]


def _adjusted(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one family's rows with p and detectable differences adjusted over it."""
    p_holm = holm(rows["p"].to_numpy(float))
    tests = max(int((~np.isnan(p_holm)).sum()), 1)
    seen = [
        detectable_difference(row["sd"] or np.nan, int(row["n_seeds"]), level=_LEVEL / tests)
        for row in rows.to_dict("records")
    ]
    return rows.assign(p_holm=p_holm, n_comparisons=tests, detectable_corrected=seen)


def shared_effects(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Return for each measure and control whether it does what the default does.

    Each by Holm's p below 0.05 (`comparisons` as `control_comparisons` returns them):

    | default against weight 0 | control against weight 0 | default against control | shared |
    |---|---|---|---|
    | not told apart | any | any | no effect |
    | told apart | in the same direction | not told apart | yes |
    | told apart | in the same direction | told apart | in part |
    | told apart | not told apart, or opposite | told apart | no |
    | told apart | not told apart | not told apart | undecided |

    Returns:
        measure, control, shared.
    """
    rows = {
        (row["measure"], row["arm"], row["reference"]): row
        for row in comparisons.to_dict("records")
    }
    found = []
    for measure, arm, control in rows:
        if arm == DEFAULT and control != BASELINE and (measure, DEFAULT, BASELINE) in rows:
            own, theirs = rows[measure, DEFAULT, BASELINE], rows.get((measure, control, BASELINE))
            gap = rows[measure, DEFAULT, control]
            found.append((measure, control, _shared(own, theirs, gap)))
    return pd.DataFrame(found, columns=["measure", "control", "shared"])


def _shared(own: dict, theirs: dict | None, gap: dict) -> str:
    if not _told_apart(own):
        return "no effect"
    differs = _told_apart(gap)
    if theirs is None or not _told_apart(theirs):
        return "no" if differs else "undecided"
    if theirs["difference"] * own["difference"] < 0:
        return "no"
    return "in part" if differs else "yes"


def _told_apart(row: dict) -> bool:
    return bool(row["p_holm"] < _LEVEL)
