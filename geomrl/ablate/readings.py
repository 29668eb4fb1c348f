"""What an ablation says: each arm's differences to weight 0 in words, and what they can bear."""

from __future__ import annotations

import numpy as np
import pandas as pd

from geomrl.ablate.ablation import Ablation
from geomrl.ablate.grid import BASELINE, DEFAULT
from geomrl.ablate.table import PRIMARY
from geomrl.stats.words import interval_words

_LEVEL = 0.05
_SHOWN = ("CC", "floor", "CC_centred", "effective_rank")


def readings(ablation: Ablation) -> pd.DataFrame:
    """Return each arm in words: arm, accuracy, geometry.

    `accuracy` is "higher" or "lower" than the baseline where the Holm-adjusted p of pass@1 is below
    0.05, else "not told apart". `geometry` tells, by pointwise 95 % intervals, whether correct
    rollouts of a problem moved together: "all states move together" where the floor rose and the
    centred cosine did not, "correct move together" where the centred cosine rose, "-" otherwise.
    """
    table = ablation.table[ablation.table["reference"] == BASELINE]
    rows = {(row["metric"], row["arm"]): row for row in table.to_dict("records")}
    found = []
    for (metric, arm), row in rows.items():
        if metric != PRIMARY:
            continue
        sure = row["p_holm"] < _LEVEL
        accuracy = ("higher" if row["difference"] > 0 else "lower") if sure else "not told apart"
        places = {cell: (f"eval/{ablation.place}/{cell}", arm) for cell in ("floor", "CC_centred")}
        raised = {cell: key in rows and rows[key]["low"] > 0 for cell, key in places.items()}
        geometry = geometry_words(floor_rose=raised["floor"], centred_rose=raised["CC_centred"])
        found.append({"arm": arm, "accuracy": accuracy, "geometry": geometry})
    return pd.DataFrame(found, columns=["arm", "accuracy", "geometry"])


def geometry_words(*, floor_rose: bool, centred_rose: bool) -> str:
    """Return what moved together: see `readings`.

    >>> geometry_words(floor_rose=True, centred_rose=False)
    'all states move together'
    """
    if centred_rose:
        return "correct move together"
    return "all states move together" if floor_rose else "-"


def honest_words(ablation: Ablation) -> list[str]:
    """Return what the table rests on: seeds, comparisons, the smallest difference it could see."""
    table = ablation.table
    primary = table[(table["metric"] == PRIMARY) & (table["reference"] == BASELINE)]
    seeds = sorted({int(n) for n in primary["n_seeds"]})
    tests = int(primary["n_comparisons"].max())
    alone, corrected = primary["detectable"].median(), primary["detectable_corrected"].median()
    lines = [
        f"Differences to weight 0, paired by seed: {'-'.join(map(str, seeds))} seeds, pointwise 95 %"
        f" t intervals over seeds, p Holm-adjusted over {tests} comparisons. The evaluation problems"
        " are the same throughout, so nothing is said of other problems."
    ]
    if np.isfinite(alone):  # no seed's difference differed from another's: nothing is known
        lines.append(
            f"Smallest true difference in pass@1 that these seeds would show 4 times in 5: {alone:.3f}"
            f" for one comparison, {corrected:.3f} among {tests} (medians over arms; rough, since the"
            " spread itself is estimated from as few seeds). Below it, 'not told apart' is no 'equal'."
        )
    if tests > 1:
        lines.append(
            "Stars and the column geometry are by pointwise intervals: of 20 arms that change nothing"
            " one has a star by chance."
        )
    controls = table[(table["metric"] == PRIMARY) & (table["arm"] == DEFAULT)]
    for row in controls[controls["reference"] != BASELINE].to_dict("records"):
        lines.append(
            f"default against {row['reference']}: pass@1 {_with_interval(row)}, Holm's p"
            f" {_p(row['p_holm'])}"
        )
    if any(abs(scale - 1) > 1e-9 for scale in ablation.scales.values()):
        listed = ", ".join(f"{kind} x{scale:.3g}" for kind, scale in ablation.scales.items())
        lines.append(f"Weights matched by the gradient's norm at the first step: {listed}.")
    return lines


def markdown(ablation: Ablation) -> str:
    """Return the printed comparisons as a Markdown table, with the words below it."""
    header, rows = comparison_rows(ablation)
    lines = [header, ["---"] * len(header), *(cells for cells, _ in rows)]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    words = "\n".join(f"- {line}" for line in honest_words(ablation))
    return f"{comparison_title(ablation)}.\n\n{table}\n\n{words}\n"


def comparison_title(ablation: Ablation) -> str:
    """Return what the comparisons show, in one line."""
    place = f", geometry at {ablation.place}" if ablation.place else ""
    return f"difference to weight 0{place} (*: interval excludes 0)"


def comparison_rows(ablation: Ablation) -> tuple[list[str], list[tuple[list[str], bool]]]:
    """Return the header, and each arm's cells with whether it is a negative control."""
    table = ablation.table[ablation.table["reference"] == BASELINE]
    metrics = {f"eval/{ablation.place}/{cell}": cell.replace("_", " ") for cell in _SHOWN}
    present = {key: word for key, word in metrics.items() if (table["metric"] == key).any()}
    rows = {(row["metric"], row["arm"]): row for row in table.to_dict("records")}
    found = []
    for said in readings(ablation).to_dict("records"):
        main = rows[PRIMARY, said["arm"]]
        cells = [
            said["arm"], _with_interval(main), _p(main["p_holm"]),
            *(_starred(rows[metric, said["arm"]]) for metric in present),
            said["accuracy"], said["geometry"],
        ]  # fmt: skip
        found.append((cells, bool(main["negative_control"])))
    return ["arm", "pass@1", "p (Holm)", *present.values(), "accuracy", "geometry"], found


def _with_interval(row: dict) -> str:
    return interval_words(row["difference"], row["low"], row["high"], signed=True)


def _starred(row: dict) -> str:
    return f"{row['difference']:+.3f}{'*' if row['low'] > 0 or row['high'] < 0 else ''}"


def _p(p: float) -> str:
    if p != p:
        return "-"
    return f"{p:.3f}" if p >= 0.001 else "<0.001"
