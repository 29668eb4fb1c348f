"""Drawing the next token: temperature, top-k, top-p, and one draw a row from the row's own seed.

Two samplers, by the size of the vocabulary. Up to `RACED_WHOLE` tokens every token races: noise for
the whole vocabulary, sorted for top-p (sampler 1, the only one of geomrl 0.1.0). Above, that would
take longer than the model, so that tokens race block by block (sampler 2, `block_draws`). Both draw
exactly, from the same distribution; a seed draws other tokens from each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomrl.rollout.engine import Sampling
from geomrl.rollout.engines.block_draws import draw_tokens

RACED_WHOLE = 4096
"""Tokens of the largest vocabulary that sampler 1 draws from: noise for it takes less time than one
small layer."""

BLOCK_SAMPLER = 2


def sampler_settings(vocabulary: int, sampling: Sampling) -> dict[str, int]:
    """Return what a manifest records of the sampler: nothing where it is 1, or draws nothing."""
    raced = vocabulary <= RACED_WHOLE or sampling.temperature == 0
    return {} if raced else {"sampler": BLOCK_SAMPLER}


class TokenDraws:
    """The draws of a batch of requests, token by token; a row's depend on its own seed alone."""

    def __init__(self, seeds: Sequence[int], sampling: Sampling, device: torch.device) -> None:
        self.sampling = sampling
        self._noise = RowNoise(seeds, device)
        self._seeds = torch.tensor(seeds, device=device)

    def draw(
        self, logits: Float[Tensor, "rows vocabulary"], requests: Sequence[int], step: int
    ) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
        """Draw a token for every row, or take the likeliest at temperature 0.

        Args:
            logits: the model's.
            requests: whose row each one is.
            step: the number of tokens drawn before.

        Returns:
            The tokens, and their log-probabilities under what they were drawn from: not finite
            where the logits are not.
        """
        greedy = self.sampling.temperature == 0
        if logits.shape[-1] > RACED_WHOLE:
            seeds = self._seeds[torch.tensor(requests, device=logits.device)]
            return draw_tokens(logits, self.sampling, seeds, step)
        scores = processed_logprobs(logits.float(), self.sampling)
        tokens = scores.argmax(-1) if greedy else self._noise.draw(scores, requests)
        return tokens, scores.gather(-1, tokens[:, None])[:, 0]


class RowNoise:
    """Gumbel noise over a whole vocabulary, one generator a request.

    Taking the largest of log-probability plus Gumbel noise samples exactly, and a difference of 1e-6
    in the logits (another batch size) changes the draw only at a near tie; inverting the cumulative
    distribution would let such differences add up over the vocabulary.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def draw(
        self, scores: Float[Tensor, "rows vocabulary"], requests: Sequence[int]
    ) -> Int[Tensor, " rows"]:
        """Draw a token for every row; `requests` names each row's generator."""
        noise = torch.empty_like(scores)
        for row, request in enumerate(requests):
            noise[row].exponential_(generator=self.generators[request])
        return (scores - noise.log()).argmax(-1)


def processed_logprobs(
    logits: Float[Tensor, "rows vocabulary"], sampling: Sampling
) -> Float[Tensor, "rows vocabulary"]:
    """Return log-probabilities after temperature, top-k and top-p (left-out tokens are -inf).

    The order is that of transformers and vLLM: temperature, then top-k, then top-p; the token that
    crosses top_p is kept.
    """
    if sampling.temperature > 0:
        logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(
            -1, order, before >= sampling.top_p
        )
        logits = logits.masked_fill(dropped, -torch.inf)
    return logits.log_softmax(-1)
