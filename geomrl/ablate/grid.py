"""GRID.yaml: which variants of a configuration are trained, and the arms that follow from it.

    seeds: [0, 1, 2, 3, 4]
    factors:
      loss: [cosine, mse]
      weight: [0.1, 1]
      control: [wrong, random_position]

makes, one factor at a time, the arms baseline (weight 0), default (the configuration itself),
loss=mse, weight=1 and the two negative controls, each trained with each seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from geomrl.errors import GeomrlError
from geomrl.train.config import TrainConfig, override, read_yaml
from geomrl.train.sections import AlignmentConfig
from geomrl.train.values import RANDOM_ANCHOR, Kind, Section, TrainAnchor, distinct

BASELINE = "baseline"
DEFAULT = "default"
CONTROL = "control"
FACTORS = ("loss", "anchor", "layer", "weight")
"""The paper's four ablations."""

_CONTROLS: dict[str, dict[str, Any]] = {
    "wrong": {"alignment.rollouts": "wrong"},
    "shuffled_correct": {"alignment.rollouts": "shuffled_correct"},
    "shuffled_groups": {"alignment.rollouts": "shuffled_groups"},
    "random_position": {"alignment.anchor": RANDOM_ANCHOR},
}
_KEYS = {
    "loss": "alignment.kind",
    "anchor": "alignment.anchor",
    "layer": "alignment.layers",
    "weight": "alignment.weight",
}
_SEED = "seed"
_TURNED, _TURNED_OF = "repel", "cosine"  # a weight below 0 of the second is a weight of the first


def _as_layers(value: Any) -> Any:
    """Read each level as a list of layers: one alone needs no brackets."""
    if not isinstance(value, list):
        return value
    return [[str(x) for x in (level if isinstance(level, list) else [level])] for level in value]


_LayerLevels = Annotated[list[list[str]], BeforeValidator(_as_layers)]
Control = Literal["wrong", "shuffled_correct", "shuffled_groups", "random_position"]


class Factors(Section):
    """The levels of each factor; the default's own level may be among them and is not run twice."""

    loss: list[Kind] = Field(default_factory=list, description="Values of alignment.kind.")
    anchor: list[TrainAnchor] = Field(
        default_factory=list, description="Values of alignment.anchor."
    )
    layer: _LayerLevels = Field(
        default_factory=list, description="Values of alignment.layers: a layer, or a list of them."
    )
    weight: list[float] = Field(
        default_factory=list,
        description="Values of alignment.weight; below 0 the states are pushed apart: kind repel.",
    )
    control: list[Control] = Field(
        default_factory=list,
        description="Negative controls: what is aligned is not what the paper aligns.",
    )


class Grid(Section):
    """An ablation."""

    seeds: Annotated[list[int], AfterValidator(distinct)] = Field(
        min_length=1, description="Training seeds; differences are paired by seed."
    )
    baseline: dict[str, Any] = Field(
        default_factory=lambda: {"alignment.weight": 0.0},
        description="Changes to the default that make what all arms are compared with.",
    )
    default: dict[str, Any] = Field(
        default_factory=dict,
        description="Changes to CONFIG that make the default arm; every arm has them.",
    )
    factors: Factors = Field(description="What is varied.")
    match_gradient_norm: bool = Field(
        default=True,
        description="Weight of each loss kind such that its gradient at the anchor states is, at the"
        " first step, as long as that of the default's kind.",
    )
    full: bool = Field(
        default=False,
        description="Cross loss, anchor, layer and weight instead of one factor at a time.",
    )
    keep_models: bool = Field(
        default=False, description="Keep each arm's checkpoints and model when it is done."
    )


def folder_name(text: str) -> str:
    """Return a text as the name of a folder.

    >>> folder_name("anchor=fraction:0.5"), folder_name("mine/losses.py:push")
    ('anchor=fraction-0.5', 'mine-losses.py-push')
    """
    return "".join(c if c.isalnum() or c in "._=+-" else "-" for c in text)


@dataclass(frozen=True)
class Arm:
    """One variant: what it changes of the default, and the kind that its weight is matched for."""

    name: str
    config: TrainConfig  # with the weight as if all kinds' gradients were equally long
    negative_control: bool = False

    @property
    def kind(self) -> str | None:
        """The loss; None for an arm without an alignment section."""
        return None if self.config.alignment is None else self.config.alignment.kind

    @property
    def folder(self) -> str:
        """The arm's name as a folder's."""
        return folder_name(self.name)

    def trained_with(self, seed: int, scale: float) -> TrainConfig:
        """Return the configuration of one run.

        Args:
            seed: the training seed.
            scale: what the alignment weight is multiplied by, to match gradient norms.
        """
        changes: dict[str, Any] = {_SEED: seed}
        if self.config.alignment is not None:
            changes["alignment.weight"] = self.config.alignment.weight * scale
        return override(self.config, changes, f"arm {self.name}")


@dataclass(frozen=True)
class Level:
    """A factor's level, and the arm that was trained for it: several levels may share one."""

    factor: str
    level: str
    arm: str


@dataclass(frozen=True)
class Plan:
    """All arms, baseline first, and which arm each level of each factor is."""

    arms: tuple[Arm, ...]
    levels: tuple[Level, ...]

    def arm(self, name: str) -> Arm:
        """Return the arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The losses of all arms, the default's first."""
        kinds = [arm.kind for arm in (self.arm(DEFAULT), *self.arms)]
        return tuple(dict.fromkeys(kind for kind in kinds if kind is not None))


def load_grid(path: Path | str) -> Grid:
    """Read GRID.yaml.

    Raises:
        GeomrlError: it is absent, no YAML, or contains an unknown key or an impossible value.
    """
    try:
        return Grid.model_validate(read_yaml(path))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        what = fault["msg"][0].lower() + fault["msg"][1:]
        known = Factors if where.startswith("factors") else Grid
        hint = f"; there is {', '.join(known.model_fields)}" if "extra" in fault["type"] else ""
        raise GeomrlError(f"{path}: {where}: {what}{hint}") from error


def plan_arms(config: TrainConfig, grid: Grid, source: str = "the grid") -> Plan:
    """Return the arms of an ablation, none twice, baseline and default first.

    One factor at a time around the default; with `grid.full` every combination of loss, anchor,
    layer and weight. Negative controls change nothing else of the default. A level whose
    configuration equals another arm's (weight 0 is the baseline) shares that arm.

    Args:
        config: CONFIG.
        grid: what is varied.
        source: the grid's file, for errors.

    Raises:
        GeomrlError: CONFIG has no alignment or no evaluation, a key does not exist, or a level is
            impossible with the rest, or two arms would lie in one folder.
    """
    if config.evaluation is None:
        raise GeomrlError(
            "the configuration has no section evaluation, and arms are compared by their last"
            " evaluation: add one"
        )
    default = override(config, grid.default, f"{source}, default")
    if default.alignment is None:
        raise GeomrlError(
            "the configuration has no section alignment, so there is nothing to vary: add one, or"
            f" give its settings under 'default' in {source}"
        )
    if default.alignment.weight == 0:
        raise GeomrlError(
            "alignment.weight is 0 in the default arm, so no variant would differ: raise it"
        )
    _refuse_turned(grid, default.alignment, source)
    baseline = override(default, grid.baseline, f"{source}, baseline")
    if baseline == default:
        raise GeomrlError(f"{source}: the baseline equals the default arm: change something in it")
    book = _Book(default, source)
    book.add(BASELINE, {}, known=baseline)
    book.add(DEFAULT, {}, known=default)
    levels = _levels(grid, default)
    found: list[Level] = []
    for factor, choices in levels.items():
        for label, changes in choices.items():
            found.append(Level(factor, label, book.add(f"{factor}={label}", changes)))
    if grid.full:
        axes = [levels[factor] for factor in FACTORS if factor in levels]
        for combination in product(*(axis.items() for axis in axes)):
            name = ",".join(label for label, _ in combination)
            changes = {key: value for _, part in combination for key, value in part.items()}
            book.add(f"grid={name}", changes)
    for label in grid.factors.control:
        name = book.add(f"{CONTROL}={label}", _CONTROLS[label], control=True)
        found.append(Level(CONTROL, label, name))
    _refuse_shared_folders(book.arms, source)
    return Plan(tuple(book.arms), tuple(found))


def _refuse_shared_folders(arms: Sequence[Arm], source: str) -> None:
    """Refuse arms that would lie in one folder: names of files may differ by "/" and "-" alone.

    Raises:
        GeomrlError: two arms would.
    """
    names: dict[str, str] = {}
    for arm in arms:
        other = names.setdefault(arm.folder, arm.name)
        if other != arm.name:
            raise GeomrlError(
                f"{source}: the arms {other} and {arm.name} would both lie in the folder"
                f" {arm.folder}: rename one of the files"
            )


class _Book:
    """Arms by their configuration, in the order in which they were first named."""

    def __init__(self, default: TrainConfig, source: str) -> None:
        self.arms: list[Arm] = []
        self._default = default
        self._source = source

    def add(
        self,
        name: str,
        changes: Mapping[str, Any],
        *,
        control: bool = False,
        known: TrainConfig | None = None,
    ) -> str:
        """Add an arm unless one has its configuration; return the name it goes by."""
        config = known or override(self._default, changes, f"{self._source}, {name}")
        same = next((arm.name for arm in self.arms if arm.config == config), None)
        if same is None:
            self.arms.append(Arm(name, config, control))
        elif control:
            raise GeomrlError(
                f"{self._source}: {name} is the arm '{same}' itself, so it controls nothing: change"
                " the default or leave it out"
            )
        return same or name


def _levels(grid: Grid, default: TrainConfig) -> dict[str, dict[str, dict[str, Any]]]:
    """Return factor -> level -> changes; the default's own level is always among them."""
    assert default.alignment is not None
    own = {
        "loss": default.alignment.kind,
        "anchor": default.alignment.anchor,
        "layer": list(default.alignment.layers),
        "weight": default.alignment.weight,
    }
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for factor in FACTORS:
        values = list(getattr(grid.factors, factor))
        if not values:
            continue
        if own[factor] not in values:
            values.insert(0, own[factor])
        if factor == "weight":
            values.sort()
        found[factor] = {_label(value): _changes(factor, value) for value in values}
    return found


def _changes(factor: str, value: Any) -> dict[str, Any]:
    """Return what a level changes; a weight below 0 is that of `repel`, whose gradient is turned round."""
    if factor == "weight" and value < 0:
        return {_KEYS["loss"]: _TURNED, _KEYS["weight"]: -value}
    return {_KEYS[factor]: value}


def _refuse_turned(grid: Grid, default: AlignmentConfig, source: str) -> None:
    """Refuse weights below 0 where `repel` is not the default's loss turned round.

    Raises:
        GeomrlError: the default's kind is another, or kinds and weights are crossed.
    """
    below = [weight for weight in grid.factors.weight if weight < 0]
    if below and default.kind != _TURNED_OF:
        raise GeomrlError(
            f"{source}: weight {below[0]:g} stands for kind {_TURNED}, which turns {_TURNED_OF} round,"
            f" but the default's kind is {default.kind}: leave weights below 0 out"
        )
    if below and grid.full:
        raise GeomrlError(
            f"{source}: weight {below[0]:g} stands for a loss of its own, {_TURNED}, so it cannot be"
            " crossed with others: leave it out, or vary one factor at a time"
        )


def _label(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
