"""The premise: is the residual variance of correct rollouts noise, and what does removing it do?

The loss removes what correct rollouts of a problem differ in at the anchor. If that is noise which
hurts, a problem whose correct rollouts scatter more should be done worse when it is asked in another
form, at the same difficulty: the partial correlation of its residual share and its variants'
accuracy, given its own accuracy, should be negative.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl import open_run
from geomrl.errors import GeomrlError
from geomrl.evaluate.residual_shares import (
    ShareCorrelations,
    share_correlations,
    variant_quantity,
)
from geomrl.evaluate.variants import ALL_KINDS
from geomrl.files import read_parquet
from geomrl.probe.intervention import arm_contrast
from geomrl.problems.load import load_variants
from geomrl.problems.problem import Problem
from geomrl.reproduce import Analysis, Finding
from geomrl.reproduce.finding import interval, number
from geomrl.reproduce.runs import ANCHORS, LAYER
from geomrl.runs.replacement import EACH
from geomrl.runs.run import Run
from geomrl.viz import theme
from geomrl.viz.residual_shares import (
    ARMS,
    CONTRAST,
    draw_correlations,
    draw_removal,
    draw_shares,
)

_SEED = 0
_LEVEL = 0.05


def residual_noise(probed: Path, variants: Path) -> Finding:
    """Relate residual shares to variants' accuracy, and show what removing the residual does.

    Args:
        probed: a run of `geomrl probe --replace`, best with both `ANCHORS` replaced.
        variants: a folder with the runs again/ (the same problems) and variants/, and
            variants.jsonl or variants.parquet, the problems of the latter.

    Raises:
        GeomrlError: a part is missing, they do not belong together, or too few problems have
            enough correct rollouts.
    """
    run = open_run(probed)
    again, varied = open_run(variants / "again"), open_run(variants / "variants")
    listed = load_variants(str(_list_of_variants(variants)), _problems(run))
    found = share_correlations(
        run,
        again.rollouts,
        _named(varied.rollouts, listed),
        listed,
        anchors=ANCHORS,
        layer=LAYER,
        seed=_SEED,
    )
    removal = removal_table(run)
    source = theme.Provenance(str(run.rollouts["policy"].iloc[0]), run.store().path.name, _SEED)
    kind = str(found.problems["kind"].iloc[0])
    n = theme.span(found.correlations["n_problems"], "problem")
    notes = (
        n,
        f"share from {found.n_draws} draws of {found.k} correct rollouts, layer {LAYER}",
        f"accuracies from {found.n_samples['again']} rollouts and {found.n_samples['variants']} a variant",
    )
    pictures = [
        draw_shares(found.problems, kind, source.footnote(*notes, f"variants: {kind}"), "shares"),
        draw_correlations(
            found.correlations,
            source.footnote(*notes, "95 % intervals; dotted: found with 80 % power at 5 %"),
            "partial_correlations",
        ),
        draw_removal(
            removal[removal["arm"].isin(ARMS)],
            source.footnote(
                "correct rollouts",
                theme.span(removal["n_problems"], "problem"),
                "log-probability of the correct answer",
                "95 % intervals by problem",
            ),
            "residual_removed",
        ),
    ]
    tables = {
        "correlations": found.correlations.assign(
            k=found.k, n_draws=found.n_draws, layer=LAYER, seed=_SEED
        ),
        "reliability": found.reliability,
        "removal": removal,
    }
    says = [
        *_correlation_sentences(found),
        *(_whole_share(run, anchor) for anchor in ANCHORS),
        *_removal_sentences(removal),
    ]
    return Finding(says, pictures, tables)


def removal_table(run: Run) -> pd.DataFrame:
    """Return what each arm did to the correct answer in correct rollouts, by anchor and layer.

    Rows: anchor, layer, arm (those of `probe.intervention`, and `CONTRAST`), value, low, high (nats,
    95 % by problem), n_problems, untouched (mean log-probability with nothing replaced: minus that
    is the most that an arm can gain), n_boot, seed.

    Raises:
        GeomrlError: the run contains no replacement of this encoder.
    """
    path = run.path / EACH
    encoder = run.store().path.name
    if not path.exists() or not (run.replacement["encoder"] == encoder).any():
        raise GeomrlError(
            f"{run.path}: no states of encoder '{encoder}' were replaced in this run; `geomrl probe "
            f"MODEL --out {run.path} --replace` does it, and --replace-anchor names another anchor"
        )
    table, trials = run.replacement, read_parquet(path)
    rows = table[(table["encoder"] == encoder) & (table["verdict"] == "correct")]
    trials = trials[(trials["encoder"] == encoder) & trials["correct"]]
    seed, n_boot = int(rows["seed"].iloc[0]), int(rows["n_boot"].iloc[0])
    contrast = arm_contrast(trials, seed=seed, n_boot=n_boot).assign(arm=CONTRAST)
    columns = ["anchor", "layer", "arm", "value", "low", "high", "n_problems"]
    whole = pd.concat([rows[columns], contrast[columns]], ignore_index=True)
    before = trials.assign(untouched=trials["logprob"] - trials["change"])
    by_problem = before.groupby(["anchor", "problem"])["untouched"].mean()
    untouched = whole["anchor"].map(by_problem.groupby(level="anchor").mean())
    return whole.assign(untouched=untouched, n_boot=n_boot, seed=seed)


def _whole_share(run: Run, anchor: str) -> str:
    """Return the share of variance within problems, over all correct rollouts."""
    table = run.similarity
    row = table[
        (table["measure"] == "residual_share")
        & (table["cell"] == "C")
        & (table["layer"] == LAYER)
        & (table["anchor"] == anchor)
        & (table["encoder"] == run.store().path.name)
    ].iloc[0]
    return (
        f"Over all correct rollouts {interval(row['value'], row['low'], row['high'])} of the variance at "
        f"`{anchor}` lies within problems ({int(row['n_problems'])} problems)."
    )


def _correlation_sentences(found: ShareCorrelations) -> list[str]:
    """Return what the correlations say, the answer first, and what weakens it."""
    table = found.correlations
    kind = str(table["kind"].iloc[0])
    sure = table[table["p_holm"] < _LEVEL]
    head = (
        "**Null result: at equal difficulty a problem's residual share does not tell the accuracy on "
        f"its variants** (no p below .05 after Holm over {len(table)} tests)."
    )
    if len(sure):
        ways = [
            "noise that hurts" if value < 0 else "variety that helps" for value in sure["value"]
        ]
        named = [
            f"{row['kind']} at `{row['anchor']}` ({number(row['value'])}, as {way} would be)"
            for row, way in zip(sure.to_dict("records"), ways, strict=True)
        ]
        head = (
            "**At equal difficulty a problem's residual share goes with the accuracy on its "
            f"variants** (Holm over {len(table)} tests): {'; '.join(named)}."
        )
    each = [
        f"at `{row['anchor']}` {interval(row['value'], row['low'], row['high'])}, p after Holm "
        f"{number(row['p_holm'])}, {row['n_problems']} problems"
        for row in table[table["kind"] == kind].to_dict("records")
    ]
    sets = f"Variants ({kind})" if kind == ALL_KINDS else f"Variants ({kind}, the only kind)"
    return [
        f"{head} {sets}: partial rank correlation {'; '.join(each)}. A share's rank is the mean over "
        f"{found.n_draws} draws of {found.k} correct rollouts of each problem, seed {_SEED}; "
        f"{_left_out(found)}.",
        "The sign: if what correct rollouts differ in at the anchor were noise that hurts, a larger "
        "share would go with a lower accuracy on variants at the same difficulty, and the correlation "
        "would be negative; if it were variety that helps, positive.",
        _power(found, kind),
        _attenuation(found, kind),
    ]


def _power(found: ShareCorrelations, kind: str) -> str:
    reliability = {(r["anchor"], r["quantity"]): r for r in found.reliability.to_dict("records")}
    words = []
    for row in found.correlations[found.correlations["kind"] == kind].to_dict("records"):
        true, share = row["detectable_true"], reliability[row["anchor"], "share"]
        among = "not known" if true != true else "none" if true >= 1 else number(true, 2)
        word = (
            f"at `{row['anchor']}` {number(row['detectable'], 2)} as measured, which between the "
            f"quantities without their noise is {among}"
        )
        if share["low"] <= 0:
            word += (
                " (the share's reliability there is not told apart from 0: a null at this anchor says "
                "nothing)"
            )
        words.append(word)
    return (
        "Power: the smallest correlation that is found with 80 % chance (5 %, two-sided) is "
        f"{'; '.join(words)}. A null excludes nothing smaller, of either sign."
    )


def _left_out(found: ShareCorrelations) -> str:
    counts = [f"{n} at `{anchor}`" for anchor, n in found.left_out.items()]
    return f"problems with fewer (but at least one) are left out: {', '.join(counts)}"


def _attenuation(found: ShareCorrelations, kind: str) -> str:
    rows = {(r["anchor"], r["quantity"]): r for r in found.reliability.to_dict("records")}
    correlations = {(r["anchor"], r["kind"]): r for r in found.correlations.to_dict("records")}
    words = []
    for anchor in found.left_out:
        share, own, other = (rows[anchor, q] for q in ("share", "accuracy", variant_quantity(kind)))
        at = correlations[anchor, kind]
        measured = (
            f"{interval(share['value'], share['low'], share['high'])} over the "
            f"{int(share['n_problems'])} problems with {2 * found.k} correct rollouts (disjoint sets of "
            f"{found.k}, stepped up to the mean number)"
            if share["value"] == share["value"]
            else f"unknown (too few problems have {2 * found.k} correct rollouts)"
        )
        words.append(
            f"at `{anchor}` the share {measured}, accuracy {number(own['value'])}, accuracy on variants "
            f"{number(other['value'])}; with nothing held fixed the rank correlation is "
            f"{number(at['spearman'])}, and corrected for the noise in difficulty "
            f"{number(at['corrected']) if at['corrected'] == at['corrected'] else 'not defined'}"
        )
    return (
        "Attenuation: all three are measured with noise. Difficulty that is measured with noise is held "
        "fixed only in part, which leaves some of it in the partial correlation; noise in the share and in "
        f"the variants' accuracy makes it smaller. Reliabilities: {'. '.join(words)}."
    )


def _removal_sentences(table: pd.DataFrame) -> list[str]:
    """Return what the interventions did, an anchor a sentence."""
    says = []
    for anchor in dict.fromkeys(table["anchor"]):
        rows = table[table["anchor"] == anchor].to_dict("records")
        arms = {arm: {r["layer"]: r for r in rows if r["arm"] == arm} for arm in table["arm"]}
        contrast = arms[CONTRAST]
        layer = max(contrast.values(), key=lambda row: abs(row["value"]))["layer"]
        removed, random, gap = (_nats(arms[arm][layer]) for arm in ARMS)
        room = contrast[layer]["untouched"]
        says.append(
            f"Intervention at `{anchor}`, correct rollouts of {contrast[layer]['n_problems']} problems: "
            "with the residual removed (the group's correct mean in the state's place) the "
            f"log-probability of the correct answer changes by {removed} nats at layer {layer}, where "
            f"this differs most, of {len(contrast)} layers, from a random residual of the same norm, "
            f"{random}; the difference is {gap}. Nothing can gain more than {-room:.2g} nats: the "
            f"untouched log-probability is {room:.2g}. {_control(arms.get('other_mean', {}))}"
        )
    says.append(
        "A gain would be noise removed, a loss information removed; intervals are pointwise over layers. A "
        "state reaches the answer through later layers alone, unless it predicts the answer's first token "
        "itself: before the marker the last layer's output and the final norm cannot change it. A random "
        "direction is spread over all dimensions, as natural residuals are not."
    )
    return says


def _control(other: dict[str, dict[Hashable, Any]]) -> str:
    """Return what the positive control did: whether the state matters to the answer at all."""
    if not other:
        return "There is no other problem whose state could be put in as a control."
    layer = min(other.values(), key=lambda row: row["value"])["layer"]
    return (
        f"The control, another problem's correct mean, changes it by at most {_nats(other[layer])} "
        f"(layer {layer})."
    )


def _nats(row: dict[Hashable, Any]) -> str:
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    return f"{value:.2g}" + (f" (95 % {low:.2g} to {high:.2g})" if low == low else "")


def _list_of_variants(folder: Path) -> Path:
    for suffix in (".jsonl", ".parquet"):
        path = folder / f"variants{suffix}"
        if path.exists():
            return path
    raise GeomrlError(
        f"{folder}: no variants.jsonl or variants.parquet, which says what each variant is a variant of; "
        "put there the file of which the rollouts in variants/ were made"
    )


def _problems(run: Run) -> list[Problem]:
    first = run.rollouts.drop_duplicates(["benchmark", "problem_id"])
    return [
        Problem(row["problem_id"], row["benchmark"], str(row["problem"]), str(row["gold"]))
        for row in first.to_dict("records")
    ]


def _named(rollouts: pd.DataFrame, listed: list[Problem]) -> pd.DataFrame:
    """Return the rollouts under the benchmark's name that the list of variants has."""
    of = rollouts.drop_duplicates(["benchmark", "problem_id"])
    twice = of["problem_id"][of["problem_id"].duplicated()]
    if len(twice):
        raise GeomrlError(
            f"variants: two benchmarks have a problem '{twice.iloc[0]}', and the list of variants could "
            "mean either; give each variant an id of its own"
        )
    return rollouts.assign(benchmark=listed[0].benchmark)


ANALYSIS = Analysis(
    question="Is the residual variance of correct rollouts noise?",
    needs=("probed", "variants"),
    answer=residual_noise,
    paper=[
        "that the residual variance of correct rollouts just before the answer marker is noise is "
        "its premise; it reports no test of it."
    ],
    assumed=[
        "the residual share: variance within a problem over all variance, on un-normalised states "
        "after the final norm (on unit vectors it would be the loss itself), from draws of 4 correct "
        "rollouts of each problem.",
        "accuracy on variants as what noise would hurt: the bundled ones are reworded, reordered "
        "and renumbered.",
        "difficulty as the share of wrong rollouts among independent ones.",
        "the arms of the intervention; `marker_end` beside the paper's anchor.",
    ],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
