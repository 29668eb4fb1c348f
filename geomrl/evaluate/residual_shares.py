"""Residual shares of variance against the accuracy on variants, at equal difficulty.

The partial rank correlation, over problems, of a problem's residual share and the accuracy on its
variants, given its own accuracy. It is an association; `probe.intervention` asks what removing the
residual does.

Three sets of rollouts of one policy are needed, because each of the three quantities must have errors
of its own: those whose states are read, independent ones for difficulty, and those on the variants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.evaluate.variants import problem_accuracy, variant_accuracy
from geomrl.geometry.residual import (
    N_CORRECT,
    N_DRAWS,
    ProblemShares,
    problem_shares,
    share_reliability,
)
from geomrl.problems.problem import Problem
from geomrl.runs.rollouts import problem_keys
from geomrl.runs.run import Run
from geomrl.stats.multiple import holm
from geomrl.stats.partial import (
    PartialCorrelation,
    corrected_partial,
    partial_spearman,
    spearman_brown,
    without_noise,
)

_FEWEST = 5  # problems below which a partial correlation has no interval


@dataclass(frozen=True, kw_only=True)
class ShareCorrelations:
    """Shares against accuracies, at one layer.

    Attributes:
        problems: one row an (anchor, problem, kind of variant): share and share_rank (means over
            draws), accuracy (on the problem, from independent rollouts), variant_accuracy.
        correlations: one row an (anchor, kind): the partial rank correlation `value` given accuracy,
            low, high, p, p_holm (over all rows), n_problems, detectable; `detectable_true`, that between
            the share and the variants' accuracy without their noise (infinite where none is);
            `spearman`, with nothing held fixed; `corrected`, for the noise in accuracy.
        reliability: one row an (anchor, quantity): value, low, high, n_problems. The share's is the
            rank correlation of shares from two disjoint sets of k correct rollouts, the mean over
            draws; an accuracy's that of odd and even samples. Both are stepped up (Spearman and
            Brown), to the mean number of correct rollouts and to all samples.
        k: correct rollouts in each draw.
        n_draws: draws.
        left_out: problems without k correct rollouts, by anchor.
        n_samples: rollouts a problem behind each accuracy: "again", "variants".
    """

    problems: pd.DataFrame
    correlations: pd.DataFrame
    reliability: pd.DataFrame
    k: int
    n_draws: int
    left_out: dict[str, int]
    n_samples: dict[str, int]


def share_correlations(
    run: Run,
    again: pd.DataFrame,
    on_variants: pd.DataFrame,
    variants: Sequence[Problem],
    *,
    anchors: Sequence[str],
    layer: str = "final",
    k: int = N_CORRECT,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> ShareCorrelations:
    """Relate problems' residual shares to the accuracy on their variants, difficulty held fixed.

    Args:
        run: a probed run; its correct rollouts give the shares.
        again: independent rollouts of the same policy on the same problems.
        on_variants: its rollouts on the variants.
        variants: what `load_variants` returned.
        anchors: anchors whose states are stored.
        layer: layer at which the states are read.
        k: correct rollouts in a draw.
        n_draws: draws over which a share's rank is averaged.
        seed: of the draws.

    Raises:
        GeomrlError: fewer than five problems have a share and both accuracies, or the sets of
            rollouts do not belong together.
    """
    for name, other in (("again", again), ("variants", on_variants)):
        _check_policy(run.rollouts, other, name)
        if _samples(other) < 2:
            raise GeomrlError(
                f"a problem of {name} has a single rollout: how reliable an accuracy is shows from "
                "two halves; sample two rollouts a problem or more"
            )
    _check_independent(run.rollouts, again)
    difficulty = problem_accuracy(again)
    by_kind = variant_accuracy(on_variants, variants)
    parts: list[pd.DataFrame] = []
    of_anchor: dict[str, ProblemShares] = {}
    for anchor in anchors:
        rows, states = run.states(layer, anchor)
        right = (rows["verdict"] == "correct").to_numpy()
        own = rows[right]
        try:
            shares = problem_shares(
                states[right],
                problem_keys(own).tolist(),
                own["rollout_id"].tolist(),
                k=k,
                n_draws=n_draws,
                seed=seed,
            )
        except GeomrlError as error:
            raise GeomrlError(f"{run.path}, anchor '{anchor}': {error}") from error
        of_anchor[anchor] = shares
        joined = _join(shares, difficulty, by_kind, anchor)
        n = joined["problem"].nunique()
        if n < _FEWEST:
            raise GeomrlError(
                f"{run.path}: {n} problems have {k} correct rollouts with anchor '{anchor}', rollouts "
                f"in again and variants, but at least {_FEWEST} are needed: sample more rollouts a "
                "problem, or take more or easier problems"
            )
        parts.append(joined)
    problems = pd.concat(parts, ignore_index=True)
    reliability = _reliability(
        problems, of_anchor, again=again, on_variants=on_variants, variants=variants
    )
    left_out = {anchor: shares.n_left_out for anchor, shares in of_anchor.items()}
    return ShareCorrelations(
        problems=problems,
        correlations=_correlations(problems, reliability),
        reliability=reliability,
        k=k,
        n_draws=n_draws,
        left_out=left_out,
        n_samples={"again": _samples(again), "variants": _samples(on_variants)},
    )


def _join(
    shares: ProblemShares, difficulty: pd.Series, by_kind: pd.DataFrame, anchor: str
) -> pd.DataFrame:
    own = pd.DataFrame(
        {
            "anchor": anchor,
            "problem": shares.problems,
            "share": shares.share,
            "share_rank": shares.rank,
        }
    )
    own["accuracy"] = own["problem"].map(difficulty)
    own = own.dropna(subset=["accuracy"])
    joined = own.merge(by_kind, on="problem")
    kinds = list(dict.fromkeys(by_kind["kind"]))
    order = joined["kind"].map(kinds.index)
    return joined.iloc[np.lexsort((joined["problem"], order))].reset_index(drop=True)


def _correlations(problems: pd.DataFrame, reliability: pd.DataFrame) -> pd.DataFrame:
    known = {(r["anchor"], r["quantity"]): r["value"] for r in reliability.to_dict("records")}
    rows = []
    for (anchor, kind), group in problems.groupby(["anchor", "kind"], sort=False):
        x, y, z = (group[c].to_numpy(float) for c in ("share_rank", "variant_accuracy", "accuracy"))
        found = partial_spearman(x, y, z[:, None])
        plain, xz, yz = (partial_spearman(*pair).value for pair in ((x, y), (x, z), (y, z)))
        share, own, varied = (
            float(known[anchor, quantity])
            for quantity in ("share", "accuracy", variant_quantity(kind))
        )
        rows.append(
            {
                "anchor": anchor,
                "kind": kind,
                "value": found.value,
                "low": found.low,
                "high": found.high,
                "p": found.p,
                "n_problems": found.n,
                "detectable": found.detectable,
                "detectable_true": without_noise(found.detectable, share, varied),
                "spearman": plain,
                "corrected": corrected_partial(plain, xz, yz, own),
            }
        )
    table = pd.DataFrame(rows)
    table.insert(6, "p_holm", holm(table["p"].to_numpy()))
    return table


def variant_quantity(kind: object) -> str:
    """Return the name of the accuracy on one kind of variants."""
    return f"accuracy on variants, {kind}"


def _reliability(
    problems: pd.DataFrame,
    shares: dict[str, ProblemShares],
    again: pd.DataFrame,
    on_variants: pd.DataFrame,
    variants: Sequence[Problem],
) -> pd.DataFrame:
    """Return how well each quantity is measured, on the problems that take part."""
    halves = [problem_accuracy(half) for half in _halves(again)]
    varied = [
        variant_accuracy(half, variants).set_index(["kind", "problem"])["variant_accuracy"]
        for half in _halves(on_variants)
    ]
    rows = []
    for anchor, of_anchor in problems.groupby("anchor", sort=False):
        first = of_anchor[of_anchor["kind"] == of_anchor["kind"].iloc[0]]
        share, times = share_reliability(shares[str(anchor)])
        rows.append(_row(anchor, "share", share, times))
        names = first["problem"]
        own = partial_spearman(*(half.reindex(names).to_numpy() for half in halves))
        rows.append(_row(anchor, "accuracy", own, 2.0))
        for kind, group in of_anchor.groupby("kind", sort=False):
            places = pd.MultiIndex.from_arrays([group["kind"], group["problem"]])
            found = partial_spearman(*(half.reindex(places).to_numpy() for half in varied))
            rows.append(_row(anchor, variant_quantity(kind), found, 2.0))
    return pd.DataFrame(rows)


def _row(
    anchor: object, quantity: str, found: PartialCorrelation, times: float
) -> dict[str, object]:
    value, low, high = (spearman_brown(r, times) for r in (found.value, found.low, found.high))
    return {
        "anchor": anchor,
        "quantity": quantity,
        "value": value,
        "low": low,
        "high": high,
        "n_problems": found.n,
    }


def _halves(rollouts: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the samples of even and of odd number."""
    odd = rollouts["sample"].to_numpy() % 2 == 1
    return rollouts[~odd], rollouts[odd]


def _samples(rollouts: pd.DataFrame) -> int:
    return int(problem_keys(rollouts).value_counts().min())


def _check_policy(probed: pd.DataFrame, other: pd.DataFrame, name: str) -> None:
    one, two = (set(table["policy_hash"].dropna()) for table in (probed, other))
    if one and two and one != two:
        raise GeomrlError(
            f"the rollouts in {name} are of another policy than the probed ones: difficulty and "
            "variants must be those of the model whose states are read; sample them from it"
        )


def _check_independent(probed: pd.DataFrame, again: pd.DataFrame) -> None:
    seeds = probed.set_index("rollout_id")["seed"].dropna()
    same = again.set_index("rollout_id")["seed"].dropna().reindex(seeds.index) == seeds
    if same.any():
        raise GeomrlError(
            f"{int(same.sum())} rollouts of again are the probed ones (such as "
            f"'{same.index[same][0]}'): difficulty would share the shares' own luck; sample again "
            "with another --seed"
        )
