"""The paper's pass@k curves: base model, DAPO, and DAPO with alignment."""

from pathlib import Path

from geomrl.compare.arms import arm_differences, arm_values
from geomrl.reproduce import Analysis, Finding
from geomrl.reproduce.arms import ALIGNED, DAPO
from geomrl.reproduce.evaluations import open_arms
from geomrl.reproduce.finding import interval
from geomrl.viz.accuracy import draw_pass_curves


def pass_at_k(evaluation: Path) -> Finding:
    """Return the curves by arm and benchmark, and the gain at every k."""
    found = open_arms(evaluation)
    measures = [str(name) for name in found.scores if str(name).startswith("pass@")]
    values = arm_values(found.scores, measures, **found.draws)
    frame = values.rename(columns={"arm": "model"}).assign(
        k=values["measure"].str.removeprefix("pass@").astype(int),
        measure="pass",
        n_samples=int(found.scores["samples"].max()),
    )
    gains = arm_differences(
        found.scores, measures, ALIGNED, DAPO, alone=[found.whole], **found.draws
    )
    whole = gains[gains["benchmark"] == found.whole].set_index("measure")
    each = [
        f"pass@{m.removeprefix('pass@')} {interval(*whole.loc[m, ['value', 'seeds_low', 'seeds_high']])}"
        for m in (measures[0], measures[len(measures) // 2], measures[-1])
    ]
    n = int(whole["n_seeds"].max())
    return Finding(
        [
            f"Alignment minus DAPO over {n} training seeds: {'; '.join(each)}. "
            "Bands are intervals over problems, of the mean over seeds."
        ],
        [draw_pass_curves(frame, seed=found.draws["seed"], name="pass_at_k")],
        {"gains": gains},
    )


ANALYSIS = Analysis(
    question="What does alignment do to pass@k?",
    needs=("evaluation",),
    answer=pass_at_k,
    paper=["'consistent pass@k gains'; k and the numbers are not public."],
    assumed=["sampling as in its sister paper (temperature .7, top-p .8, top-k 20), 64 samples."],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
