"""The paper's ablation of the loss, with the negative controls that it lacks beside it."""

from geomrl.reproduce.ablations import ablation_analysis

ANALYSIS = ablation_analysis(
    "loss",
    "Which loss? Kinds of alignment loss against none, at matched first gradients",
    "the seven kinds; weights are matched so that first gradients are equally long.",
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
