"""The paper's own falsification criteria, judged on any pair of arms of training runs."""

from geomrl.reproduce import Analysis, Arms, Finding
from geomrl.reproduce.settling import settle_finding


def settle(arms: Arms) -> Finding:
    """Return supported, not supported or undecided, with the evidence and its power."""
    return settle_finding(arms)


ANALYSIS = Analysis(
    question="Is the claim supported? Correct closer than incorrect at the anchor, and a gain in pass@1",
    needs=("arms",),
    answer=settle,
    paper=[
        "the two criteria, the anchor just before the marker, and the smallest gain that matters: "
        "+3.8 points, the smallest that it claims.",
    ],
    assumed=[
        "a cosine difference matters from .05 on; the first criterion is decided by trainings "
        "without the loss, by the raw matched CC - II after the final norm.",
        "95 % t intervals over training seeds; fewer than three seeds an arm are undecided.",
    ],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
