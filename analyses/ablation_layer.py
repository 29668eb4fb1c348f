"""The paper's ablation of the layer, with the negative controls that it lacks beside it."""

from geomrl.reproduce.ablations import ablation_analysis

ANALYSIS = ablation_analysis(
    "layer",
    "Which layer? The loss at each depth against none",
    "layers are counted after each block; `final` is after the final norm.",
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
