"""How much of "correct are closer" is agreement on the answer? By anchor, raw and centred."""

from pathlib import Path

from geomrl.reproduce import Analysis, Finding
from geomrl.reproduce.agreement import agreement_finding


def answer_agreement(probed: Path) -> Finding:
    """Return CC - II against all wrong rollouts and against those that agree, by anchor."""
    return agreement_finding(probed)


ANALYSIS = Analysis(
    question="How much of 'correct are closer' is agreement on the answer?",
    needs=("probed",),
    answer=answer_agreement,
    paper=["correct rollouts are compared just before the answer marker, in the last layer."],
    assumed=[
        "wrong rollouts that agree are the control; answers agree where the verifier takes them for "
        "equal.",
        "'last layer' is the state after the final norm; problems weigh alike.",
    ],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
