"""The premise: is the residual variance of correct rollouts noise, and what does removing it do?"""

from geomrl.reproduce import Analysis
from geomrl.reproduce.premise import premise_finding

ANALYSIS = Analysis(
    question="Is the residual variance of correct rollouts noise?",
    needs=("probed", "variants"),
    answer=premise_finding,
    paper=[
        "that the residual variance of correct rollouts just before the answer marker is noise is "
        "its premise; it reports no test of it."
    ],
    assumed=[
        "the residual share: variance within a problem over all variance, on un-normalised states "
        "after the final norm (on unit vectors it would be the loss itself), from draws of 4 correct "
        "rollouts of each problem.",
        "accuracy on variants as what noise would hurt: the bundled ones are reworded, reordered "
        "and renumbered.",
        "difficulty as the share of wrong rollouts among independent ones.",
        "the arms of the intervention; `marker_end` beside the paper's anchor.",
    ],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
