"""Hidden-Align in TRL's GRPOTrainer, by overriding five methods; none of TRL's code is copied.

- `_calculate_rewards`: a reward function's raw values are the verdicts.
- `_generate_and_score_completions`: group, verdict and anchor of each rollout join the batch, which TRL
  shuffles and splits with all else.
- `_prepare_inputs`: before an optimiser step of several micro-batches, its states are read without
  gradient (`AlignmentStep.give`).
- `_compute_loss`: the trainer's own forward is the one whose states get the gradient.
- `log`: our figures go through TRL's logger.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from geomrl.errors import GeomrlError
from geomrl.integrations.alignment import AlignmentHook, AlignmentStep, ResponseAnchor
from geomrl.integrations.trl_contract import (
    changed,
    check_attributes,
    check_batch,
    check_class,
    check_supported,
    require_trl,
)
from geomrl.models.token_bytes import TokenBytes
from geomrl.models.turns import turn_end_ids
from geomrl.probe.extractor import Rows
from geomrl.seeds import derive_seed
from geomrl.train.config import read_section
from geomrl.train.positions import alignment_weight
from geomrl.train.sections import AlignmentConfig
from geomrl.train.world import World
from geomrl.verify.marker import BOXED, parse_marker

require_trl()
from trl import GRPOTrainer  # noqa: E402

Batch = dict[str, Any]
_GROUP, _CORRECT, _COLUMN = "geomrl_group", "geomrl_correct", "geomrl_column"


class HiddenAlignGRPOTrainer(GRPOTrainer):
    """TRL's GRPOTrainer with the alignment loss beside its own, and the gauges in its log.

    At weight 0 it trains bit for bit as GRPOTrainer does, and measures. The loss that TRL logs stays
    the policy's; the alignment's is `loss/align`. All rollouts of the optimiser step take part that
    have a verdict and an anchor and that TRL does not mask.

    Args:
        *args, **kwargs: as for GRPOTrainer.
        alignment: settings by name, as in the section `alignment` of a configuration of geomrl.
            `table` and `all_correct_groups` are of geomrl's own loop, and are refused here: TRL
            drops no group.
        correct_from: the name of the reward function that grades; None where there is only one.
        correct_above: a rollout is correct where that function's raw value is above this; where the
            function returns None it has no verdict.
        marker: what opens and closes the answer in a response, as in `data.marker`.

    Raises:
        GeomrlError: TRL is not as geomrl knows it (what changed is named), a setting is unknown or
            impossible, or the trainer's settings are not supported (the cure is named). While it
            trains: TRL's batches, forward or scaling of the loss are not what geomrl takes them for.
    """

    def __init__(
        self,
        *args: Any,
        alignment: AlignmentConfig | Mapping[str, Any],
        correct_from: str | None = None,
        correct_above: float = 0.5,
        marker: str = BOXED,
        **kwargs: Any,
    ) -> None:
        mro = type(self).__mro__
        check_class(mro[mro.index(HiddenAlignGRPOTrainer) + 1])
        settings = _read_settings(alignment)
        super().__init__(*args, **kwargs)
        check_attributes(self)
        check_supported(self, aligns=settings.weight > 0)
        self._align_settings = settings
        self._verdict_column = _reward_column(self.reward_func_names, correct_from)
        self._correct_above = correct_above
        self._align_anchor = ResponseAnchor(
            TokenBytes(self.processing_class),
            parse_marker(marker),
            turn_end_ids(self.model.generation_config, self.processing_class),
            settings.anchor,
        )
        self._align_hook = AlignmentHook(self.model, settings.layers)
        place = self.accelerator
        self._align_world = World(place.process_index, place.num_processes, place.device)
        self._graded: tuple[Tensor, Sequence[Sequence[int]]] | None = None
        self._under_way: _Step | None = None
        self._align_log: dict[str, list[float]] = defaultdict(list)

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._graded = rewards[:, self._verdict_column].detach(), completion_ids_list
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> Batch:
        batch: Batch = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return batch
        check_batch(batch)
        return {**batch, **self._labels(batch, inputs)}

    def _prepare_inputs(self, generation_batch: Any) -> Batch:
        inputs: Batch = super()._prepare_inputs(generation_batch)
        if not self.model.training:
            return inputs
        if self._under_way is None:
            self._under_way = self._begin()
        if inputs is not self._under_way.next_piece:
            raise changed(["_prepare_inputs returns another micro-batch than _buffered_inputs has"])
        return inputs

    def _compute_loss(self, model: Any, inputs: Batch) -> Tensor:
        if not self.model.training:
            return super()._compute_loss(model, inputs)  # type: ignore[no-any-return]
        under_way = self._under_way
        if under_way is None or inputs is not under_way.next_piece:
            raise changed(["_compute_loss is called with what _prepare_inputs did not return"])
        with self._align_hook.reading(_rows(inputs), _shape(inputs)) as states:
            loss = super()._compute_loss(model, inputs)
        loss = under_way.step.add_to(loss, states, under_way.take_rows())
        if under_way.next_piece is None:
            self._under_way = None
            self._note(under_way.step.finish())
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the alignment's figures, means over the optimiser steps since the last call."""
        if self.model.training:
            for name, values in self._align_log.items():
                numbers = [value for value in values if not math.isnan(value)]
                logs[name] = sum(numbers) / len(numbers) if numbers else None  # type: ignore[assignment]
            self._align_log.clear()
        super().log(logs, start_time)

    def _labels(self, batch: Batch, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return of each of this rank's rollouts its group, verdict and anchor's column (-1: none)."""
        if self._graded is None:
            raise changed(["_generate_and_score_completions does not call _calculate_rewards"])
        (verdicts, responses), self._graded = self._graded, None
        n, first = len(responses), self._align_world.rank * len(responses)
        if len(verdicts) != n * self._align_world.size or len(batch["prompt_ids"]) != n:
            raise changed(["_calculate_rewards does not return all ranks' rewards, in their order"])
        verdict = verdicts[first : first + n]
        group = torch.arange(first, first + n, device=verdict.device) // self.num_generations
        for row, earlier in zip(range(1, n), range(n), strict=False):
            one_group = bool(group[row] == group[earlier])
            if one_group and inputs[row].get("prompt") != inputs[earlier].get("prompt"):
                raise changed(["rollouts of one prompt do not follow each other"])
        step = self.state.global_step
        column = torch.full_like(group, -1)
        for row, response in enumerate(responses):
            seed = derive_seed(self.args.seed, "position", step, first + row)
            index = self._align_anchor.index(list(response), seed)
            if index is not None and not bool(verdict[row].isnan()):
                column[row] = _column(batch, row, index, response)
        return {_GROUP: group, _CORRECT: verdict > self._correct_above, _COLUMN: column}

    def _begin(self) -> _Step:
        """Return the optimiser step whose first micro-batch comes now, its states read if need be."""
        n = getattr(self, "current_gradient_accumulation_steps", None)
        if n is None:
            raise changed(["it has no current_gradient_accumulation_steps any more"])
        first = self._step % self.args.steps_per_generation
        pieces = self._buffered_inputs[first : first + n]
        if len(pieces) != n or any(_COLUMN not in piece for piece in pieces):
            raise changed(["_buffered_inputs has not the micro-batches of an optimiser step"])
        column = torch.cat([piece[_COLUMN] for piece in pieces])
        there = column >= 0
        number = self.state.global_step + 1
        scaler = getattr(self.accelerator, "scaler", None)
        step = AlignmentStep(
            torch.cat([piece[_GROUP] for piece in pieces])[there],
            torch.cat([piece[_CORRECT] for piece in pieces])[there],
            self._align_settings,
            weight=alignment_weight(self._align_settings, number),
            seed=derive_seed(self.args.seed, "control", number),
            world=self._align_world,
            n_rollouts=len(column),
            loss_scale=(lambda: 1.0) if scaler is None else scaler.get_scale,
        )
        if step.weight and n > 1:
            parts = [self._read(piece) for piece in pieces]
            step.give({layer: torch.cat([part[layer] for part in parts]) for layer in parts[0]})
        return _Step(step, pieces)

    @torch.no_grad()
    def _read(self, piece: Batch) -> dict[str, Tensor]:
        """Return a micro-batch's states: TRL's own loss, ended behind the layers that are read."""
        reading = self._align_hook.reading(_rows(piece), _shape(piece), cut=True)
        with reading as states, self.compute_loss_context_manager():
            super()._compute_loss(self.model, piece)
        return states

    def _note(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._align_log[name].append(value)
        if self.state.global_step == 0 and not metrics["align/rollouts"]:
            warnings.warn(
                "no rollout of the first step has both a verdict and the anchor"
                f" '{self._align_settings.anchor}', so nothing is aligned: check marker and correct_from",
                stacklevel=2,
            )


class _Step:
    """An optimiser step under way: its micro-batches in order, and how many of its rows are taken."""

    def __init__(self, step: AlignmentStep, pieces: Sequence[Batch]) -> None:
        self.step = step
        self._pieces = list(pieces)
        self._taken = 0

    @property
    def next_piece(self) -> Batch | None:
        return self._pieces[0] if self._pieces else None

    def take_rows(self) -> Tensor:
        """Return the numbers of the next micro-batch's rows, and go on to the one behind it."""
        n = int((self._pieces.pop(0)[_COLUMN] >= 0).sum())
        self._taken += n
        return torch.arange(self._taken - n, self._taken)


def _read_settings(alignment: AlignmentConfig | Mapping[str, Any]) -> AlignmentConfig:
    source = "HiddenAlignGRPOTrainer"
    if not isinstance(alignment, AlignmentConfig):
        alignment = read_section(AlignmentConfig, dict(alignment), source, under=("alignment",))
    for name in ("table", "all_correct_groups"):
        if getattr(alignment, name) != AlignmentConfig.model_fields[name].default:
            raise GeomrlError(
                f"{source}: alignment.{name} is of geomrl's own training loop; leave it out"
            )
    return alignment


def _reward_column(names: Sequence[str], wanted: str | None) -> int:
    """Return the number of the reward function that grades."""
    if wanted is None and len(names) == 1:
        return 0
    if wanted is None or wanted not in names:
        raise GeomrlError(
            f"correct_from={wanted!r}: there are the reward functions {', '.join(names)}; name the one"
            " that says whether an answer is correct"
        )
    return list(names).index(wanted)


def _column(batch: Batch, row: int, index: int, response: Sequence[int]) -> int:
    """Return the column of a response's token in prompts and responses side by side; -1: masked.

    Raises:
        GeomrlError: that column has another token.
    """
    width = batch["prompt_ids"].shape[1]
    part, at = ("completion", index) if index >= 0 else ("prompt", width + index)
    if index >= 0 and int(batch["completion_ids"][row, at]) != int(response[index]):
        raise changed(["completion_ids does not begin with the response's tokens"])
    return width + index if bool(batch[f"{part}_mask"][row, at]) else -1


def _rows(piece: Batch) -> Rows:
    column = piece[_COLUMN]
    (rows,) = (column >= 0).nonzero(as_tuple=True)
    return Rows(rows, column[rows])


def _shape(piece: Batch) -> tuple[int, int]:
    rows, width = piece["prompt_ids"].shape
    return rows, width + piece["completion_ids"].shape[1]
