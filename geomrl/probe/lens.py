"""Logit lens: how early does a state know the answer?

The lens (nostalgebraist 2020) puts a layer's state through the model's own final norm and head; it
is fair to late layers, and early ones may know what the head cannot read yet: for these see
`geomrl.geometry.answer_decoder`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from geomrl.probe.extraction import ModelProbe


def gold_tokens(rows: pd.DataFrame, golds: Mapping[str, str], tokenizer: Any) -> dict[str, int]:
    """Return, by problem, the first token of the gold answer as the model writes it.

    That is the most frequent first answer token among correct rollouts; where there are none, the
    first token of the gold answer alone, which a tokenizer that merges over the marker's brace may
    split otherwise.

    Args:
        rows: problem_id, verdict, next_token_id at anchor `before_answer`; may be empty.
        golds: gold answers by problem.
        tokenizer: for problems without a correct rollout.
    """
    found = {}
    right = rows[(rows["verdict"] == "correct") & rows["next_token_id"].notna()]
    for problem, ids in right.groupby("problem_id")["next_token_id"]:
        found[str(problem)] = int(ids.mode().iloc[0])
    for problem, gold in golds.items():
        ids = tokenizer(gold, add_special_tokens=False)["input_ids"]
        if problem not in found and ids:
            found[problem] = int(ids[0])
    return found


def lens_logprobs(
    probe: ModelProbe,
    states: Float[np.ndarray, "rows d"],
    layer: str,
    targets: Int[np.ndarray, " rows"],
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Return the log-probability of each target and the entropy, in nats, as a layer's lens sees it.

    Args:
        probe: the encoder.
        states: at one layer; "final" ones have the norm behind them already.
        layer: its name.
        targets: token ids.
    """
    import torch

    from geomrl.models.decoder import FINAL, score_next

    loaded = probe.loaded
    with torch.inference_mode():
        x = torch.from_numpy(np.ascontiguousarray(states, dtype=np.float32))
        x = x.to(loaded.device, loaded.dtype)
        if layer != FINAL:
            x = loaded.model.base_model.get_submodule(probe.extractor.decoder.norm)(x)
        logprob, entropy = score_next(
            loaded.model, x, torch.from_numpy(targets.astype(np.int64)).to(loaded.device)
        )
    return logprob.cpu().numpy().astype(float), entropy.cpu().numpy().astype(float)
