"""The commands of training: train, export, ablate."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geomrl.errors import GeomrlError
from geomrl.progress import first_rank, friendly, say

if TYPE_CHECKING:
    from geomrl.ablate.ablation import Ablation
    from geomrl.train.config import TrainConfig

train_app = typer.Typer()
HEAD_START = 10  # seconds: a launcher kills rank 0, before it has spoken, if another leaves first

Config = Annotated[Path, typer.Argument(help="Configuration, such as configs/quickstart.yaml.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE: change a setting, such as alignment.weight=0."),
]


@train_app.command(epilog="Example: geomrl train configs/quickstart.yaml --set training.steps=50")
@friendly
def train(
    config: Config,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Run directory; runs/train-<name of CONFIG> by default."),
    ] = None,
    change: Sets = None,
    peak: Annotated[
        float | None,
        typer.Option(help="Dense bfloat16 TFLOP/s of a device that geomrl does not know, for MFU."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Build all but the weights, print settings and sizes; start nothing."
        ),
    ] = False,
) -> None:
    """Train by reinforcement learning (DAPO), with the alignment of hidden states where asked.

    Started by itself it runs `deepspeed.processes` ranks on this machine. Several GPUs or nodes take
    `deepspeed` or `torchrun`: the headers of the larger configurations contain the exact commands.
    """
    run = out or Path("runs") / f"train-{config.stem}"
    given = [f"log.peak={peak}"] if peak is not None else []
    settings = _checked(config, [*(change or []), *given], run, dry_run=dry_run)
    if dry_run:
        return
    if "WORLD_SIZE" not in os.environ and settings.deepspeed.processes > 1:
        from geomrl.train.preflight import check_folder

        check_folder(run, resume=resume)
        _launch(settings.deepspeed.processes)
        return
    from geomrl.cli.run_tables import print_training
    from geomrl.train.outcome import outcome
    from geomrl.train.trainer import train as run_training

    run_training(settings, run, resume=resume, show=first_rank())
    if first_rank():
        found = outcome(run, seed=settings.seed)
        if found is not None:
            print_training(run, found)
        say(
            f"{run / 'model'}: the trained model; `geomrl probe` reads it, `geomrl figures` draws {run}"
        )


@train_app.command(epilog="Example: geomrl export runs/quickstart --out my-model")
@friendly
def export(
    run: Annotated[Path, typer.Argument(help="Run directory of a training.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the Hugging Face model.")],
    step: Annotated[
        int | None, typer.Option(help="Training step; the newest checkpoint by default.", min=0)
    ] = None,
) -> None:
    """Write a checkpoint of a training run as a plain Hugging Face folder."""
    from geomrl.train.export import export as run_export

    folder = run_export(run, out, step=step)
    say(f"{folder}: a Hugging Face folder; `geomrl probe {folder} ...` reads it")


@train_app.command(
    epilog="Example: geomrl ablate configs/quickstart.yaml --grid GRID.yaml --out runs/ablation"
)
@friendly
def ablate(
    config: Config,
    grid: Annotated[Path, typer.Option(help="YAML: the factors, their values, and the seeds.")],
    out: Annotated[Path, typer.Option("--out", help="Folder; made, or gone on with.")],
    jobs: Annotated[int, typer.Option(help="Runs at once.", min=1)] = 1,
    change: Sets = None,
) -> None:
    """Train variants of a configuration over seeds, and compare them with alignment weight 0."""
    from geomrl.ablate.run import ablate as run_ablation
    from geomrl.cli.ablation_tables import print_ablation
    from geomrl.train.config import load_config
    from geomrl.viz.ablation import draw_ablation

    def show(ablation: Ablation) -> None:
        draw_ablation(ablation)
        print_ablation(ablation)

    run_ablation(load_config(config, change or []), grid, out, jobs=jobs, finished=show)


def _launch(processes: int) -> None:
    """Run this very command once a rank, as torchrun does."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser, run

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun sets it, with a warning
    # A rank has said what went wrong; where in the launcher that was noticed helps nobody.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    ranks = ["--standalone", "--nproc-per-node", str(processes), "-m", "geomrl.cli"]
    try:
        run(get_args_parser().parse_args([*ranks, *sys.argv[1:]]))
    except ChildFailedError as error:
        raise typer.Exit(1) from error
    except SignalException as error:
        if error.sigval != signal.SIGINT:
            raise typer.Exit(128 + error.sigval) from error
        raise KeyboardInterrupt from error


def _checked(path: Path, changes: list[str] | None, run: Path, *, dry_run: bool) -> TrainConfig:
    """Load and check the configuration.

    Every rank finds the same faults here, so that all but rank 0 leave without a word. What the
    check has to say is printed for a dry run only: the training shows it by itself.
    """
    try:
        from geomrl.train.config import load_config, resolved_yaml

        settings = load_config(path, changes or [])
        ranks = int(os.environ.get("WORLD_SIZE", settings.deepspeed.processes))
        if dry_run and first_rank():
            typer.echo(resolved_yaml(settings))
        from geomrl.train.preflight import check

        lines = check(settings, ranks, run, dry_run=dry_run)
    except GeomrlError as error:
        if first_rank():
            raise
        time.sleep(HEAD_START)
        raise typer.Exit(1) from error
    for line in lines if dry_run and first_rank() else []:
        typer.echo(f"# {line}")
    return settings
