"""The distributions of cosine similarity at the anchor (the paper's Appendix A), raw and centred."""

from pathlib import Path

from geomrl import open_run
from geomrl.reproduce import Analysis, Finding
from geomrl.reproduce.probed import cell_sentences, named_pictures
from geomrl.reproduce.runs import ANCHORS
from geomrl.viz import distributions as cosine_distributions


def distributions(probed: Path) -> Finding:
    """Return the histograms of pairs at `before_marker` and at `marker_end`."""
    run = open_run(probed)
    pictures = [
        picture
        for anchor in ANCHORS
        for picture in named_pictures(
            run, (cosine_distributions.make,), anchor=anchor, suffix=anchor
        )
    ]
    return Finding(
        [
            *[sentence for anchor in ANCHORS for sentence in cell_sentences(run, anchor)],
            "Correct pairs can only be called close beside what pairs of different problems have in "
            "common at the same position: the floor. The lines mark each cell's mean over problems, "
            "not over pairs.",
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
