"""The logit lens of one encoder over a policy's rollouts, kept as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from geomrl.compare.corners import gold_targets
from geomrl.errors import GeomrlError
from geomrl.files import read_parquet, write_parquet
from geomrl.models.decoder import FINAL
from geomrl.probe.anchors import before_the_answer
from geomrl.probe.extraction import ModelProbe
from geomrl.probe.lens import lens_logprobs
from geomrl.runs.rollouts import problem_keys
from geomrl.runs.run import Run

_COLUMNS = ["rollout_id", "problem_id", "layer", "anchor", "gold_logprob", "entropy"]
_AGREE = 0.02  # nats and share: the final layer's lens is the model's own next-token distribution


def write_lens(
    probe: ModelProbe,
    run: Run,
    targets: Mapping[str, int],
    path: Path,
    key: str,
    progress: Callable[[], None] | None = None,
) -> None:
    """Write the log-probability of the gold answer's first token, by rollout, layer and anchor.

    Anchors after the answer's start are left out. The entropy that the lens gives at the final
    layer is compared with the one that extraction stored.

    Args:
        probe: the encoder.
        run: the policy's run, with this encoder's states.
        targets: first token of the gold answer, by "benchmark/problem_id".
        path: the file.
        key: of all that decides its content; the file says it.
        progress: called after each layer and anchor.

    Raises:
        GeomrlError: the lens does not reproduce the model's own distribution at the final layer.
    """
    gold = gold_targets(run, targets)
    store = run.store(probe.loaded.key)
    parts = [pd.DataFrame(columns=_COLUMNS)]
    for anchor in filter(before_the_answer, store.settings.anchors):
        for layer in store.settings.layers:
            rows, states = run.states(layer, anchor, probe.loaded.key)
            kept = rows["rollout_id"].isin(gold.index).to_numpy()
            rows = rows[kept]
            if len(rows):
                wanted = gold.loc[rows["rollout_id"]].to_numpy()
                logprob, entropy = lens_logprobs(probe, states[kept], layer, wanted)
                if layer == FINAL:
                    _check(rows["entropy"].to_numpy(dtype=float), entropy, probe)
                parts.append(
                    pd.DataFrame(
                        {
                            "rollout_id": rows["rollout_id"].to_numpy(),
                            "problem_id": problem_keys(rows).to_numpy(),
                            "layer": layer,
                            "anchor": anchor,
                            "gold_logprob": logprob,
                            "entropy": entropy,
                        }
                    )
                )
            if progress:
                progress()
    table = pd.concat(parts[1:] or parts, ignore_index=True)
    table.attrs["key"] = key
    write_parquet(path, table)


def lens_key(path: Path) -> str | None:
    """Return the key that a lens file was written under; None where it is not there or says none."""
    return read_parquet(path).attrs.get("key") if path.exists() else None


def _check(stored: np.ndarray, lens: np.ndarray, probe: ModelProbe) -> None:
    apart = np.abs(stored - lens) > _AGREE * (1.0 + np.abs(stored))
    if apart.mean() > 0.01:
        raise GeomrlError(
            f"{probe.loaded.name}: the lens at the final layer does not give the model's own "
            "next-token distribution, so other layers' would be wrong too; read the states again "
            "with --dtype float32, or report this architecture"
        )
