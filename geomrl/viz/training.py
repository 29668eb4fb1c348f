"""`geomrl figures RUN` for a training run: its curves, from metrics.jsonl alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.files import safe_name, write_json
from geomrl.progress import Progress
from geomrl.runs.layout import METRICS
from geomrl.train.config import load_config
from geomrl.train.metrics_log import read_metrics
from geomrl.viz import theme
from geomrl.viz.curves import Curve, Panel, curve_frame, draw_curves
from geomrl.viz.picture import FORMATS, Picture, check_formats, write_picture
from geomrl.viz.tables import anchor_label, layer_words

_BLUE, _ORANGE, _GREEN, _PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
_CELLS = ("CC", "II_same_answer", "II", "CI", "floor")


def draw_training(
    run: Path | str,
    out: Path | None = None,
    *,
    formats: Sequence[str] = FORMATS,
    progress: Progress | None = None,
) -> list[Path]:
    """Draw a training's curves and return the files written, `figures.json` last.

    Every picture is NAME.csv (what is plotted), NAME.png and NAME.pdf. A run may be drawn while it
    trains. A picture of which the log contains no metric is left out, and `figures.json` says so.

    Args:
        run: the training's folder.
        out: the folder to write in; RUN/figures by default.
        formats: any of "png" and "pdf".
        progress: called with the number of pictures done and of all.

    Raises:
        GeomrlError: no training run, an unreadable log, or an unknown format.
    """
    check_formats(formats)
    run = Path(run)
    out = Path(out) if out is not None else run / "figures"
    made = training_pictures(run)
    written: list[Path] = []
    record: dict[str, dict[str, object]] = {}
    for number, (name, picture) in enumerate(made.items(), start=1):
        if picture is None:
            record[name] = {"skipped": "the log has no metric of it"}
        else:
            files = write_picture(picture, out, formats)
            record[name] = {"files": [file.name for file in files]}
            written += files
        if progress is not None:
            progress(number, len(made))
    write_json(out / "figures.json", {"settings": {}, "pictures": record})
    return [*written, out / "figures.json"]


def training_pictures(run: Path) -> dict[str, Picture | None]:
    """Return a training's pictures by name; None where the log contains nothing of one.

    Raises:
        GeomrlError: no training run, or an unreadable log.
    """
    metrics = read_metrics(run)
    source = _source(run)
    found: dict[str, Picture | None] = {}
    for name, (panels, notes) in training_layouts(metrics).items():
        frame = curve_frame(metrics, panels)
        drawn = None if frame.empty else draw_curves(frame, panels, source, *notes, name=name)
        found[name] = drawn
    return found


def _source(run: Path) -> theme.Provenance:
    path = run / "config.yaml"
    if not path.exists():
        raise GeomrlError(
            f"{path}: no such file; a training run keeps its configuration beside {METRICS}"
        )
    config = load_config(path)
    return theme.Provenance(config.model.name, config.model.name, config.seed)


def training_layouts(metrics: pd.DataFrame) -> dict[str, tuple[list[Panel], list[str]]]:
    """Return each picture's panels and notes."""
    heldout = _heldout_note(metrics)
    pictures: dict[str, tuple[list[Panel], list[str]]] = {
        "training_accuracy": (_accuracy(metrics), heldout),
        "training_policy": (_POLICY, ["means over a training step's tokens"]),
        "training_rollouts": (_ROLLOUTS, []),
        "training_alignment": (
            _ALIGNMENT, ["the rollouts trained on, at the aligned anchor and last aligned layer"]
        ),
        "training_pace": (_PACE, []),
    }  # fmt: skip
    places = dict.fromkeys(
        tuple(name.split("/")[1:-1])
        for name in map(str, metrics)
        if name.startswith("eval/") and name.endswith("/CC")
    )
    for *benchmark, anchor, layer in places:
        words = ", ".join([*benchmark, layer_words(layer), anchor_label(anchor)])
        stem = "_".join(["heldout_geometry", *benchmark, anchor, layer])
        name = safe_name(stem)
        prefix = "/".join(["eval", *benchmark, anchor, layer])
        pictures[name] = (_geometry(prefix), [words, *heldout])
    return pictures


def _heldout_note(metrics: pd.DataFrame) -> list[str]:
    if "eval/n_problems" not in metrics:
        return []
    return [
        f"held out: {theme.span(metrics['eval/n_problems'], 'problem')},"
        f" {theme.span(metrics['eval/n_samples'], 'sample')} each",
        "bands: 95 % bootstrap-t intervals by problem",
    ]


def _curve(metric: str, colour: str, marker: str, label: str = "") -> Curve:
    return Curve(metric, theme.Look(colour, marker, label))


def _accuracy(metrics: pd.DataFrame) -> list[Panel]:
    tails = [name.partition("eval/pass@")[2] for name in map(str, metrics)]
    ks = sorted(int(tail) for tail in tails if tail.isdigit())
    looks = zip(ks, ((_BLUE, "o"), (_GREEN, "s"), (_PINK, "^"), (theme.INK, "D")), strict=False)
    heldout = tuple(_curve(f"eval/pass@{k}", *look, f"pass@{k}") for k, look in looks)
    return [
        Panel("Reward", (_curve("reward/mean", _BLUE, "o"),)),
        Panel("Correct while training", (_curve("pass_rate", _BLUE, "o"),), "Share of rollouts"),
        Panel("Held-out problems", heldout, "pass@k"),
    ]


_POLICY = [
    Panel("Entropy", (_curve("entropy", _BLUE, "o"),), "Nats a token"),
    Panel(
        "Clipped tokens",
        (
            _curve("clip/low", _BLUE, "o", "below 1 − ε_low"),
            _curve("clip/high", _ORANGE, "s", "above 1 + ε_high"),
            _curve("clip/dual", theme.GREY, "^", "dual clip"),
        ),
        "Share",
    ),
    Panel("Gradient norm", (_curve("grad_norm", _BLUE, "o"),), "Before clipping"),
    Panel(
        "Old and new policy",
        (
            _curve("kl/approx", _BLUE, "o", "approximate KL"),
            _curve("mismatch/mean", _ORANGE, "s", "|log p trainer − sampler|"),
        ),
        "Nats",
    ),
    Panel("Learning rate", (_curve("lr", _BLUE, "o"),)),
]
_ROLLOUTS = [
    Panel(
        "Response length",
        (
            _curve("length/mean", _BLUE, "o", "mean"),
            _curve("length/max", theme.GREY, "^", "longest"),
        ),
        "Tokens",
    ),
    Panel(
        "Not finished",
        (
            _curve("length/truncated", _BLUE, "o", "cut off"),
            _curve("no_answer", _ORANGE, "s", "no answer"),
        ),
        "Share",
    ),
    Panel(
        "Groups",
        (
            _curve("groups/kept", _GREEN, "o", "kept"),
            _curve("groups/all_correct", _BLUE, "s", "all correct"),
            _curve("groups/all_wrong", _ORANGE, "^", "all wrong"),
        ),
        "Problems",
    ),
]
_ALIGNMENT = [
    Panel(
        "Raw cosine",
        tuple(
            Curve(f"align/{cell}", theme.CELL_LOOKS[cell]) for cell in ("CC", "II", "CI", "floor")
        ),
    ),
    Panel(
        "Centred cosine",
        tuple(Curve(f"align/{cell}_centred", theme.CELL_LOOKS[cell]) for cell in ("CC", "floor")),
    ),
    Panel(
        "Directions in use",
        (
            _curve("align/effective_rank", _BLUE, "o", "effective rank"),
            _curve("align/participation_ratio", _ORANGE, "s", "participation ratio"),
        ),
    ),
    Panel("Alignment loss", (_curve("loss/align", _BLUE, "o"),)),
    Panel(
        "Gradient at the anchor states",
        (
            _curve("grad_norm/policy", _BLUE, "o", "policy loss"),
            _curve("grad_norm/align", _ORANGE, "s", "weight × alignment loss"),
        ),
        logarithmic=True,
    ),
    Panel("Weight", (_curve("weight/align", _BLUE, "o"),)),
]
_PACE = [
    Panel("Pace", (_curve("time/tokens_per_second", _BLUE, "o"),), "Tokens a second"),
    Panel(
        "A step's phases",
        (
            _curve("time/generate", _BLUE, "o", "generate"),
            _curve("time/old_logprobs", _ORANGE, "s", "old log-probabilities"),
            _curve("time/update", _GREEN, "^", "update"),
        ),
        "Seconds",
    ),
]


def _geometry(prefix: str) -> list[Panel]:
    """Return the panels of one anchor and layer on held-out problems."""
    cells = tuple(Curve(f"{prefix}/{cell}", theme.cell_look(cell)) for cell in _CELLS)
    centred = tuple(Curve(f"{prefix}/{cell}_centred", theme.cell_look(cell)) for cell in _CELLS)
    contrasts = tuple(
        Curve(f"{prefix}/{cell}", theme.cell_look(cell)) for cell in ("CC-II", "CC-II_same_answer")
    )
    return [
        Panel("Raw cosine", cells),
        Panel("Centred cosine", centred),
        Panel("Contrasts, raw cosine", contrasts, "Difference"),
        Panel("Effective rank", (_curve(f"{prefix}/effective_rank", _BLUE, "o"),)),
    ]
