"""How much of "correct are closer than wrong" is agreement on the answer.

All correct rollouts of a problem agree on their answer, wrong ones mostly do not. Where states tell
the answer, CC is above II for that reason alone. Wrong rollouts that agree on their answer are the
control: what is left of CC - II against them cannot come from agreement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from geomrl.errors import GeomrlError
from geomrl.geometry.cells import within_cells, without_rounding
from geomrl.geometry.groups import Groups, group_rows
from geomrl.geometry.spaces import Refusal, SpaceName, build_space
from geomrl.stats.intervals import Interval, mean_interval
from geomrl.stats.ratio import ratio_of_means

_GAP = (-2.0, 2.0)  # of two cosines
_LABEL = "agreement"


@dataclass(frozen=True)
class Agreement:
    """The gap between correct and wrong rollouts, with and without agreement.

    All over the problems that have the three cells CC, II and II_same_answer.

    Attributes:
        gap: CC - II.
        surviving: CC - II_same_answer, what is left where the wrong ones agree too.
        agreement: II_same_answer - II, what agreement alone is worth.
        share: surviving / gap, Fieller's interval; NaN bounds where the gap is not told apart from 0.
    """

    gap: Interval
    surviving: Interval
    agreement: Interval
    share: Interval


def agreement(
    cc: Float[np.ndarray, " p"],
    ii: Float[np.ndarray, " p"],
    same: Float[np.ndarray, " p"],
    *,
    seed: int = 0,
    n_boot: int = 2000,
) -> Agreement:
    """Split the gap between correct and wrong rollouts: gap = agreement + surviving.

    Args:
        cc: each problem's mean cosine of its correct pairs, NaN without one.
        ii: of its wrong pairs.
        same: of its wrong pairs with the same answer.
        seed: of the bootstrap.
        n_boot: its draws.
    """
    known = np.isfinite(cc) & np.isfinite(ii) & np.isfinite(same)
    cc, ii, same = cc[known], ii[known], same[known]

    def mean(values: Float[np.ndarray, " p"]) -> Interval:
        kept = np.clip(without_rounding(values), *_GAP)
        return mean_interval(kept, seed=seed, label=_LABEL, n_boot=n_boot, bounds=_GAP)

    return Agreement(
        mean(cc - ii), mean(cc - same), mean(same - ii), ratio_of_means(cc - same, cc - ii)
    )


def agreement_at(
    rows: pd.DataFrame,
    states: Float[np.ndarray, "rows d"],
    space: SpaceName,
    *,
    seed: int = 0,
    n_boot: int = 2000,
) -> Agreement | None:
    """Return `agreement` of the states at one layer and anchor; None where the space is refused.

    Args:
        rows: as for `group_rows`.
        states: [rows, d], aligned with `rows`.
        space: "raw", "centred" or "whitened".
        seed: of the bootstrap, and of whitening's folds.
        n_boot: bootstrap draws.

    Raises:
        GeomrlError: the rows are of several benchmarks, whose problems' names may coincide.
    """
    if "benchmark" in rows and rows["benchmark"].nunique() > 1:
        raise GeomrlError(
            f"states of {rows['benchmark'].nunique()} benchmarks: problems are told apart by their "
            "name within one; give the rows of one benchmark"
        )
    groups: Groups = group_rows(rows)
    made = build_space(space, states[groups.order], groups, seed=seed)
    if isinstance(made, Refusal):
        return None
    cells = within_cells([made.within(p) for p in range(groups.n_problems)], groups)
    means = [cells[name].means for name in ("CC", "II", "II_same_answer")]
    return agreement(*means, seed=seed, n_boot=n_boot)
