"""Do correct rollouts converge at the anchor? Cosines along the response, every control beside them."""

from pathlib import Path

from geomrl import open_run
from geomrl.reproduce import Analysis, Finding
from geomrl.reproduce.probed import cell_sentences, cell_table, named_pictures
from geomrl.reproduce.runs import ANCHORS
from geomrl.viz import contrasts, profiles


def converge(probed: Path) -> Finding:
    """Return cosines by position, and their values just before and in the marker."""
    run = open_run(probed)
    pictures = named_pictures(run, (profiles.make_by_position, contrasts.make_by_position))
    says = [sentence for anchor in ANCHORS for sentence in cell_sentences(run, anchor)]
    columns = ["benchmark", "anchor", "space", "cell", "value", "low", "high", "p"]
    table = cell_table(run)[[*columns, "n_problems", "n_boot", "seed"]]
    return Finding(says, pictures, {"cosines": table}, shown=())


ANALYSIS = Analysis(
    question="Do verified-correct rollouts of a problem converge at the anchor?",
    needs=("probed",),
    answer=converge,
    paper=["cosine of correct rollouts' last-layer states just before the answer marker."],
    assumed=[
        "the marker is `\\boxed{`; 'last layer' is the state after the final norm; a cell weights "
        "problems equally.",
        "all controls (II, same wrong answer, CI, floor) and spaces: the paper names none.",
    ],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
