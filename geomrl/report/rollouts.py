"""The rollout browser's content: which rollouts of a folder are shown, and what is shown of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from geomrl.errors import GeomrlError
from geomrl.report.charts import look
from geomrl.report.collect import Collected
from geomrl.report.highlight import make_highlighter
from geomrl.report.neighbours import Neighbours, find_neighbours
from geomrl.report.views import Chart, Number, Series, clean
from geomrl.runs.layout import ROLLOUTS
from geomrl.runs.rollouts import read_rollouts
from geomrl.runs.run import LABELS, Run, open_run
from geomrl.seeds import derive_rng
from geomrl.train.config import load_config
from geomrl.verify.marker import BOXED, parse_marker
from geomrl.viz.embedding import FEWEST_STATES, principal_components
from geomrl.viz.tables import anchor_label, layer_words
from geomrl.viz.theme import VERDICTS

LAYER, ANCHOR = "final", "before_marker"


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """What of a run goes into its page.

    Attributes:
        layer: of the neighbours; "final" where stored, else the last one, by default.
        anchor: of the neighbours and of the highlight; "before_marker" where stored by default.
        encoder: whose states, where a run contains those of several; the policy's own by default.
        max_rollouts: rollouts of a run whose text is embedded; whole problems, drawn by seed.
        max_chars: characters of a response at most; longer ones are cut around their anchor.
        neighbours: neighbours a rollout.
        seed: of the draw of problems and of the floor's bootstrap.
    """

    layer: str | None = None
    anchor: str | None = None
    encoder: str | None = None
    max_rollouts: int = 1000
    max_chars: int = 6000
    neighbours: int = 8
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class RolloutSet:
    """Rollouts of one policy: their table, how they were graded and tokenised, their states."""

    label: str
    rollouts: pd.DataFrame
    marker: str
    tokenizer: str | None
    vocabulary: str | None
    run: Run | None = None


@dataclass(frozen=True, kw_only=True)
class States:
    """States of a source at one place: rows with labels, states [rows, hidden], where from."""

    rows: pd.DataFrame
    states: Float[np.ndarray, "rows hidden"]
    layer: str
    anchor: str
    encoder: str


def rollout_sources(run: Collected) -> Iterator[RolloutSet]:
    """Yield every set of rollouts that a folder contains.

    A run's own; those of a comparison's policies and of an evaluation's models; a training's first
    and last evaluation, and those of its last step.
    """
    if run.rollouts:
        yield _of_run(run.path, "rollouts")
    for folder in sorted([*run.path.glob("policies/*"), *run.path.glob("rollouts/*")]):
        if (folder / ROLLOUTS).exists():
            yield _of_run(folder, folder.name)
    if run.metrics is not None:
        yield from _of_training(run.path)


def _of_run(path: Path, label: str) -> RolloutSet:
    run = open_run(path)
    settings = run.manifest.get("rollouts", {}).get("settings", {})
    return RolloutSet(
        label=label,
        rollouts=run.rollouts,
        marker=settings.get("marker", BOXED),
        tokenizer=settings.get("policy") or settings.get("tokenizer"),
        vocabulary=settings.get("vocabulary"),
        run=run,
    )


def _of_training(path: Path) -> Iterator[RolloutSet]:
    evaluations = sorted(path.glob("eval/step-*/rollouts.parquet"))
    steps = sorted(path.glob("rollouts/step-*.parquet"))
    chosen = {
        f"held out, {_step(file.parent.name)}": file
        for file in dict.fromkeys([*evaluations[:1], *evaluations[-1:]])
    }
    chosen |= {f"training, {_step(file.stem)}": file for file in steps[-1:]}
    if not chosen:
        return
    config = load_config(path / "config.yaml")
    for label, file in chosen.items():
        yield RolloutSet(
            label=label,
            rollouts=read_rollouts(file),
            marker=config.data.marker,
            tokenizer=config.model.name,
            vocabulary=None,
        )


def _step(name: str) -> str:
    return f"step {int(name.removeprefix('step-'))}"


def read_states(source: RolloutSet, settings: ReportSettings) -> States | None:
    """Return a source's states at the settings' place; None where it has none.

    Raises:
        GeomrlError: a layer, anchor or encoder is named that is not stored.
    """
    run = source.run
    if run is None or not run.encoders:
        return None
    encoder = settings.encoder
    if encoder is None:
        own = run.path.name
        encoder = own if own in run.encoders else run.encoders[0]
    store = run.store(encoder)
    layer = _stored(settings.layer, LAYER, store.settings.layers[-1], store.settings.layers)
    anchor = _stored(settings.anchor, ANCHOR, store.settings.anchors[0], store.settings.anchors)
    rows, states = run.states(layer, anchor, encoder)
    return States(rows=rows, states=states, layer=layer, anchor=anchor, encoder=encoder)


def _stored(wanted: str | None, default: str, other: str, stored: tuple[str, ...]) -> str:
    """Return what is asked for, else the default where it is stored; the store refuses unknowns."""
    return wanted or (default if default in stored else other)


def choose(rollouts: pd.DataFrame, most: int, seed: int, label: str) -> pd.DataFrame:
    """Return at most `most` rollouts: whole problems, drawn by seed, in the table's order.

    Where even one problem has more, its first ones.
    """
    if len(rollouts) <= most:
        return rollouts
    key = rollouts["benchmark"] + "\x1f" + rollouts["problem_id"]
    sizes = key.groupby(key, sort=False).size()
    order = derive_rng(seed, "report", label).permutation(len(sizes))
    drawn = sizes.iloc[order]
    kept = set(drawn.index[drawn.cumsum() <= most]) or {drawn.index[0]}
    return rollouts[key.isin(kept)].head(most)


def browser(
    source: RolloutSet, found: States | None, settings: ReportSettings, most: int
) -> dict[str, Any]:
    """Return a source's rollouts as the page's JSON contains them.

    `rows` are the rollouts shown; `others` are neighbours whose text is not embedded. A neighbour is
    [number, cosine], counted through rows and then others.

    Args:
        source: the rollouts.
        found: their states, if any.
        settings: see `ReportSettings`.
        most: rollouts of this source at most.
    """
    shown = choose(source.rollouts, most, settings.seed, source.label)
    anchor = found.anchor if found else settings.anchor or ANCHOR
    marker = parse_marker(source.marker)
    highlighter, lacking = make_highlighter(marker, anchor, source.tokenizer, source.vocabulary)
    if lacking is None and shown["response_ids"].isna().all():
        lacking = "the rollouts came without token ids"
    near = None
    if found is not None:
        near = find_neighbours(
            found.rows, found.states, set(shown["rollout_id"]), settings.neighbours,
            seed=settings.seed,
        )  # fmt: skip
    rows = [
        {
            **_labels(row),
            "pieces": highlighter.pieces(
                row["response"], _ids(row), _text(row["answer"]) or None,
                settings.max_chars,
            ),
            "tokens": len(_ids(row)) or None,
            "finish": _text(row["finish_reason"]),
            "reason": _text(row["verdict_reason"]),
        }
        for row in shown.to_dict("records")
    ]  # fmt: skip
    others = _link(rows, near, source.rollouts) if near else []
    prompts = shown.drop_duplicates(["benchmark", "problem_id"])
    return {
        "label": source.label,
        "shown": len(rows),
        "anchor": anchor_label(anchor),
        "note": _note(
            source, len(shown), lacking=lacking, found=found, near=near, settings=settings
        ),
        "floor": None if near is None else Number.of(vars(near.floor)).words(),
        "problems": [
            {
                "benchmark": row["benchmark"],
                "problem_id": row["problem_id"],
                "statement": _text(row["problem"]),
                "prompt": _text(row["prompt"]),
            }
            for row in prompts.to_dict("records")
        ],
        "rows": rows,
        "others": others,
    }


def _labels(row: dict[Any, Any]) -> dict[str, Any]:
    kept = ("benchmark", "problem_id", "verdict", "answer", "gold")
    found: dict[str, Any] = {key: _text(row[key]) for key in kept}
    return found | {"id": row["rollout_id"], "sample": int(row["sample"])}


def _ids(row: dict[Any, Any]) -> list[int]:
    """Return a response's token ids; none where another tool gave its text alone."""
    return [] if row["response_ids"] is None else list(row["response_ids"])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _link(
    rows: list[dict[str, Any]], near: Neighbours, rollouts: pd.DataFrame
) -> list[dict[str, Any]]:
    """Put each row's neighbours into it; return the neighbours that are no row."""
    number = {row["id"]: i for i, row in enumerate(rows)}
    elsewhere = dict.fromkeys(id_ for ids in near.ids for id_ in ids if id_ not in number)
    number |= {id_: len(rows) + i for i, id_ in enumerate(elsewhere)}
    for query, ids, cosines in zip(near.queries, near.ids, near.cosines, strict=True):
        pairs = zip(ids, cosines, strict=True)
        rows[number[query]]["near"] = [[number[id_], clean(c)] for id_, c in pairs]
    labels = rollouts.set_index("rollout_id")[LABELS].loc[list(elsewhere)].reset_index()
    return [_labels(row) for row in labels.to_dict("records")]


def _note(
    source: RolloutSet, shown: int, lacking: str | None, found: States | None,
    near: Neighbours | None, settings: ReportSettings,
) -> str:  # fmt: skip
    total = len(source.rollouts)
    parts = [f"All {total:,} rollouts are in this page."]
    if shown < total:
        parts = [
            f"{shown:,} of {total:,} rollouts are in this page: whole problems, drawn with seed "
            f"{settings.seed} (--max-rollouts)."
        ]
    if source.rollouts["response"].str.len().max() > settings.max_chars:
        parts.append(f"Responses are cut to {settings.max_chars:,} characters (--max-chars).")
    if lacking is not None:
        parts.append(f"Anchor tokens cannot be shown: {lacking}.")
    if found is None or near is None:
        parts.append("No stored states, so no neighbours: `geomrl probe` makes them.")
    else:
        words = Number.of(vars(near.floor)).words()
        parts.append(
            f"Neighbours: the nearest of {near.n_states:,} states by raw cosine at "
            f"{anchor_label(found.anchor)}, {layer_words(found.layer)}, encoder {found.encoder}. "
            f"Floor {words}: the mean cosine of different problems "
            f"(n = {near.floor.n_clusters}, seed {settings.seed}, 95 % by problem). "
            "A cosine near the floor says nothing."
        )
    return " ".join(parts)


def state_map(
    source: RolloutSet, found: States | None, settings: ReportSettings, most: int
) -> Chart | None:
    """Return a map of the states (PCA of unit vectors), whose points open their rollouts.

    None without states, or with fewer than `FEWEST_STATES`. The points are those rollouts that the
    browser shows, at most `most`.
    """
    if found is None or len(found.states) < FEWEST_STATES:
        return None
    scores, share = principal_components(found.states, seed=settings.seed, n_components=2)
    if scores.shape[1] < 2:
        return None
    shown = set(choose(source.rollouts, most, settings.seed, source.label)["rollout_id"])
    rows = found.rows.assign(pc1=scores[:, 0], pc2=scores[:, 1])
    rows = rows[rows["rollout_id"].isin(shown)]
    series = []
    for number, (verdict, part) in enumerate(rows.groupby("verdict", sort=True)):
        known = VERDICTS.get(str(verdict), look(number, str(verdict)))
        words = [
            f"{r.problem_id}, sample {r.sample}: {verdict}, answer {_text(r.answer) or '–'}"
            for r in part.itertuples()
        ]
        series.append(
            Series(
                label=known.label,
                colour=known.colour,
                marker=known.marker,
                at=part["pc1"].tolist(),
                value=part["pc2"].tolist(),
                texts=words,
                refs=part["rollout_id"].tolist(),
                line=False,
            )
        )
    place = f"{anchor_label(found.anchor)}, {layer_words(found.layer)}"
    return Chart(
        title=f"Map of states: {place}",
        series=tuple(series),
        axis=f"PC 1 ({share[0]:.0%} of variance)",
        unit=f"PC 2 ({share[1]:.0%})",
        wide=True,
        note=f"{source.label}: {len(rows):,} of {len(found.rows):,} states (unit length), encoder "
        f"{found.encoder}; components of all. Tap a point for its rollout. A map is for looking, "
        "not for testing.",
    )


def check_sizes(settings: ReportSettings) -> None:
    """Refuse sizes that make no page.

    Raises:
        GeomrlError: a number below what makes sense.
    """
    for name, least in (("max_rollouts", 1), ("max_chars", 30), ("neighbours", 0)):
        value = getattr(settings, name)
        if value < least:
            raise GeomrlError(f"{name} = {value}: give {least} or more")
