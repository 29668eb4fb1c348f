"""The command `geomrl doctor`."""

from __future__ import annotations

import typer

from geomrl.progress import friendly

doctor_app = typer.Typer()


@doctor_app.command(epilog="Example: geomrl doctor")
@friendly
def doctor() -> None:
    """Say what is installed, what will run where, and what is missing."""
    from geomrl.cli.diagnosis import print_diagnosis

    print_diagnosis()
