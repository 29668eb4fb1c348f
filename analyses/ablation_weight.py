"""The paper's ablation of the weight, with the negative controls that it lacks beside it."""

from pathlib import Path

from geomrl.reproduce import Analysis, Finding
from geomrl.reproduce.ablations import ablation_finding


def ablation(ablation: Path) -> Finding:
    """Return the picture of the weight and its table."""
    return ablation_finding(ablation, "weight")


ANALYSIS = Analysis(
    question="Which weight? From 0 to 0.1",
    needs=("ablation",),
    answer=ablation,
    paper=["that the weight is ablated; its values are not public."],
    assumed=[
        "the weights; the paper's are not public.",
        "the negative controls and the interval over training seeds.",
    ],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
