"""The paper's ablation of the weight, with the negative controls that it lacks beside it."""

from geomrl.reproduce.ablations import ablation_analysis

ANALYSIS = ablation_analysis(
    "weight",
    "Which weight? From 0 to 0.1",
    "the weights; the paper's are not public.",
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
