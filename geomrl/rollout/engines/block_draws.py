"""Exact draws from a large vocabulary, without sorting it and without noise for every token.

The vocabulary lies in blocks of `BLOCK` tokens. A token is drawn by two races: one of the blocks'
probabilities, then one of the tokens in the block that won, so that a row takes noise for V / 128
blocks and 128 tokens. In a race everyone has an exponential time with its probability as the rate,
and the first wins (Gumbel's maximum in other words): P(block) P(token | block) = P(token). As with a
race of all, a difference of 1e-6 in the logits changes a draw only at a near tie.

Noise is a hash of (seed, step, place), the same on every device, so that no generator has a state.

The largest k tokens lie in the k blocks with the largest maxima, since every other block has k
tokens above it or equal to it. Top-k and most nuclei (top-p) are found there; a nucleus that is
larger is found by the mass in buckets of almost equal probability, of which only the one that
crosses top_p is sorted.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomrl.rollout.engine import Sampling

BLOCK = 128
_CANDIDATES = 64  # tokens among which a nucleus is sought first
_CACHED = 2**19  # logits worked on at once on a CPU: what its cache has room for
_AT_ONCE = 2**25  # elsewhere

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # SplitMix64's constants, as signed numbers
_MIX = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))

Weights = Float[Tensor, "rows blocks block"]
"""Probabilities up to a factor by row: exp(logit / temperature - largest)."""


def draw_tokens(
    logits: Float[Tensor, "rows vocabulary"],
    sampling: Sampling,
    seeds: Int[Tensor, " rows"],
    step: int,
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Draw a token for every row, or take the likeliest at temperature 0.

    Args:
        logits: the model's, in any number format.
        sampling: top-k keeps all tokens that equal the k-th. Top-p keeps a token where those that are
            likelier, and those as likely with a lower id, have less than top_p in sum.
        seeds: of the rows.
        step: the number of tokens drawn before.

    Returns:
        The tokens and their natural log-probabilities under what they were drawn from; not finite
        where a row has no finite maximum.
    """
    room = _CACHED if logits.device.type == "cpu" else _AT_ONCE
    size = max(1, room // logits.shape[-1])
    drawn = [
        _draw(rows, sampling, own, step)
        for rows, own in zip(logits.split(size), seeds.split(size), strict=True)
    ]
    return torch.cat([ids for ids, _ in drawn]), torch.cat([logprobs for _, logprobs in drawn])


def _draw(
    logits: Float[Tensor, "rows vocabulary"],
    sampling: Sampling,
    seeds: Int[Tensor, " rows"],
    step: int,
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    weights = kept_weights(logits, sampling)
    n_blocks = weights.shape[1]
    masses = weights.sum(-1).double()  # [rows, blocks]
    if sampling.temperature > 0:
        noise = exponentials(seeds, step, n_blocks + BLOCK)
        block = (masses / noise[:, :n_blocks]).argmax(-1)
        inside = _blocks(weights, block[:, None])[:, 0].double()  # [rows, block]
        place = (inside / noise[:, n_blocks:]).argmax(-1)
    else:
        block = weights.amax(-1).argmax(-1)
        inside = _blocks(weights, block[:, None])[:, 0].double()
        place = inside.argmax(-1)
    own = inside.gather(-1, place[:, None])[:, 0]
    return block * BLOCK + place, (own / masses.sum(-1)).log().float()


def kept_weights(logits: Float[Tensor, "rows vocabulary"], sampling: Sampling) -> Weights:
    """Return the weights of the tokens that top-k and top-p keep; all others have 0.

    Args:
        logits: in any number format; the weights are float32.
        sampling: temperature 0 counts as 1.
    """
    rows, vocabulary = logits.shape
    n_blocks = -(-vocabulary // BLOCK)
    flat = logits.new_full((rows, n_blocks * BLOCK), -torch.inf, dtype=torch.float32)
    flat[:, :vocabulary] = logits
    weights = flat.view(rows, n_blocks, BLOCK)
    largest = flat.amax(-1)[:, None]
    k = sampling.top_k if 0 < sampling.top_k < vocabulary else None
    in_top = None if k is None else _at_least(flat, _largest(weights, k)[:, -1:])
    flat.sub_(largest)
    if sampling.temperature not in (0, 1):
        flat.div_(sampling.temperature)
    flat.exp_()
    if in_top is not None:
        flat.mul_(in_top)
    if sampling.top_p < 1:
        _keep_nucleus(weights, sampling.top_p)
    return weights


def _keep_nucleus(weights: Weights, top_p: float) -> None:
    """Set all weights outside of the nuclei to 0."""
    flat = weights.flatten(1)
    target = top_p * weights.sum(-1).double().sum(-1, keepdim=True)  # [rows, 1]; NaN: not finite
    likeliest = _largest(weights, min(_CANDIDATES, flat.shape[-1]))
    sums = likeliest.double().cumsum(-1)
    kept = sums - likeliest < target  # [rows, candidates], a run from the left
    last = likeliest.gather(-1, kept.sum(-1, keepdim=True).clamp(min=1) - 1)
    # Found where the crossing is among them, and all tokens as likely as the last one are kept.
    found = (last > likeliest[:, -1:]) & ((likeliest >= last) == kept).all(-1, keepdim=True)
    flat.mul_(_at_least(flat, torch.where(found, last, 0)))
    large = torch.isfinite(target) & ~found
    for row in large[:, 0].nonzero()[:, 0].tolist():
        _keep_large_nucleus(flat[row], target[row])


def _keep_large_nucleus(weights: Float[Tensor, " vocabulary"], target: Tensor) -> None:
    """Set the weights outside of one row's nucleus to 0, whatever its size.

    A weight's bucket is its exponent and 7 bits of its fraction: buckets are in order, and their
    members differ by 1 % at most.
    """
    bucket = weights.view(torch.int32) >> 16
    mass = torch.zeros(int(bucket.max()) + 1, dtype=torch.float64, device=weights.device)
    mass.scatter_add_(0, bucket.long(), weights.double())
    above = mass.flip(0).cumsum(0).flip(0) - mass  # of all buckets of likelier tokens
    crossing = ((above < target) & (mass > 0)).nonzero()[
        0, 0
    ]  # the lowest that begins before top_p
    members = (bucket == crossing).nonzero()[:, 0]
    ordered, order = weights[members].sort(descending=True, stable=True)
    kept = above[crossing] + ordered.double().cumsum(0) - ordered < target
    weights.mul_(_at_least(weights, ordered[kept][-1]))
    weights[members[order[~kept]]] = 0  # as likely as the last one, with higher ids


def _largest(values: Weights, k: int) -> Float[Tensor, "rows k"]:
    """Return the k largest values of every row, the largest first."""
    if k < values.shape[1]:
        fullest = values.amax(-1).topk(k, dim=-1, sorted=False).indices
        values = _blocks(values, fullest)
    return values.flatten(1).topk(k, dim=-1).values


def _at_least(values: Tensor, bound: Tensor) -> Tensor:
    """Return 1 where a value reaches its bound and 0 elsewhere: on a CPU 10 times a mask's speed."""
    return torch.ge(values, bound, out=torch.empty_like(values))


def _blocks(values: Weights, which: Int[Tensor, "rows k"]) -> Float[Tensor, "rows k block"]:
    return values.gather(1, which[:, :, None].expand(-1, -1, BLOCK))


def exponentials(seeds: Int[Tensor, " rows"], step: int, n: int) -> Float[Tensor, "rows n"]:
    """Return standard exponential noise: the numbers 0 .. n - 1 of (seed, step), in float64.

    They are the output of SplitMix64 (Steele, Lea and Flood 2014), started from a hash of the two.
    """
    start = _mixed(seeds + _wrapped((step + 1) * _GOLDEN))
    place = torch.arange(1, n + 1, device=seeds.device) * _GOLDEN
    uniform = _shifted(_mixed(start[:, None] + place), 11).double() * 2.0**-53  # [0, 1)
    return (-torch.log1p(-uniform)).clamp_(min=torch.finfo(torch.float64).tiny)


def _mixed(state: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Return SplitMix64's output for its states; 64-bit products wrap around."""
    for shift, factor in _MIX:
        state = (state ^ _shifted(state, shift)) * factor
    return state ^ _shifted(state, 31)


def _shifted(bits: Int[Tensor, "*shape"], by: int) -> Int[Tensor, "*shape"]:
    """Shift to the right as an unsigned number."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _wrapped(number: int) -> int:
    """Return a whole number modulo 2**64 as a signed one."""
    return (number + 2**63) % 2**64 - 2**63
