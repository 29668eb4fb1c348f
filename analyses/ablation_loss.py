"""The paper's ablation of the loss, with the negative controls that it lacks beside it."""

from pathlib import Path

from geomrl.reproduce import Analysis, Finding
from geomrl.reproduce.ablations import ablation_finding


def ablation(ablation: Path) -> Finding:
    """Return the picture of the loss and its table."""
    return ablation_finding(ablation, "loss")


ANALYSIS = Analysis(
    question="Which loss? Kinds of alignment loss against none, at matched first gradients",
    needs=("ablation",),
    answer=ablation,
    paper=["that the loss is ablated; its values are not public."],
    assumed=[
        "the seven kinds; weights are matched so that first gradients are equally long.",
        "the negative controls and the interval over training seeds.",
    ],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
