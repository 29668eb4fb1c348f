"""Do correct rollouts converge at the anchor? Cosines along the response, every control beside them."""

from pathlib import Path

from geomrl import open_run
from geomrl.reproduce import Analysis, Finding
from geomrl.reproduce.finding import interval
from geomrl.viz.figures import Skipped, make_pictures

_CELLS = ("CC", "II", "II_same_answer", "CI", "floor", "CC-II", "CC-II_same_answer")


def converge(probed: Path) -> Finding:
    """Return cosines by position, and their values just before and in the marker."""
    run = open_run(probed)
    pictures = [
        picture
        for _, picture in make_pictures(run, umap=False)
        if picture.name in ("cosine_by_position", "contrasts_by_position")
        and not isinstance(picture, Skipped)
    ]
    chosen = (
        "measure == 'cosine' and weighting == 'problem' and layer == 'final' and cell in @_CELLS"
    )
    table = run.similarity.query(chosen)
    columns = [
        "anchor",
        "space",
        "cell",
        "value",
        "low",
        "high",
        "p",
        "n_problems",
        "n_boot",
        "seed",
    ]
    values = {
        (row["anchor"], row["space"], row["cell"]): row for row in table.to_dict("records")
    }  # fmt: skip
    says = []
    for anchor in ("before_marker", "marker_end"):
        cells = {
            cell: interval(*(values[anchor, "raw", cell][c] for c in ("value", "low", "high")))
            for cell in _CELLS
        }
        says.append(
            f"At `{anchor}`, final norm, raw: CC {cells['CC']}, II {cells['II']}, floor (different "
            f"problems) {cells['floor']}; matched CC - II {cells['CC-II']}, and against wrong "
            f"rollouts that agree on their answer {cells['CC-II_same_answer']}."
        )
    return Finding(says, pictures, {"cosines": table[columns]}, shown=())


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
