"""Draw whatever a folder holds: an ablation, evaluation, comparison, training or probed run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def draw_folder(
    run: Path,
    out: Path | None = None,
    *,
    encoder: str | None = None,
    layer: str = "final",
    anchor: str = "before_marker",
    seed: int = 0,
    umap: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Draw the pictures that fit a folder's content; return the files written.

    Args:
        run: the folder.
        out: the folder to write in; RUN/figures by default.
        encoder: whose states, where a probed run holds several; as are the next four, it is for
            probed runs alone.
        layer: see `viz.figures.draw_figures`.
        anchor: the same.
        seed: the same.
        umap: the same.
        progress: called with the number of pictures done and of all.

    Raises:
        GeomrlError: the folder holds none of the five, or what it holds cannot be read.
    """
    from geomrl.ablate.findings import TABLE, read_ablation
    from geomrl.evaluate.comparison import VERDICT, open_comparison
    from geomrl.viz.accuracy import draw_evaluation, is_evaluation
    from geomrl.viz.training import draw_training, is_training_run

    if (Path(run) / TABLE).exists():
        from geomrl.viz.ablation import draw_ablation

        return draw_ablation(read_ablation(run), out, progress=progress)
    if is_evaluation(run):
        return draw_evaluation(run, out, progress=progress)
    if (Path(run) / VERDICT).exists():
        from geomrl.viz.comparison import draw_comparison

        return draw_comparison(open_comparison(run), out, progress=progress)
    if is_training_run(run):
        return draw_training(run, out, progress=progress)
    from geomrl.run import open_run
    from geomrl.viz.figures import draw_figures

    return draw_figures(
        open_run(run, encoder=encoder), out, layer=layer, anchor=anchor, seed=seed, umap=umap,
        progress=progress,
    )  # fmt: skip
