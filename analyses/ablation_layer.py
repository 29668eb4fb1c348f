"""The paper's ablation of the layer, with the negative controls that it lacks beside it."""

from pathlib import Path

from geomrl.reproduce import Analysis, Finding
from geomrl.reproduce.ablations import ablation_finding


def ablation(ablation: Path) -> Finding:
    """Return the picture of the layer and its table."""
    return ablation_finding(ablation, "layer")


ANALYSIS = Analysis(
    question="Which layer? The loss at each depth against none",
    needs=("ablation",),
    answer=ablation,
    paper=["that the layer is ablated; its values are not public."],
    assumed=[
        "layers are counted after each block; `final` is after the final norm.",
        "the negative controls and the interval over training seeds.",
    ],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
