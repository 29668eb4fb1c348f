"""Alignment or collapse, per loss variant and weight: what moved together?"""

from pathlib import Path

from geomrl.reproduce import Analysis, Finding
from geomrl.reproduce.contrasted import collapse_finding


def collapse(ablation: Path) -> Finding:
    """Return each arm's change of CC beside that of the floor, the centred cosine and the rank."""
    return collapse_finding(ablation)


ANALYSIS = Analysis(
    question="Alignment or collapse? Correct rollouts against all states, by loss and weight",
    needs=("ablation",),
    answer=collapse,
    paper=["that losses and weights are ablated; its values are not public."],
    assumed=[
        "the losses and the weights, matched so that first gradients are equally long.",
        "floor, centred cosine and effective rank beside CC: the paper reports none of them.",
    ],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
