"""Logit lens and decodability: how early does a state know the answer?

The lens (nostalgebraist 2020) puts a layer's state through the model's own final norm and head; it
is fair to late layers, and early ones may know what the head cannot read yet. The decoder asks the
second question: can a linear map learn the answer from the state, on problems it never saw?
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from geomrl.geometry.groups import Groups
from geomrl.stats.effect import Effect, mean_effect, unknown

if TYPE_CHECKING:
    from geomrl.probe.extraction import ModelProbe

UP_TO_ANSWER = ("fraction", "think_end", "before_marker", "marker_end", "before_answer")
FEWEST_OF_A_TOKEN = 10


def before_the_answer(anchor: str) -> bool:
    """Say whether an anchor comes before the answer, so that knowing it means something."""
    return anchor.startswith(UP_TO_ANSWER)


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


def answer_decodability(
    states: Float[np.ndarray, "n d"],
    answer: Int[np.ndarray, " n"],
    fold: Int[np.ndarray, " n"],
    groups: Groups,
    *,
    seed: int,
    n_boot: int,
) -> tuple[Effect, float]:
    """Return how often a linear decoder names the first token of a rollout's own answer.

    A ridge classifier on standardised states, fitted on other problems. Answers whose first token
    fewer than ten rollouts share are left out.

    Args:
        states: in the groups' order.
        answer: each rollout's first answer token; negative where it is unknown.
        fold: each rollout's fold, made of problems.
        groups: who is who.
        seed: of the bootstrap.
        n_boot: bootstrap draws.

    Returns:
        The mean over problems of the share named rightly, and the same of always naming the most
        frequent token (of the other problems).
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    tokens, counts = np.unique(answer[answer >= 0], return_counts=True)
    kept = np.isin(answer, tokens[counts >= FEWEST_OF_A_TOKEN])
    if (counts >= FEWEST_OF_A_TOKEN).sum() < 2:
        return unknown(), float("nan")
    hit = np.full(len(answer), np.nan)
    usual = np.full(len(answer), np.nan)
    for held in np.unique(fold):
        fits, here = kept & (fold != held), kept & (fold == held)
        names, often = np.unique(answer[fits], return_counts=True)
        if len(names) < 2 or not here.any():
            continue
        decoder = make_pipeline(StandardScaler(), RidgeClassifier(alpha=float(fits.sum()) / 100))
        decoder.fit(states[fits], answer[fits])
        hit[here] = decoder.predict(states[here]) == answer[here]
        usual[here] = names[np.argmax(often)] == answer[here]
    found = mean_effect(_by_problem(hit, groups), seed=seed, label="decoder", n_boot=n_boot,
        bounds=(0.0, 1.0),
    )  # fmt: skip
    base = _by_problem(usual, groups)
    known = base[np.isfinite(base)]
    return found, float(known.mean()) if len(known) else float("nan")


def _by_problem(values: Float[np.ndarray, " n"], groups: Groups) -> Float[np.ndarray, " p"]:
    known = np.isfinite(values)
    counts = np.bincount(groups.problem[known], minlength=groups.n_problems)
    sums = np.bincount(groups.problem[known], values[known], minlength=groups.n_problems)
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
