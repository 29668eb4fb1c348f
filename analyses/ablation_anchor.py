"""The paper's ablation of the anchor, with the negative controls that it lacks beside it."""

from pathlib import Path

from geomrl.reproduce import Analysis, Finding
from geomrl.reproduce.ablations import ablation_finding


def ablation(ablation: Path) -> Finding:
    """Return the picture of the anchor and its table."""
    return ablation_finding(ablation, "anchor")


ANALYSIS = Analysis(
    question="Which position? The loss at four anchors against none",
    needs=("ablation",),
    answer=ablation,
    paper=["that the anchor is ablated; its values are not public."],
    assumed=[
        "the four positions.",
        "the negative controls and the interval over training seeds.",
    ],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
