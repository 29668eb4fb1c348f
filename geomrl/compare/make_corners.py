"""Make the corners of the 2x2: rollouts, states and logit lenses, one model in memory at a time."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from geomrl.compare.corners import lens_file, policy_folder, states_hash
from geomrl.compare.lens_table import lens_key, write_lens
from geomrl.models.context import Context
from geomrl.models.outline import Outline, check_one_architecture
from geomrl.probe.anchors import before_the_answer
from geomrl.probe.extraction import ExtractionConfig, ModelProbe
from geomrl.probe.lens import gold_tokens
from geomrl.probe.steps import check_readable, read_states
from geomrl.progress import progress_bar
from geomrl.rollout.generate import RolloutConfig
from geomrl.rollout.steps import make_rollouts, with_engine
from geomrl.runs.parts import parts_key
from geomrl.runs.rollouts import problem_keys
from geomrl.runs.run import Run


@dataclass(frozen=True, kw_only=True)
class CornerMaker:
    """Makes rollouts, states and lenses in a comparison's folder.

    Attributes:
        out: the folder.
        problems: benchmark names with commas, or a file; `limit` and `columns` as in `load_problems`.
        rollouts: how they are sampled.
        extraction: layers and anchors.
        limit: the first so many problems only.
        columns: a problem file's column names, ours -> its.
        marker: the answer marker's specification.
        context: how models are loaded, and what is shown.
    """

    out: Path
    problems: str
    rollouts: RolloutConfig
    extraction: ExtractionConfig
    limit: int | None
    columns: dict[str, str] | None
    marker: str
    context: Context

    def make(self, names: Sequence[str]) -> list[str]:
        """Make all corners of a base model and its checkpoints; return the models' keys.

        Raises:
            GeomrlError: a checkpoint is of another architecture than the base model.
        """
        base = self._base(names[0])
        made = [self._checkpoint(name, base) for name in names[1:]]
        reader = self._load(names[0])
        for _, own in made:
            self._read(reader, own)
            self._lens(reader, own, base.targets)
        return [base.key, *(key for key, _ in made)]

    def _base(self, name: str) -> _Base:
        """Make what needs the base model alone."""
        reader = self._load(name)
        run = self._answer(reader)
        self._read(reader, run)
        targets = lens_targets(run, reader)
        self._lens(reader, run, targets)
        return _Base(reader.loaded.key, outline_of(reader), run, targets)

    def _checkpoint(self, name: str, base: _Base) -> tuple[str, Run]:
        """Make what needs one checkpoint; return its key and its run."""
        reader = self._load(name)
        # Once more, of the loaded models: not every config.json names width and depth.
        check_one_architecture([base.outline, outline_of(reader)])
        own = self._answer(reader)
        for run in (base.run, own):
            self._read(reader, run)
            self._lens(reader, run, base.targets)
        return reader.loaded.key, own

    def _load(self, name: str) -> ModelProbe:
        gc.collect()  # of the model before, before there are two
        loaded = self.context.options.load(name).as_filed(self.out / "policies")
        return check_readable(loaded, self.extraction)

    def _answer(self, reader: ModelProbe) -> Run:
        run, options = policy_folder(self.out, reader.loaded.key), self.context.options
        return make_rollouts(
            reader.loaded,
            self.problems,
            run,
            config=with_engine(self.rollouts, run, options),
            limit=self.limit,
            columns=self.columns,
            marker=self.marker,
            options=options,
            show=self.context.show,
            say=self.context.say,
        )

    def _read(self, reader: ModelProbe, run: Run) -> None:
        self.context.say(f"{reader.loaded.key} reads the rollouts of {run.path.name}")
        read_states(reader, run.path, config=self.extraction, context=self.context)

    def _lens(self, reader: ModelProbe, run: Run, targets: Mapping[str, int]) -> None:
        encoder = reader.loaded.key
        path = lens_file(self.out, run.path.name, encoder)
        key = parts_key(states=states_hash(run, encoder), targets=targets)
        if lens_key(path) == key:
            return
        settings = run.store(encoder).settings
        with progress_bar("logit lens", "layer x anchor", show=self.context.show) as bar:
            bar.set(0, len(settings.layers) * sum(map(before_the_answer, settings.anchors)))
            write_lens(reader, run, targets=targets, path=path, key=key, progress=bar.advance)


class _Base(NamedTuple):
    """What the checkpoints are compared with: key, sizes, rollouts, the logit lens's targets."""

    key: str
    outline: Outline
    run: Run
    targets: Mapping[str, int]


def outline_of(reader: ModelProbe) -> Outline:
    """Return a loaded model's vocabulary, width and depth."""
    loaded = reader.loaded
    depth = reader.extractor.decoder.n_layers
    return Outline(loaded.name, loaded.vocabulary, reader.hidden_size, depth)


def lens_targets(run: Run, reader: ModelProbe) -> dict[str, int]:
    """Return the first token of each problem's gold answer, by "benchmark/problem_id"."""
    rollouts = run.rollouts.assign(problem_id=problem_keys(run.rollouts))
    rows = run.store(reader.loaded.key).rows()
    rows = rows[rows["anchor"] == "before_answer"][["rollout_id", "next_token_id"]]
    labelled = rows.merge(rollouts[["rollout_id", "problem_id", "verdict"]], on="rollout_id")
    first = rollouts.drop_duplicates("problem_id").dropna(subset="gold")
    golds = dict(zip(first["problem_id"], first["gold"], strict=True))
    return gold_tokens(labelled, golds, reader.loaded.tokenizer)
