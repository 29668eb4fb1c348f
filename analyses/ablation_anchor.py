"""The paper's ablation of the anchor, with the negative controls that it lacks beside it."""

from geomrl.reproduce.ablations import ablation_analysis

ANALYSIS = ablation_analysis(
    "anchor",
    "Which position? The loss at four anchors against none",
    "the four positions.",
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
