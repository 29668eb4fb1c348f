"""The command `geomrl figures`: every picture of a folder, or everything from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomrl.cli.options import Seed
from geomrl.cli.shared import say_drawn
from geomrl.errors import GeomrlError
from geomrl.progress import friendly, progress_bar, say

figures_app = typer.Typer()


@figures_app.command(epilog="Example: geomrl figures runs/quickstart, or geomrl figures --all")
@friendly
def figures(
    run: Annotated[Path | None, typer.Argument(help="Run directory.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Regenerate every figure and table, from nothing.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder; RUN/figures, or with --all figures.")
    ] = None,
    layer: Annotated[str, typer.Option(help="Layer of the single-layer pictures.")] = "final",
    anchor: Annotated[
        str, typer.Option(help="Anchor of the single-anchor pictures.")
    ] = "before_marker",
    encoder: Annotated[str | None, typer.Option(help="Where RUN has states of several.")] = None,
    umap: Annotated[bool, typer.Option(help="Draw the UMAP too (slow at first).")] = True,
    figure: Annotated[
        list[str] | None, typer.Option(help="A figure of your own beside them: FILE.py:FUNCTION.")
    ] = None,
    seed: Seed = 0,
    analyses: Annotated[Path, typer.Option(help="With --all: folder of the scripts.")] = Path(
        "analyses"
    ),
    runs: Annotated[
        Path, typer.Option(help="With --all: folder of the runs that are made.")
    ] = Path("runs/figures"),
    jobs: Annotated[int, typer.Option(help="With --all: trainings at once.", min=1)] = 1,
) -> None:
    """Draw every picture of a run, training, ablation, evaluation or comparison: PNG, PDF, CSV.

    With --all: make the bundled runs and regenerate every figure and table of analyses/.

    \f
    Its parameters are the command's options.
    """
    if every == (run is not None):
        raise GeomrlError("name a run directory, or give --all: one of the two")
    if run is None and figure:
        raise GeomrlError("--figure: for a run directory alone; leave --all out, or the figure")
    if run is None:
        from geomrl.reproduce.everything import reproduce

        written = reproduce(
            out or Path("figures"), analyses=analyses, runs=runs, jobs=jobs, say=say
        )
        say(f"{len(written)} files; begin with {written[-2]}")
        return
    from geomrl.viz.folders import draw_folder

    with progress_bar("figures", "pictures") as bar:
        paths = draw_folder(
            run, out, encoder=encoder, layer=layer, anchor=anchor, umap=umap, seed=seed,
            figures=figure or (), progress=bar.set,
        )  # fmt: skip
    say_drawn(paths, out)
