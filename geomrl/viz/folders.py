"""Draw whatever a folder contains: an ablation, evaluation, comparison, training or probed run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from geomrl.errors import GeomrlError
from geomrl.progress import Progress
from geomrl.runs.layout import folder_kinds


def draw_folder(
    run: Path,
    out: Path | None = None,
    *,
    encoder: str | None = None,
    layer: str = "final",
    anchor: str = "before_marker",
    seed: int = 0,
    umap: bool = True,
    figures: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[Path]:
    """Draw the pictures that fit a folder's content; return the files written.

    Args:
        run: the folder.
        out: the folder to write in; RUN/figures by default.
        encoder: whose states, where a probed run contains several; as are the next five, it is
            for probed runs alone.
        layer: see `viz.probed.draw_figures`.
        anchor: the same.
        seed: the same.
        umap: the same.
        figures: the same; other folders refuse it.
        progress: called with the number of pictures done and of all.

    Raises:
        GeomrlError: the folder contains none of the five, or what it contains cannot be read.
    """
    kinds = folder_kinds(run)
    others = [kind for kind in kinds if kind not in ("probed run", "rollouts")]
    if figures and others:
        raise GeomrlError(
            f"{run}: {figures[0]} is drawn from a probed run, and this is of another kind "
            f"({others[0]}); leave --figure out"
        )
    if "ablation" in kinds:
        from geomrl.ablate.ablation import read_ablation
        from geomrl.viz.ablation import draw_ablation

        return draw_ablation(read_ablation(run), out, progress=progress)
    if "evaluation" in kinds:
        from geomrl.viz.accuracy import draw_evaluation

        return draw_evaluation(run, out, progress=progress)
    if "comparison" in kinds:
        from geomrl.compare.comparison import open_comparison
        from geomrl.viz.comparison import draw_comparison

        return draw_comparison(open_comparison(run), out, progress=progress)
    if "training" in kinds:
        from geomrl.viz.training import draw_training

        return draw_training(run, out, progress=progress)
    from geomrl.runs.run import open_run
    from geomrl.viz.probed import draw_figures

    return draw_figures(
        open_run(run, encoder=encoder), out, layer=layer, anchor=anchor, seed=seed, umap=umap,
        figures=figures, progress=progress,
    )  # fmt: skip
