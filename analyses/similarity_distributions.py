"""The distributions of cosine similarity at the anchor (the paper's Appendix A), raw and centred."""

from pathlib import Path

from geomrl import open_run
from geomrl.reproduce import Analysis, Finding
from geomrl.viz.figures import Skipped, make_pictures


def distributions(probed: Path) -> Finding:
    """Return the histograms of pairs at `before_marker` and at `marker_end`."""
    run = open_run(probed)
    pictures = []
    for anchor in ("before_marker", "marker_end"):
        for _, picture in make_pictures(run, anchor=anchor, umap=False):
            if picture.name == "cosine_distributions" and not isinstance(picture, Skipped):
                pictures.append(picture.named(f"cosine_distributions_{anchor}"))
    return Finding(
        [
            "Correct pairs can only be called close beside what pairs of different problems have in "
            "common at the same position: the floor. The lines mark each cell's mean over problems, "
            "not over pairs."
        ],
        pictures,
    )


ANALYSIS = Analysis(
    question="How are cosines of correct, wrong and mixed pairs distributed at the anchor?",
    needs=("probed",),
    answer=distributions,
    paper=["Appendix A shows distributions of cosine similarity; its cells are not public."],
    assumed=[
        "cells, their weighting, the floor and centring are ours; at most 50,000 pairs a cell."
    ],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
