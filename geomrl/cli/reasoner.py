"""The command `geomrl reasoner train`: make the bundled checkpoint again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomrl.cli.options import Seed
from geomrl.progress import friendly

reasoner_app = typer.Typer(no_args_is_help=True, help="The bundled tiny reasoner.")


@reasoner_app.command("train", epilog="Example: geomrl reasoner train --out my-reasoner --seed 0")
@friendly
def reasoner_train(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.")],
    seed: Seed = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
) -> None:
    """Train the bundled reasoner from nothing: a few CPU-minutes."""
    from geomrl.cli.run_tables import print_reasoner
    from geomrl.models.loading import quiet_transformers
    from geomrl.reasoner.train import ReasonerConfig, train_reasoner

    quiet_transformers()
    print_reasoner(train_reasoner(ReasonerConfig(seed=seed), out, overwrite=overwrite), out)
