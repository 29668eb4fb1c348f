"""The two arms that analyses compare: trainings without and with the alignment loss."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geomrl.errors import GeomrlError
from geomrl.runs.manifest import read_manifest
from geomrl.viz import theme

BASE, DAPO, ALIGNED = "base", "dapo", "aligned"
"""Names of the models in evaluations and comparisons; the two arms are followed by "-SEED"."""
LOOKS = {
    DAPO: theme.Look("#D55E00", "s", "DAPO"),
    ALIGNED: theme.Look("#0072B2", "o", "DAPO + alignment"),
}
"""How pictures show the arms."""


@dataclass(frozen=True)
class Arms:
    """Training runs without and with the alignment loss, one a seed; the k-th of both are a pair.

    Raises:
        GeomrlError: an arm is empty, both have different numbers of runs, or a pair has two seeds.
    """

    without: tuple[Path, ...]
    aligned: tuple[Path, ...]

    def __post_init__(self) -> None:
        if not self.without or len(self.without) != len(self.aligned):
            raise GeomrlError(
                f"{len(self.without)} runs without and {len(self.aligned)} with the alignment loss: "
                "runs are compared in pairs of one seed, so name as many of both"
            )
        for one, other in zip(self.without, self.aligned, strict=True):
            seeds = [_seed(run) for run in (one, other)]
            if seeds[0] != seeds[1]:
                raise GeomrlError(
                    f"{one} was trained with seed {seeds[0]}, {other} with seed {seeds[1]}: name the "
                    "runs of both arms in the same order of seeds"
                )

    @property
    def seeds(self) -> tuple[int, ...]:
        """The training seeds."""
        return tuple(_seed(run) for run in self.without)

    @classmethod
    def of_ablation(cls, folder: Path, arm: str = "default") -> Arms:
        """Return an ablation's arm, and its baseline, over the seeds that both have.

        Raises:
            GeomrlError: the folder has no such arm, or no seed in common.
        """
        runs = [
            {
                path.name: path
                for path in (Path(folder) / "arms" / name).glob("seed-*")
                if path.is_dir()
            }
            for name in ("baseline", arm)
        ]
        common = sorted(runs[0].keys() & runs[1].keys(), key=lambda n: int(n.split("-")[1]))
        if not common:
            raise GeomrlError(
                f"{folder}: no seed of the arms 'baseline' and '{arm}' in arms/; name an ablation"
            )
        return cls(tuple(runs[0][n] for n in common), tuple(runs[1][n] for n in common))


def _seed(run: Path) -> int:
    train = read_manifest(run).get("train")
    if train is None:
        raise GeomrlError(f"{run}: no training run (no training in its manifest.json)")
    return int(train["settings"]["seed"])
