"""How to compare, and what cannot be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from geomrl.compare.verdict import Margins
from geomrl.errors import GeomrlError
from geomrl.probe.extraction import ExtractionConfig
from geomrl.problems.problem import Problem
from geomrl.rollout.generate import RolloutConfig


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """How to compare.

    `layer` and `anchor` are where the verdict is made; the paper's loss acts there too, so the
    verdict is beside those of all other places. `probe_anchors` get linear probes and RSA's
    permutation test. `measures` are measures of your own, each "FILE.py:NAME" of a
    `geomrl.compare.measures.measure.Measure`.
    """

    layer: str = "final"
    anchor: str = "before_marker"
    probe_anchors: tuple[str, ...] = ("before_marker", "marker_end")
    seed: int = 0
    n_boot: int = 1000
    n_perm: int = 999
    margins: Margins = field(default_factory=Margins)
    measures: tuple[str, ...] = ()


def check_settings(
    names: Sequence[str],
    config: CompareConfig,
    rollouts: RolloutConfig,
    extraction: ExtractionConfig,
) -> None:
    """Refuse what cannot be compared before a model is loaded.

    Raises:
        GeomrlError: see the message.
    """
    if len(names) < 2:
        raise GeomrlError("compare needs a base model and at least one other: BASE RL ...")
    if rollouts.n < 2:
        raise GeomrlError(
            f"-n {rollouts.n}: pairs of rollouts are compared, so take two a problem or more"
        )
    if config.anchor not in extraction.stored:
        raise GeomrlError(
            f"anchor {config.anchor} of the verdict is not among those read "
            f"({', '.join(extraction.stored)}); add it to --anchors or choose another --anchor"
        )
    if extraction.layers is not None and config.layer not in extraction.layers:
        raise GeomrlError(
            f"layer {config.layer} of the verdict is not among those read "
            f"({', '.join(extraction.layers)}); add it to --layers or choose another --layer"
        )


def check_distinct(problems: Sequence[Problem]) -> None:
    """Refuse a problem that is in the set twice: its two copies would count as two problems.

    Raises:
        GeomrlError: names the pair.
    """
    seen: dict[str, Problem] = {}
    for problem in problems:
        text = " ".join(problem.statement.split())
        other = seen.setdefault(text, problem)
        if other is not problem:
            raise GeomrlError(
                f"problem {problem.problem_id} of {problem.benchmark} has the same text as "
                f"{other.problem_id} of {other.benchmark}: intervals count problems as independent, "
                "so leave one of them out"
            )
