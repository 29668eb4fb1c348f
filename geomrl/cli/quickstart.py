"""The command `geomrl quickstart`: the central analysis on the bundled reasoner."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomrl.cli.options import Out, Samples, Seed
from geomrl.cli.shared import say_drawn
from geomrl.progress import friendly, progress_bar, say

quickstart_app = typer.Typer()


@quickstart_app.command(epilog="Example: geomrl quickstart --out runs/quickstart")
@friendly
def quickstart(
    out: Out = Path("runs/quickstart"),
    limit: Annotated[int, typer.Option(help="Held-out problems.", min=4)] = 200,
    n: Samples = 16,
    seed: Seed = 0,
    umap: Annotated[
        bool | None,
        typer.Option(
            "--umap/--no-umap", help="Draw the UMAP too; by itself where umap-learn is installed."
        ),
    ] = None,
) -> None:
    """The paper's central analysis on the bundled reasoner: rollouts, states, similarity, pictures."""
    from geomrl.cli.run_tables import print_headline
    from geomrl.models.options import ModelOptions
    from geomrl.probe.steps import probe_states
    from geomrl.rollout.engine import Sampling
    from geomrl.rollout.generate import RolloutConfig
    from geomrl.rollout.steps import make_rollouts
    from geomrl.viz.embedding import draws_umap
    from geomrl.viz.probed import draw_figures

    with_umap = draws_umap(umap, say=say)  # before a minute of work, not after
    loaded = ModelOptions(devices="cpu").load("reasoner")
    config = RolloutConfig(n=n, seed=seed, chunk=320, sampling=Sampling(max_tokens=192))
    make_rollouts(loaded, "arithmetic", out, config=config, limit=limit, say=say)
    run = probe_states(loaded, out, seed=seed, say=say)
    with progress_bar("figures", "pictures") as bar:
        paths = draw_figures(run, umap=with_umap, seed=seed, progress=bar.set)
    say_drawn(paths, None)
    print_headline(run)
    say(
        "The wording of this task was chosen so that it is worth measuring; a cosine near .84 here "
        "reproduces nothing of the paper's."
    )
