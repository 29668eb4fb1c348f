"""Do the negative-control arms do what alignment of correct rollouts does?"""

from pathlib import Path

from geomrl.reproduce import Analysis, Finding
from geomrl.reproduce.contrasted import controls_finding


def controls(ablation: Path) -> Finding:
    """Return which effects of the default the controls share, and what could be seen."""
    return controls_finding(ablation)


ANALYSIS = Analysis(
    question="Do negative controls do what aligning correct rollouts does?",
    needs=("ablation",),
    answer=controls,
    paper=["the aligned arm: cosine of correct rollouts' states just before the answer marker."],
    assumed=[
        "the four controls: wrong rollouts, shuffled correctness, shuffled groups, a random position; "
        "the paper has none.",
        "the controls have the weight of the default arm.",
    ],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
