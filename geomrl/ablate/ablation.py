"""What an ablation left in its folder: tables, levels, and what they were made with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.files import read_json, read_parquet, write_csv, write_json, write_parquet
from geomrl.runs.layout import ABLATION


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """What an ablation found.

    `results`: one row a run and metric: arm, seed, weight (the alignment weight it was trained
    with), metric, value. `table`: the comparisons, as `table.compare` returns them. `levels`:
    factor, level, arm. `scales`: what each loss's weight was multiplied by to match gradient norms.
    `place`: "ANCHOR/LAYER" whose geometry stands for the arms', None where none was evaluated.
    """

    path: Path
    results: pd.DataFrame
    table: pd.DataFrame
    levels: pd.DataFrame
    scales: dict[str, float]
    place: str | None
    policy: str


def write_ablation(ablation: Ablation) -> None:
    """Write ablation.parquet and .csv, results.parquet and .csv, and ablation.json."""
    out = ablation.path
    facts = {
        "policy": ablation.policy,
        "place": ablation.place,
        "scales": ablation.scales,
        "levels": ablation.levels.to_dict("records"),
    }
    write_json(out / "ablation.json", facts)
    write_parquet(out / "results.parquet", ablation.results)
    write_csv(out / "results.csv", ablation.results)
    write_csv(out / "ablation.csv", ablation.table)
    write_parquet(out / ABLATION, ablation.table)


def read_ablation(path: Path | str) -> Ablation:
    """Read what `write_ablation` wrote.

    Raises:
        GeomrlError: the folder contains no finished ablation.
    """
    out = Path(path)
    if not (out / ABLATION).exists():
        raise GeomrlError(
            f"{out}: no ablation (no {ABLATION} in it); make one with `geomrl ablate`"
        )
    facts = read_json(out / "ablation.json")
    return Ablation(
        path=out,
        results=read_parquet(out / "results.parquet"),
        table=read_parquet(out / ABLATION),
        levels=pd.DataFrame(facts["levels"], columns=["factor", "level", "arm"]),
        scales=facts["scales"],
        place=facts["place"],
        policy=facts["policy"],
    )
