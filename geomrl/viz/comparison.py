"""Pictures of a comparison: before and after RL, by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from geomrl.compare.comparison import Comparison
from geomrl.compare.rows import BOTH, CHANGE
from geomrl.viz import theme
from geomrl.viz.picture import Picture, write_picture
from geomrl.viz.series import Panels, Series, draw_series
from geomrl.viz.tables import anchor_label, layer_order

_COLUMNS = ["panel", "series", "policy", "layer", "anchor", "value", "low", "high", "n_problems"]
_CELLS = ("CC", "II", "CI", "floor")
_WHEN = {"base": "before", "rl": "after"}
_INTERVALS = "95 % intervals by problem"
_BLUE, _RED, _GREEN, _ORANGE, _PINK = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7"


def draw_comparison(
    comparison: Comparison,
    out: Path | None = None,
    *,
    anchor: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Draw each checkpoint's pictures: PNG, PDF and the CSV behind each; return the files.

    Args:
        comparison: the opened folder.
        out: where to write; FOLDER/figures by default.
        anchor: the anchor shown; the verdict's by default.
        progress: told how many pictures of all are done.
    """
    folder = Path(out) if out is not None else comparison.path / "figures"
    anchor = anchor or str(comparison.record["place"]["anchor"])
    checkpoints = list(comparison.verdicts)
    made, written = 0, []
    for number, checkpoint in enumerate(checkpoints):
        suffix = f"_{number + 1}" if len(checkpoints) > 1 else ""
        table = comparison.table[comparison.table["checkpoint"] == checkpoint]
        for name, (frame_of, panels) in _PICTURES.items():
            frame = frame_of(table, anchor)
            if len(frame):
                note = _footnote(comparison, checkpoint, anchor, frame)
                picture: Picture = draw_series(frame, panels, note, f"compare_{name}{suffix}")
                written += write_picture(picture, folder)
            made += 1
            if progress:
                progress(made, len(checkpoints) * len(_PICTURES))
    return written


def cells_frame(table: pd.DataFrame, anchor: str) -> pd.DataFrame:
    """Return cells of the base policy's rollouts as either encoder reads them, raw and centred."""
    rows = table[
        (table["measure"] == "cosine") & (table["policy"] == "base")
        & table["encoder"].isin(_WHEN) & table["cell"].isin(_CELLS)
        & table["space"].isin(["raw", "centred"])
    ]  # fmt: skip
    return _frame(rows, anchor, rows["space"], rows["cell"] + " " + rows["encoder"])


def relation_frame(table: pd.DataFrame, anchor: str) -> pd.DataFrame:
    """Return how alike the encoders are on the same rollouts."""
    names = {
        ("cka", ""): "cka", ("procrustes", "rotated"): "rotated",
        ("procrustes", "unrotated"): "unrotated", ("mutual_knn", "k=10"): "knn",
        ("mutual_knn", "chance"): "chance",
    }  # fmt: skip
    rows = table[table["encoder"] == CHANGE]
    series = pd.Series(
        [names.get(key) for key in zip(rows["measure"], rows["cell"], strict=True)], rows.index
    )
    rows = rows[series.notna() & rows["policy"].isin([BOTH, "base"])]
    panel = rows["measure"].map(lambda m: "knn" if m == "mutual_knn" else "shape")
    return _frame(rows, anchor, panel, series[rows.index])


def auroc_frame(table: pd.DataFrame, anchor: str) -> pd.DataFrame:
    """Return AUROCs for correctness of the base policy's rollouts."""
    rows = table[
        (table["measure"] == "auroc") & (table["policy"] == "base")
        & table["space"].isin(["grouped", "within"])
    ]  # fmt: skip
    series = rows["cell"] + " " + rows["encoder"]
    drawn = series.isin(_PICTURES["auroc"][1].series)
    return _frame(rows[drawn], anchor, rows["space"][drawn], series[drawn])


def lens_frame(table: pd.DataFrame, anchor: str) -> pd.DataFrame:
    """Return what either encoder knows of the answer, by layer, on the base policy's rollouts."""
    rows = table[
        table["measure"].isin(["lens_gold_logprob", "answer_decodability"])
        & (table["policy"] == "base") & (table["encoder"] != CHANGE)
    ]  # fmt: skip
    series = rows["encoder"].where(rows["cell"] != "most frequent", "usual")
    return _frame(rows, anchor, rows["measure"], series)


def _frame(rows: pd.DataFrame, anchor: str, panel: pd.Series, series: pd.Series) -> pd.DataFrame:
    """Return the rows at one anchor as a picture's data, in the order of the layers."""
    rows = rows.assign(panel=panel, series=series)
    rows = rows[(rows["anchor"] == anchor) & rows["value"].notna()]
    rows = rows.assign(order=rows["layer"].map(layer_order))
    rows = rows.sort_values(["panel", "series", "order"], kind="stable")
    return rows[_COLUMNS].reset_index(drop=True)


def _footnote(comparison: Comparison, checkpoint: str, anchor: str, frame: pd.DataFrame) -> str:
    record = comparison.record
    parts = [
        anchor_label(anchor), theme.span(frame["n_problems"], "problem"),
        f"{record['n_samples']} samples each", _INTERVALS, f"seed {record['seed']}",
        f"before {theme.shorten(record['base'])}", f"after {theme.shorten(checkpoint)}",
        "rollouts of the policy before" if (frame["policy"] == "base").any() else "",
    ]  # fmt: skip
    return "; ".join(part.replace(" ", "\u00a0") for part in parts if part)


def _before_after(names: Mapping[str, theme.Look]) -> dict[str, Series]:
    """Return a dashed and a solid series of each look."""
    return {
        f"{key} {encoder}": Series(
            theme.Look(look.colour, look.marker, f"{look.label}, {when}"), encoder == "base"
        )
        for key, look in names.items()
        for encoder, when in _WHEN.items()
    }


_PROBES = {
    "states": theme.Look(_BLUE, "o", "states"),
}
_CONTROLS = {
    "token, entropy, length": theme.Look(_ORANGE, "s", "token, entropy, length"),
    "shuffled labels": theme.Look(theme.GREY, "X", "shuffled labels"),
}
_PICTURES: dict[str, tuple[Callable[[pd.DataFrame, str], pd.DataFrame], Panels]] = {
    "cells": (
        cells_frame,
        Panels(
            {"raw": "Raw cosine", "centred": "Centred cosine"},
            {"raw": "Cosine", "centred": "Cosine"},
            _before_after(
                {c: theme.Look(theme.CELLS[c].colour, theme.CELLS[c].marker, c) for c in _CELLS}
            ),
            {},
        ),
    ),
    "relation": (
        relation_frame,
        Panels(
            {"shape": "Same shape?", "knn": "Same neighbours?"},
            {"shape": "Similarity of encoders", "knn": "Share of 10 nearest"},
            {
                "cka": Series(theme.Look(_BLUE, "o", "debiased CKA")),
                "rotated": Series(theme.Look(_GREEN, "D", "Procrustes, held out")),
                "unrotated": Series(theme.Look(_RED, "s", "without rotation"), dashed=True),
                "knn": Series(theme.Look(_PINK, "^", "mutual neighbours")),
                "chance": Series(theme.Look(theme.GREY, "X", "by chance"), dashed=True),
            },
            {"shape": 1.0},
        ),
    ),
    "auroc": (
        auroc_frame,
        Panels(
            {"grouped": "Held-out problems", "within": "Within a problem"},
            {"grouped": "AUROC", "within": "AUROC"},
            {
                **_before_after(_PROBES),
                "probe of base rl": Series(theme.Look(_RED, "^", "probe before, states after")),
                **{f"{key} rl": Series(look) for key, look in _CONTROLS.items()},
            },
            {"grouped": 0.5, "within": 0.5},
        ),
    ),
    "lens": (
        lens_frame,
        Panels(
            {
                "lens_gold_logprob": "Logit lens: correct answer",
                "answer_decodability": "Linear decoder: own answer",
            },
            {"lens_gold_logprob": "Log-probability (nats)", "answer_decodability": "Share right"},
            {
                "base": Series(theme.Look(_BLUE, "o", "before"), dashed=True),
                "rl": Series(theme.Look(_BLUE, "o", "after")),
                "usual": Series(theme.Look(theme.GREY, "X", "always the most frequent")),
            },
            {},
        ),
    ),
}
