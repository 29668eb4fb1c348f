"""Does an engine sample from the model? Tried on three short rows before any rollout is drawn."""

from __future__ import annotations

from typing import Any

import torch

from geomrl.models.trial import DRAWN, NATS, nats, require, trial_sequences
from geomrl.rollout.engine import Engine, Request, Sampling


@torch.inference_mode()
def check_sampling(loaded: Any, engine: Engine) -> None:
    """Hold samples from ragged prompts against the model itself.

    Neither the padding on the left nor the cache of keys and values may show: each sampled token must
    have the log-probability that it has in a single forward of its row alone.

    Args:
        loaded: a `LoadedModel`.
        engine: what samples from it.

    Raises:
        GeomrlError: it has another.
    """
    sequences = trial_sequences(loaded.model.config, loaded.device, len(loaded.tokenizer))
    requests = [Request(tuple(ids.tolist()), row) for row, ids in enumerate(sequences)]
    ours, theirs = [], []
    for request, completion in zip(
        requests, engine.generate(requests, Sampling(max_tokens=DRAWN)), strict=True
    ):
        ids = torch.tensor([[*request.prompt_ids, *completion.ids]], device=loaded.device)
        at = torch.arange(len(request.prompt_ids), ids.shape[1], device=loaded.device)
        every = (
            loaded.model(input_ids=ids, use_cache=False).logits[0, at - 1].float().log_softmax(-1)
        )
        theirs.append(every.gather(-1, ids[0, at][:, None])[:, 0])
        ours += completion.logprobs
    require(
        nats(torch.tensor(ours), torch.cat(theirs).cpu()), NATS.get(loaded.dtype, 1e-3),
        f"{loaded.name} ({type(loaded.model).__name__}): samples from prompts of several lengths have "
        "other log-probabilities than in a forward of their own",
        "rollouts would depend on their neighbours; sample with another tool and bring the rollouts "
        "(geomrl probe --rollouts FILE)",
    )  # fmt: skip
