"""The paper's training curves: accuracy and geometry over training, with and without alignment."""

from geomrl.reproduce import Analysis, Arms, Finding
from geomrl.reproduce.curves import arm_metrics, arm_panel
from geomrl.reproduce.finding import interval
from geomrl.reproduce.runs import ALIGNED, DAPO
from geomrl.viz import theme
from geomrl.viz.curves import curve_frame, draw_curves

_PLACE = "eval/before_marker/final"
_PANELS = {
    "eval/pass@1": ("Held-out pass@1", ""),
    "reward/mean": ("Reward in training", ""),
    "length/mean": ("Response length", "tokens"),
    f"{_PLACE}/CC": ("CC, held out", "cosine"),
    f"{_PLACE}/floor": ("Floor, held out", "cosine"),
    f"{_PLACE}/CC_centred": ("CC centred, held out", "cosine"),
    f"{_PLACE}/CC-II": ("CC − II, held out", "cosine"),
    f"{_PLACE}/effective_rank": ("Effective rank, held out", ""),
    "entropy": ("Entropy of the policy", "nats"),
}


def training_curves(arms: Arms) -> Finding:
    """Return curves of both arms: means over seeds with their t intervals."""
    metrics = arm_metrics(arms, list(_PANELS))
    panels = [arm_panel(title, metric, unit) for metric, (title, unit) in _PANELS.items()]
    frame = curve_frame(metrics, panels)
    seeds = len(arms.seeds)
    picture = draw_curves(
        frame, panels, theme.Source("DAPO runs", "DAPO runs"),
        f"means over {seeds} training seeds ({', '.join(map(str, arms.seeds))})",
        "bands: 95 % t intervals over seeds", "geometry at before_marker, final norm",
        name="training_curves",
    )  # fmt: skip
    last = metrics.dropna(subset=[f"eval/pass@1:{DAPO}", f"eval/pass@1:{ALIGNED}"]).iloc[-1]
    told = []
    for metric in ("eval/pass@1", f"{_PLACE}/CC", f"{_PLACE}/floor", f"{_PLACE}/CC_centred"):
        if f"{metric}:{ALIGNED}" in last:
            values = [
                interval(*(last[f"{metric}:{arm}{end}"] for end in ("", "_low", "_high")))
                for arm in (DAPO, ALIGNED)
            ]
            told.append(f"{_PANELS[metric][0]}: {values[0]} without, {values[1]} with alignment")
    return Finding(
        [
            f"After step {int(last['step'])}, means over {seeds} seeds (t intervals over seeds). "
            f"{'; '.join(told)}.",
            "If the floor rises with CC and the centred CC does not, all problems move together. The "
            "paired tests are in `settle` and `before_after`.",
        ],
        [picture],
    )


ANALYSIS = Analysis(
    question="How do accuracy and geometry develop in training, with and without alignment?",
    needs=("arms",),
    answer=training_curves,
    paper=["DAPO, with and without Hidden-Align; its curves are not public."],
    assumed=["model, task, steps and rates are those of `configs/quickstart.yaml`, ours."],
)

if __name__ == "__main__":
    ANALYSIS.main(__file__)
