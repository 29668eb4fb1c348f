"""A run directory: rollouts, states, similarity and pictures of one policy, opened for reading."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from geomrl.errors import GeomrlError
from geomrl.files import read_json, read_parquet
from geomrl.runs.layout import GRADING, MANIFEST, ROLLOUTS, STATES, SUMMARY
from geomrl.runs.manifest import read_manifest
from geomrl.runs.rollouts import labels_hash, read_rollouts
from geomrl.runs.states import StateStore
from geomrl.verify.marker import Marker, parse_marker

LABELS = ["benchmark", "problem_id", "sample", "verdict", "answer", "answer_class", "gold"]


def run_marker(run: Run) -> Marker:
    """Return the marker that a run's rollouts were graded by."""
    steps = (run.manifest.get(step, {}).get("settings", {}) for step in (GRADING, "rollouts"))
    return parse_marker(next(step["marker"] for step in steps if "marker" in step))


class Run:
    """What `geomrl rollout`, `probe` and `figures` left in a folder.

    Tables are read when they are first asked for, states one layer at a time.

    Args:
        path: the folder.
        encoder: whose states and similarities are read, where the run contains those of several.

    Raises:
        GeomrlError: the folder does not exist or contains no manifest.
    """

    def __init__(self, path: Path | str, encoder: str | None = None) -> None:
        self.path = Path(path)
        self.encoder = encoder
        self._stores: dict[str, StateStore] = {}
        if not (self.path / MANIFEST).exists():
            raise GeomrlError(
                f"{self.path}: not a run directory (no manifest.json in it); make one with "
                "`geomrl rollout` or `geomrl probe`"
            )

    def __repr__(self) -> str:
        """Name the folder."""
        return f"Run({str(self.path)!r})"

    @property
    def manifest(self) -> dict[str, Any]:
        """What made the run: settings, commands, versions, hashes, by step."""
        return read_manifest(self.path)

    @cached_property
    def rollouts(self) -> pd.DataFrame:
        """One row a rollout: prompt, response, token ids, verdict, answer class and how it was made."""
        return read_rollouts(self.path / ROLLOUTS)

    @cached_property
    def similarity(self) -> pd.DataFrame:
        """The tidy table of similarities, contrasts and tests.

        Raises:
            GeomrlError: the rollouts were graded again since, and are labelled otherwise now.
        """
        return self._analysis("similarity", "geomrl probe", ["encoder"])

    @cached_property
    def replacement(self) -> pd.DataFrame:
        """The tidy table of interventions (`geomrl probe --replace`).

        Raises:
            GeomrlError: the rollouts were graded again since, and are labelled otherwise now.
        """
        return self._analysis("replacement", "geomrl probe --replace", ["encoder", "anchor"])

    @property
    def summary(self) -> dict[str, Any]:
        """The headline figures, as printed.

        Raises:
            GeomrlError: the rollouts were graded again since, and are labelled otherwise now.
        """
        found = read_json(self.path / SUMMARY)
        self._check_labels(SUMMARY, found.get("labels"), "geomrl probe")
        return found

    def _analysis(self, name: str, command: str, by: list[str]) -> pd.DataFrame:
        """Return a table, each of whose parts by `by` is recorded as the step "NAME/PART"."""
        table = read_parquet(self.path / f"{name}.parquet")
        if self.encoder is not None:
            table = table[table["encoder"] == self.encoder]
        steps = self.manifest
        if "encoder" in table:
            for made in table[by].drop_duplicates().itertuples(index=False):
                settings = steps.get("/".join([name, *made]), {}).get("settings", {})
                self._check_labels(f"{name}.parquet", settings.get("labels"), command)
        return table

    def _check_labels(self, file: str, made_of: str | None, command: str) -> None:
        """Refuse results of verdicts that are no longer the rollouts'.

        An older geomrl recorded no labels: its results count until a grading changes some.
        """
        grading = self.manifest.get("grading", {}).get("settings", {})
        stale = grading.get("labels_changed") if made_of is None else made_of != self.labels
        if stale:
            raise GeomrlError(
                f"{self.path / file}: made of other verdicts than the rollouts have now, which were "
                f"graded again since; run the same `{command}` again (nothing is sampled anew)"
            )

    @cached_property
    def labels(self) -> str:
        """A hash of the rollouts' verdicts, answer classes and golds."""
        return labels_hash(self.rollouts)

    @property
    def encoders(self) -> list[str]:
        """The encoders whose states the run contains."""
        return sorted(path.parent.name for path in self.path.glob("states/*/store.json"))

    def store(self, encoder: str | None = None) -> StateStore:
        """Return an encoder's state store; with one encoder it need not be named.

        Raises:
            GeomrlError: there is none, or several and none is named.
        """
        names = self.encoders
        encoder = encoder or self.encoder
        if encoder is None and len(names) == 1:
            encoder = names[0]
        if encoder is None or encoder not in names:
            what = "which encoder?" if encoder is None else f"no states of encoder '{encoder}'"
            raise GeomrlError(
                f"{self.path}: {what} (there is: {', '.join(names) or 'none'}); "
                "make states with `geomrl probe MODEL --out RUN`"
            )
        if encoder not in self._stores:
            self._stores[encoder] = StateStore(self.path / STATES / encoder)
        return self._stores[encoder]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that are stored, in forward order."""
        return self.store().settings.layers

    @property
    def anchors(self) -> tuple[str, ...]:
        """The anchors that are stored."""
        return self.store().settings.anchors

    def states(
        self,
        layer: str | int = "final",
        anchor: str = "before_marker",
        encoder: str | None = None,
    ) -> tuple[pd.DataFrame, Float[np.ndarray, "rows hidden"]]:
        """Return the states at one layer and anchor, with what is known of each row.

        Args:
            layer: "0" .. "L" or "final"; integers are taken too.
            anchor: an anchor's name.
            encoder: needed where the run contains states of several.

        Returns:
            rows: one row a rollout that has the anchor: rollout_id, token_index (into response_ids;
                -1 is the prompt's last token), flags, token ids, next_logprob, entropy, and the
                rollout's labels.
            states: float32 [rows, hidden], in the same order.

        Raises:
            GeomrlError: the layer or anchor is not stored; the store is torn or incomplete.
        """
        rows, states = self.store(encoder).read(str(layer), anchor)
        labels = self.rollouts.set_index("rollout_id")[LABELS]
        return rows.join(labels, on="rollout_id"), states


def open_run(path: Path | str, encoder: str | None = None) -> Run:
    """Open a run directory; `encoder` chooses where it contains states of several.

    Raises:
        GeomrlError: it is none.
    """
    return Run(path, encoder)
