"""`geomrl ablate`: train every arm with every seed, and compare them with alignment weight 0.

RUN/arms/ARM/seed-0 is a training run, RUN/scales.json contains the measured gradient norms,
RUN/results.parquet what each run ended with, RUN/ablation.parquet (and .csv, .md) the comparisons.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.ablate.ablation import Ablation, write_ablation
from geomrl.ablate.grid import DEFAULT, Grid, Plan, folder_name, load_grid, plan_arms
from geomrl.ablate.jobs import Job, run_jobs
from geomrl.ablate.readings import markdown
from geomrl.ablate.table import PRIMARY, compare, final_metrics, headline_place
from geomrl.errors import GeomrlError
from geomrl.files import atomic_path, read_json, user_code_name, write_json
from geomrl.progress import progress_bar
from geomrl.runs.layout import MANIFEST, USER_CODE
from geomrl.runs.locks import turn
from geomrl.runs.manifest import check_same_settings, read_manifest, record_step
from geomrl.train.config import TrainConfig, override
from geomrl.train.metrics_log import read_metrics
from geomrl.train.run_settings import content
from geomrl.train.user_code import check_unchanged, user_code

_STEP = "ablation"
_NORM = "grad_norm/align_unit"
_NAMED = 3  # failures whose message is shown; the others are named


def ablate(
    config: TrainConfig,
    grid: Grid | Path | str,
    out: Path | str,
    *,
    jobs: int = 1,
    show: bool = True,
    finished: Callable[[Ablation], object] = lambda ablation: None,
) -> Ablation:
    """Run an ablation, or resume one; write its tables.

    Runs that are done are not repeated; arms and seeds may be added to the grid later. A run that
    fails does not stop the others, and is tried again by the next call.

    Args:
        config: CONFIG, which the grid varies.
        grid: GRID.yaml, or what it contains.
        out: the folder.
        jobs: trainings at once.
        show: show progress.
        finished: called with the comparisons once they are written, also where some runs failed.

    Raises:
        GeomrlError: the grid does not fit CONFIG or what is in `out`; or runs failed: then all
            others are done, and the tables contain them.
    """
    source = "the grid" if isinstance(grid, Grid) else str(grid)
    grid = grid if isinstance(grid, Grid) else load_grid(grid)
    out = Path(out)
    plan = plan_arms(config, grid, source)
    settings = {
        "config": config.model_dump(mode="json"),
        **grid.model_dump(mode="json", include={"baseline", "default", "match_gradient_norm"}),
    }
    code = {k: v for arm in plan.arms for k, v in user_code(arm.config).items()}
    _record(out, settings, code)
    scales = _scales(plan, grid, out, code, jobs=jobs, show=show)
    planned = {
        (arm.name, seed): Job(
            name=f"{arm.name}, seed {seed}",
            config=arm.trained_with(seed, scales.get(arm.kind or "", 1.0)),
            out=out / "arms" / arm.folder / f"seed-{seed}",
            keep_models=grid.keep_models,
            code=code,
        )
        for seed in grid.seeds  # whole comparisons are there as early as can be
        for arm in plan.arms
    }
    with progress_bar("ablation", "runs", show=show) as bar:
        failed = run_jobs(list(planned.values()), jobs, bar.set)
    results = _results(planned, failed)
    if results.empty:
        _raise_if_failed(failed, len(planned), out)
    ablation = _findings(out, plan, results, scales)
    write_ablation(ablation)
    with atomic_path(out / "ablation.md") as temporary:
        temporary.write_text(markdown(ablation))
    finished(ablation)
    _raise_if_failed(failed, len(planned), out)
    return ablation


def _record(out: Path, settings: dict[str, Any], code: dict[str, str]) -> None:
    """Record an ablation in its manifest, or check that the one there is the same by its content.

    Args:
        out: the ablation's folder.
        settings: of the configuration and the grid; what arms there are is not among them.
        code: "FILE.py:NAME" -> hash, of all arms; a file that was not used so far is added.

    Raises:
        GeomrlError: something differs that decides results.
    """
    before = read_manifest(out).get(_STEP)
    if before is None or not (out / "arms").exists():
        record_step(out, _STEP, {**settings, **({USER_CODE: code} if code else {})}, begun=False)
        return
    known = before["settings"].pop(USER_CODE, {})
    check_unchanged(out, known, code)
    there, now = (
        {**s, **content(s["config"]), "config": None} for s in (before["settings"], settings)
    )
    check_same_settings(out, _STEP, there, now)
    if code.keys() - known.keys():
        with turn(out):
            manifest = read_manifest(out)
            manifest[_STEP]["settings"][USER_CODE] = {**known, **code}
            write_json(out / MANIFEST, manifest)


def _scales(
    plan: Plan, grid: Grid, out: Path, code: dict[str, str], *, jobs: int, show: bool
) -> dict[str, float]:
    """Return what each loss's weight is multiplied by, so that gradients are equally long at first.

    One training step at weight 0 is run for each kind, with the first seed: all see the same
    rollouts, and scale = |dL_default/dh| / |dL_kind/dh| over the anchor states of that step. This
    matches the first step alone; later the norms go their own ways, which the figures show.

    Raises:
        GeomrlError: a measurement failed, or a kind had no gradient in that step.
    """
    if not grid.match_gradient_norm or len(plan.kinds) < 2:
        return dict.fromkeys(plan.kinds, 1.0)
    path = out / "scales.json"
    norms: dict[str, float] = read_json(path)["gradient_norms"] if path.exists() else {}
    seed = grid.seeds[0]
    wanted = {
        kind: Job(
            name=f"gradient norm of {kind}",
            config=_one_step(plan, kind, seed),
            out=out / "scales" / folder_name(kind),
            keep_models=False,
            code=code,
        )
        for kind in plan.kinds
        if kind not in norms
    }
    with progress_bar("matching", "losses", show=show and bool(wanted)) as bar:
        failed = run_jobs(list(wanted.values()), jobs, bar.set)
    if failed:
        raise GeomrlError(
            f"{out}: the gradient norms could not be measured ({_listed(failed)}); mend it, or set"
            " match_gradient_norm: false"
        )
    for kind, job in wanted.items():
        norms[kind] = float(read_metrics(job.out).reindex(columns=[_NORM])[_NORM].iloc[-1])
        if not norms[kind] > 0:
            raise GeomrlError(
                f"{out}: the loss '{kind}' has no gradient in the first step (no group with two"
                " rollouts to align?); raise data.prompts_per_step, leave it out, or set"
                " match_gradient_norm: false"
            )
    write_json(path, {"seed": seed, "default": plan.kinds[0], "gradient_norms": norms})
    return {kind: norms[plan.kinds[0]] / norms[kind] for kind in plan.kinds}


def _one_step(plan: Plan, kind: str, seed: int) -> TrainConfig:
    changes: dict[str, Any] = {
        "seed": seed,
        "steps": 1,
        "alignment.kind": kind,
        "alignment.weight": 0.0,
        "evaluation": None,
        "log.tensorboard": False,
        "log.wandb": None,
    }
    return override(plan.arm(DEFAULT).config, changes, f"gradient norm of {kind}")


def _results(planned: dict[tuple[str, int], Job], failed: dict[str, str]) -> pd.DataFrame:
    rows = []
    for (arm, seed), job in planned.items():
        if job.name in failed:
            continue
        alignment = job.config.alignment
        found = final_metrics(job.out, job.config.steps)
        rows += [
            {
                "arm": arm, "seed": seed, "weight": alignment.weight if alignment else 0.0,
                "metric": metric, "value": value,
            }
            for metric, value in found.items()
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=["arm", "seed", "weight", "metric", "value"])


def _findings(out: Path, plan: Plan, results: pd.DataFrame, scales: dict[str, float]) -> Ablation:
    if not (results["metric"] == PRIMARY).any():
        raise GeomrlError(
            f"{out}: no run was evaluated after its last step, so there is nothing to compare; see"
            f" the logs in {out / 'arms'}"
        )
    default = plan.arm(DEFAULT).config
    assert default.alignment is not None
    metrics = results["metric"].unique().tolist()
    place = headline_place(
        metrics, user_code_name(default.alignment.anchor), default.alignment.layers[-1]
    )
    levels = pd.DataFrame(plan.levels, columns=["factor", "level", "arm"])
    table = compare(results, plan)
    return Ablation(
        path=out,
        results=results,
        table=table,
        levels=levels,
        scales=scales,
        place=place,
        policy=default.model.name,
    )


def _raise_if_failed(failed: dict[str, str], total: int, out: Path) -> None:
    if failed:
        raise GeomrlError(
            f"{out}: {len(failed)} of {total} runs failed: {_listed(failed)}. The tables hold the"
            " others; the same command tries these again"
        )


def _listed(failed: dict[str, str]) -> str:
    shown = [f"{name}: {message}" for name, message in list(failed.items())[:_NAMED]]
    return "; ".join([*shown, *list(failed)[_NAMED:]])
