"""What vLLM is asked for a request, and what it gives back, in its words and in ours."""

from __future__ import annotations

from typing import Any

from geomrl.errors import GeomrlError
from geomrl.rollout.engine import Completion, Request, Sampling


def request_options(request: Request, sampling: Sampling, room: int) -> dict[str, Any]:
    """Return arguments of vLLM's `SamplingParams`.

    Args:
        request: one rollout.
        sampling: how its tokens are drawn.
        room: the longest sequence that the engine takes (`max_model_len`).

    Raises:
        GeomrlError: the prompt leaves no room for a response, or vLLM would take another temperature.
    """
    left = room - len(request.prompt_ids)
    if left < 1:
        raise GeomrlError(
            f"a prompt has {len(request.prompt_ids)} tokens and max_model_len is {room}: there is no "
            "room for a response; raise max_model_len or leave such prompts out"
        )
    if 0 < sampling.temperature < 0.01:
        raise GeomrlError(
            f"temperature {sampling.temperature}: vLLM would take 0.01 instead; use 0 (greedy) "
            "or at least 0.01"
        )
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_tokens": min(sampling.max_tokens, left),
        "seed": request.seed,
        "logprobs": 0,  # of the drawn token alone
        # The same ids end a response in every engine, whatever vLLM reads from the checkpoint.
        "ignore_eos": True,
        "detokenize": False,
    }


def completion(output: Any) -> Completion:
    """Return a finished output of vLLM as a completion.

    Raises:
        GeomrlError: it ended for another reason than an end-of-sequence token or its length.
    """
    ids = list(output.token_ids)
    logprobs = [at[token].logprob for at, token in zip(output.logprobs, ids, strict=True)]
    if output.finish_reason not in ("stop", "length"):
        raise GeomrlError(
            f"vLLM ended a response with '{output.finish_reason}' instead of stop or length; the "
            "rollouts of this call cannot be used"
        )
    return Completion(ids, logprobs, output.finish_reason)
