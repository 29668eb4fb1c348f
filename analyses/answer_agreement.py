"""How much of "correct are closer" is agreement on the answer? By anchor, raw and centred."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geomrl import open_run
from geomrl.errors import GeomrlError
from geomrl.geometry.agreement import Agreement, agreement_at
from geomrl.reproduce import Analysis, Finding
from geomrl.reproduce.finding import interval, number
from geomrl.reproduce.probed import cell_words
from geomrl.reproduce.runs import ANCHORS, LAYER
from geomrl.runs.run import Run
from geomrl.viz import theme
from geomrl.viz.contrasts import TESTS, draw_contrasts
from geomrl.viz.tables import layer_words, one_source, ordered, profile

SPACES = ("raw", "centred")
CONTRASTS = ("CC-II", "CC-II_same_answer", "II_same_answer-II_diff_answer")
CELLS = (
    *("CC", "II", "II_same_answer", "II_diff_answer", "CC_cross", "CC_cross_same_answer", "floor"),
    *CONTRASTS,
    "CC-floor",
)


def answer_agreement(probed: Path) -> Finding:
    """Return CC - II against all wrong rollouts and against those that agree, by anchor."""
    return agreement_of(open_run(probed))


def agreement_of(run: Run) -> Finding:
    """Return the contrasts with and without agreement by anchor, and what share survives.

    Raises:
        GeomrlError: a run of several benchmarks, or without states after the final norm.
    """
    table, benchmark = _one_benchmark(run)
    if LAYER not in run.layers:
        raise GeomrlError(f"{run.path}: no states of layer '{LAYER}'; probe with --layers {LAYER}")
    shares = _shares(run, table)
    says = [_says(anchor, table, shares) for anchor in ANCHORS if (table["anchor"] == anchor).any()]
    says.append(
        "The contrasts are matched: over problems that have both cells, each problem with one vote. "
        "The share is over problems that have CC, II and wrong pairs that agree: CC - II = (II same "
        "answer - II) + (CC - II same answer), and the share is the last part over the whole, with "
        "Fieller's interval; none is given where the whole is not shown to be above 0. Intervals are "
        "95 %, clustered by problem, pointwise; p values are adjusted over layers."
    )
    frame = _profiles(table)
    picture = draw_contrasts(
        frame,
        theme.Provenance(
            table["policy"].iloc[0], table["encoder"].iloc[0], int(table["seed"].iloc[0]), benchmark
        ),
        by="anchor",
        place=layer_words(LAYER),
        methods="95 % bootstrap-t by problem, pointwise",
        name="answer_agreement",
    )
    cells = table[(table["measure"] == "cosine") & table["cell"].isin(list(CELLS))]
    columns = [
        "anchor",
        "space",
        "cell",
        "value",
        "low",
        "high",
        "p",
        "n_problems",
        "n_boot",
        "seed",
    ]
    return Finding(
        says, [picture], {"shares": shares, "contrasts": cells[columns]}, shown=("shares",)
    )


def _one_benchmark(run: Run) -> tuple[pd.DataFrame, str]:
    """Return the rows after the final norm that weigh problems alike, and their benchmark."""
    table = run.similarity
    names = sorted(table["benchmark"].astype(str).unique())
    if len(names) > 1:
        raise GeomrlError(
            f"{run.path}: rollouts of {len(names)} benchmarks ({', '.join(names)}); name a run of one"
        )
    chosen = (table["layer"] == LAYER) & (table["weighting"] == "problem")
    return one_source(table, names[0])[chosen], names[0]


def _profiles(table: pd.DataFrame) -> pd.DataFrame:
    """Return the contrasts and their permutation tests along the anchors, for the picture."""
    parts = [profile(table, by="anchor", at=LAYER, cells=CONTRASTS, spaces=SPACES)]
    for test in TESTS:
        parts.append(
            profile(table, by="anchor", at=LAYER, cells=CONTRASTS, spaces=SPACES, measure=test)
        )
    for part, measure in zip(parts, ("cosine", *TESTS), strict=True):
        part.insert(0, "measure", measure)
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def _shares(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    """Return by anchor and space: the gap, its two parts and the surviving share."""
    seed, n_boot = int(table["seed"].iloc[0]), int(table["n_boot"].max())
    rows: list[dict[str, Any]] = []
    for anchor in ordered(table["anchor"].tolist(), "anchor"):
        labels, states = run.states(LAYER, anchor)
        for space in SPACES:
            found = agreement_at(labels, states, space, seed=seed, n_boot=n_boot)  # type: ignore[arg-type]
            if found is not None:
                rows.append({"anchor": anchor, "space": space, **_numbers(found), "seed": seed})
    return pd.DataFrame(rows)


def _numbers(found: Agreement) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    parts = {
        "CC-II": found.gap,
        "agreement": found.agreement,
        "surviving": found.surviving,
        "share": found.share,
    }
    for name, part in parts.items():
        # A share of nothing, or of a gap the other way round, means nothing.
        means = name != "share" or (found.gap.low > 0 and np.isfinite(part.low))
        bounds = (part.value, part.low, part.high) if means else (np.nan,) * 3
        numbers |= dict(zip((name, f"{name}_low", f"{name}_high"), bounds, strict=True))
    return {**numbers, "n_problems": found.gap.n_clusters, "n_boot": found.gap.n_boot}


def _says(anchor: str, table: pd.DataFrame, shares: pd.DataFrame) -> str:
    here = table[table["anchor"] == anchor]
    cosine = here[here["measure"] == "cosine"]
    rows = {(r["space"], r["cell"]): r for r in cosine.to_dict("records")}
    spaces = []
    for space in SPACES:
        if (space, "CC-II") not in rows:
            continue
        p = {
            test: here[(here["measure"] == test) & (here["space"] == space)]["p"].squeeze()
            for test in TESTS
        }
        share = shares[(shares["anchor"] == anchor) & (shares["space"] == space)].iloc[0]
        gap, left, agree = (cell_words(rows[space, contrast]) for contrast in CONTRASTS)
        spaces.append(
            f"{space}: CC - II {gap}, p {_p(p['permutation_correctness'])} (verdicts permuted); "
            f"against wrong rollouts that agree on their answer {left}, p "
            f"{_p(p['permutation_answer_class'])} (answer classes permuted); wrong ones that agree "
            f"minus those that do not {agree}; {_share(share)}"
        )
    raw = {cell: cell_words(row) for (space, cell), row in rows.items() if space == "raw"}
    return (
        f"{_headline(anchor, shares)} {'. '.join(_capital(t) for t in spaces)}. Of different problems, "
        f"raw: correct with the same gold answer {raw['CC_cross_same_answer']}, any correct "
        f"{raw['CC_cross']}, floor {raw['floor']}; CC - floor {raw['CC-floor']}."
    )


def _headline(anchor: str, shares: pd.DataFrame) -> str:
    row = shares[(shares["anchor"] == anchor) & (shares["space"] == "raw")].iloc[0]
    if not row["CC-II_low"] > 0:
        return (
            f"**At `{anchor}` (null result): correct rollouts are not shown to be closer than wrong "
            "ones, so there is nothing to explain by agreement.**"
        )
    if row["surviving_low"] > 0:
        said = f"{number(100 * row['share'], 0)} % of it survives where the wrong ones agree too"
    elif row["agreement_low"] > 0:
        said = "nothing of it is shown to survive where the wrong ones agree too"
    else:
        said = "how much of it is agreement is not settled: neither part is told apart from 0"
    return f"**At `{anchor}` correct rollouts are closer than wrong ones (raw), and {said}.**"


def _share(row: pd.Series) -> str:
    if row["share"] != row["share"]:
        return "no share is given, as CC - II is not shown to be above 0"
    share = interval(row["share"], row["share_low"], row["share_high"], 2)
    return f"the share of CC - II that survives is {share}, over {int(row['n_problems'])} problems"


def _p(p: Any) -> str:
    known = isinstance(p, float) and p == p
    return ("< .001" if p < 0.001 else number(p)) if known else "not tested"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


ANALYSIS = Analysis(
    question="How much of 'correct are closer' is agreement on the answer?",
    needs=("probed",),
    answer=answer_agreement,
    paper=["correct rollouts are compared just before the answer marker, in the last layer."],
    assumed=[
        "wrong rollouts that agree are the control; answers agree where the verifier takes them for "
        "equal.",
        "'last layer' is the state after the final norm; problems weigh alike.",
    ],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
