"""What a measure of change is: rows of the comparison's table, and how figures and page show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from geomrl.compare.encoder_change import GeometryEvidence, PairedStates
from geomrl.compare.rows import Place, Row
from geomrl.geometry.groups import Groups
from geomrl.stats.effect import Effect, mean_effect

BLUE, RED, GREEN = "#0072B2", "#D55E00", "#009E73"
ORANGE, PINK, GREY = "#E69F00", "#CC79A7", "#7A7A7A"
"""Colours of lines: Okabe and Ito's, as in all figures; grey is for what is expected by chance."""


@dataclass(frozen=True, kw_only=True)
class PlaceSettings:
    """How much is done: `probes` fits linear probes here, `n_perm` is RSA's number of permutations."""

    seed: int = 0
    n_boot: int = 1000
    n_perm: int = 0
    probes: bool = False
    k: int = 10


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Rollouts of the policies as both encoders read them at one layer and anchor: a measure's input.

    Attributes:
        place: layer and anchor; `place.row(...)` makes a row.
        sets: by policy ("base", "rl"), its rollouts' states by either encoder, [n, d] each.
        evidence: what the verdict rests on.
        lens: the logit lens here (policy, encoder, problem_id, gold_logprob); empty after the answer.
        settings: seed, bootstrap draws and what else is done here.
    """

    place: Place
    sets: Mapping[str, PairedStates]
    evidence: GeometryEvidence
    lens: pd.DataFrame
    settings: PlaceSettings

    @property
    def n_problems(self) -> int:
        """The problems of the policy that has fewest."""
        return min(paired.groups.n_problems for paired in self.sets.values())

    def one_policy_each(self) -> list[Compared]:
        """Return the same with a single policy's rollouts, for each policy."""
        return [replace(self, sets={policy: paired}) for policy, paired in self.sets.items()]

    def mean(
        self,
        values: Float[np.ndarray, " n"],
        groups: Groups,
        label: str,
        bounds: tuple[float, float] | None = None,
    ) -> Effect:
        """Return the mean over problems of one value a rollout, with an interval by problem.

        Args:
            values: in the order of `PairedStates.rows`.
            groups: `PairedStates.groups`.
            label: of the bootstrap's draws.
            bounds: least and greatest possible value.
        """
        sums = np.bincount(groups.problem, values, minlength=groups.n_problems)
        return mean_effect(
            sums / groups.sizes, seed=self.settings.seed, label=label,
            n_boot=self.settings.n_boot, bounds=bounds,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a panel: which rows of the table it joins over the layers, and its look.

    Attributes:
        series: its name in the figure's CSV; lines of one name have one legend entry.
        label: its words in the legend.
        measure, policy, encoder, cell, space: the rows, as the table has them.
        colour: a hexadecimal colour.
        marker: matplotlib's.
        dashed: before RL is dashed, after it solid.
    """

    series: str
    label: str
    measure: str
    encoder: str
    policy: str = "base"
    cell: str = ""
    space: str = ""
    colour: str = BLUE
    marker: str = "o"
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A panel of a comparison's figures; panels of one picture stand side by side.

    Attributes:
        picture: the figure is compare_PICTURE.
        name: its name in the figure's CSV; measures of one panel join their lines in it.
        title: above it.
        unit: of the vertical axis.
        lines: what it shows.
        level: a value at which a pale line is drawn.
    """

    picture: str
    name: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    level: float | None = None


@dataclass(frozen=True, kw_only=True)
class Shown:
    """How a measure is shown.

    Attributes:
        labels: the names in the table's column `measure` that it yields, and the title of each one's
            chart by layer on the HTML page ("": no chart).
        panels: where figures show it.
    """

    labels: Mapping[str, str]
    panels: tuple[Panel, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Measure(Shown):
    """A measure of change: what it yields at one layer and anchor, and how it is shown.

    Attributes:
        rows: called with what is compared; yields rows, none where it cannot be measured.
        fewest: the problems that it needs; it is not called with fewer.
        by_policy: whether it is called with one policy's rollouts at a time, so that rows of
            neighbouring measures stand policy by policy.
    """

    rows: Callable[[Compared], Iterable[Row]]
    fewest: int = 2
    by_policy: bool = False


def shown_entry(shown: Shown) -> dict[str, Any]:
    """Return how a measure is shown, in JSON's types."""
    return asdict(Shown(labels=dict(shown.labels), panels=shown.panels))


def shown_of(entry: Mapping[str, Any]) -> Shown:
    """Return what `shown_entry` wrote."""
    panels = [
        Panel(**{**panel, "lines": tuple(Line(**line) for line in panel["lines"])})
        for panel in entry["panels"]
    ]
    return Shown(labels=entry["labels"], panels=tuple(panels))
