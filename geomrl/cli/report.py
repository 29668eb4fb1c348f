"""The command `geomrl report`: run directories as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomrl.progress import friendly, say

report_app = typer.Typer()


@report_app.command(epilog="Example: geomrl report runs/quickstart --out report.html")
@friendly
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run directories: probed, trained, ablated, evaluated or compared.",
            metavar="RUN...",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The HTML file.")] = Path("report.html"),
    layer: Annotated[
        str | None, typer.Option(help="Layer of the neighbours; 'final' where stored.")
    ] = None,
    anchor: Annotated[
        str | None, typer.Option(help="Anchor that is shown; 'before_marker' where stored.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Where RUN has states of several.")] = None,
    max_rollouts: Annotated[
        int, typer.Option(help="Rollouts of a run whose text is in the page.", min=1)
    ] = 1000,
    max_chars: Annotated[
        int, typer.Option(help="Characters of a response; longer ones are cut.", min=30)
    ] = 6000,
    neighbours: Annotated[int, typer.Option(help="Nearest neighbours a rollout.", min=0)] = 8,
    seed: Annotated[
        int, typer.Option(help="Of the draw of rollouts and the floor's interval.")
    ] = 0,
) -> None:
    """Write one HTML page that needs no network: figures, plots, tables, rollouts, settings."""
    from geomrl.report.page import write_report
    from geomrl.report.rollouts import ReportSettings

    settings = ReportSettings(
        layer=layer,
        anchor=anchor,
        encoder=encoder,
        max_rollouts=max_rollouts,
        max_chars=max_chars,
        neighbours=neighbours,
        seed=seed,
    )
    path = write_report(runs, out, settings=settings)
    say(f"{path}: {path.stat().st_size / 1e6:.1f} MB; open it in a browser")
