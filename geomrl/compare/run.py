"""Compare a base model with one or several RL checkpoints: rollouts, states, table, verdict.

The 2x2 of {base, RL policy} x {base, RL encoder}: every policy answers the same problems with the
same sampling seeds, and every encoder reads both policies' rollouts. One model is in memory at a
time. Whatever is on disk already is not made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from geomrl.compare.checkpoint import compare_checkpoint
from geomrl.compare.comparison import Comparison, open_comparison
from geomrl.compare.config import CompareConfig, check_distinct, check_settings
from geomrl.compare.corners import Corners
from geomrl.compare.make_corners import CornerMaker
from geomrl.compare.measures.measure import shown_entry
from geomrl.compare.place import own_measure
from geomrl.compare.rows import COLUMNS
from geomrl.errors import GeomrlError
from geomrl.evaluate.prompts import asked_of, check_prompts, model_prompts
from geomrl.files import user_code_hashes, write_csv, write_json, write_parquet
from geomrl.models.context import Context
from geomrl.models.names import model_label, split_label
from geomrl.models.options import ModelOptions
from geomrl.models.outline import check_one_architecture
from geomrl.probe.anchors import own_anchors
from geomrl.probe.extraction import ExtractionConfig
from geomrl.problems.load import load_problems
from geomrl.progress import Say
from geomrl.rollout.generate import RolloutConfig, sampling_settings
from geomrl.runs.layout import COMPARISON, USER_CODE, VERDICT
from geomrl.runs.manifest import read_manifest, record_step, versions
from geomrl.verify.marker import BOXED, parse_marker


def compare_models(
    base: str,
    rl: str | Sequence[str],
    problems: str,
    out: Path | str,
    *,
    config: CompareConfig | None = None,
    rollouts: RolloutConfig | None = None,
    extraction: ExtractionConfig | None = None,
    limit: int | None = None,
    columns: dict[str, str] | None = None,
    marker: str = BOXED,
    own_prompts: bool = False,
    options: ModelOptions | None = None,
    jobs: int | None = None,
    show: bool = True,
    say: Say = lambda line: None,
) -> Comparison:
    """Compare models before and after RL, and name what changed.

    Its parameters are those of `geomrl compare`, in groups.

    Args:
        base: a hub id, a folder, "reasoner", a training run, or a step of one (RUN@25).
        rl: one checkpoint, or several for a trajectory; "LABEL=MODEL" names one in the tables.
        problems: benchmark names with commas, or a JSONL/parquet file. Take held-out ones: the
            alignment loss raises the cosine that is measured on the problems it trained on.
        out: the folder; made, or resumed.
        config: place of the verdict, margins, seed, draws.
        rollouts: samples a problem and how they are drawn.
        extraction: layers and anchors.
        limit: the first so many problems only.
        columns: a problem file's column names, ours -> its.
        marker: the answer marker's specification.
        own_prompts: let models have different prompts (each its own chat template) instead of
            refusing; what differs is then prompt and weights together, and a remark says so.
        options: how to load the models.
        jobs: processes that share the layers and anchors of the analysis; None takes one a core. The
            table does not depend on it.
        show: show progress bars.
        say: called with remarks.

    Returns:
        The opened folder: `table`, `verdicts`.

    Raises:
        GeomrlError: two benchmarks share a problem, the models' prompts, vocabularies or sizes
            differ, or the folder contains a comparison of other settings.
    """
    run = Path(out)
    config, rollouts = config or CompareConfig(), rollouts or RolloutConfig()
    extraction = extraction or ExtractionConfig()
    named = [split_label(text) for text in (base, *([rl] if isinstance(rl, str) else rl))]
    names = [name for _, name in named]
    labels = _labels(named[1:])
    check_settings(names, config, rollouts, extraction)
    own = [own_measure(spec) for spec in config.measures]
    chosen = load_problems(problems, limit=limit, columns=columns)
    check_distinct(chosen)
    context = Context(options or ModelOptions(), show, say, jobs)
    options = context.options
    check_one_architecture([options.outline(name) for name in names])
    first = named[0][0] or model_label(names[0])
    check_prompts(
        [
            model_prompts(
                label, name, chosen, rollouts, trust_remote_code=options.trust_remote_code
            )
            for label, name in zip([first, *labels], names, strict=True)
        ],
        own=own_prompts,
    )
    settings = {
        "problems": problems, "limit": limit, "n_problems": len(chosen), "base": names[0],
        "marker": parse_marker(marker).spec, **asdict(config), "rollouts": sampling_settings(rollouts),
        "layers": extraction.layers, "anchors": extraction.anchors,
    }  # fmt: skip
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    del settings["measures"]
    code = [*config.measures, *own_anchors(extraction.anchors)]
    if code:
        settings[USER_CODE] = user_code_hashes(code)
    begun = any(run.glob("policies/*/rollouts.parquet"))
    free = ("rollouts.chunk", *_user_code(run), *(f"{USER_CODE}.{spec}" for spec in code))
    record_step(run, "compare", settings, begun=begun, free=free)
    maker = CornerMaker(
        out=run,
        problems=problems,
        rollouts=rollouts,
        extraction=extraction,
        limit=limit,
        columns=columns,
        marker=marker,
        context=context,
    )
    keys = maker.make(names)
    entries, tables = [], []
    for name, label, key in zip(names[1:], labels, keys[1:], strict=True):
        corners = Corners(run, keys[0], key)
        asked = [
            asked_of(role, corners.runs[key].rollouts)
            for role, key in ((first, "base"), (label, "rl"))
        ]
        notes = check_prompts(asked, own=own_prompts)
        table, entry = compare_checkpoint(
            corners, label, config=config, marker=marker, notes=notes, context=context
        )
        tables.append(table)
        entries.append({"model": name, "key": key, **entry})
    whole = pd.concat(tables, ignore_index=True).assign(seed=config.seed)[list(COLUMNS)]
    write_parquet(run / COMPARISON, whole)
    write_csv((run / COMPARISON).with_suffix(".csv"), whole.round(6))
    shown = {"measures": [shown_entry(measure) for measure in own]} if own else {}
    write_json(
        run / VERDICT,
        {
            "base": names[0], "problems": problems, "n_problems": len(chosen), "n_samples": rollouts.n,
            "place": {"layer": config.layer, "anchor": config.anchor}, "seed": config.seed,
            "margins": asdict(config.margins), "checkpoints": entries, "versions": versions(),
            **shown,
        },
    )  # fmt: skip
    return open_comparison(run)


def _user_code(run: Path) -> list[str]:
    """Return the names of the settings under which code of the user's was recorded before."""
    settings = read_manifest(run).get("compare", {}).get("settings", {})
    return [f"{USER_CODE}.{spec}" for spec in settings.get(USER_CODE, {})]


def _labels(named: Sequence[tuple[str | None, str]]) -> list[str]:
    """Return the checkpoints' names for tables: the user's, else short ones where they differ.

    Raises:
        GeomrlError: two of them are the same.
    """
    short = [model_label(name) for _, name in named]
    labels = [
        label or (own if short.count(own) == 1 else name)
        for (label, name), own in zip(named, short, strict=True)
    ]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise GeomrlError(f"two checkpoints are called '{twice[0]}'; name them: LABEL=MODEL")
    return labels
