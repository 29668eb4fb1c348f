"""Sampling settings of evaluations that others have published."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from geomrl.errors import GeomrlError
from geomrl.rollout.engine import Sampling


@dataclass(frozen=True)
class Preset:
    """How an evaluation samples: n responses a problem. `source` says who does so."""

    n: int
    sampling: Sampling
    source: str


PRESETS: dict[str, Preset] = {
    "edas": Preset(
        32,
        Sampling(temperature=0.7, top_p=0.8, top_k=20, max_tokens=8192),
        "EDAS, arXiv 2605.17333: avg@32 at temperature 0.7, top-p 0.8, top-k 20. That Hidden-Align "
        "evaluates so, and 8192 tokens (EDAS trains with 8192 to 10240), are our assumptions",
    ),
    "dapo": Preset(
        32,
        Sampling(temperature=1.0, top_p=0.7, top_k=0, max_tokens=20480),
        "DAPO, arXiv 2503.14476, section 4.1: avg@32 at temperature 1.0, top-p 0.7; 20480 tokens are "
        "the response length of its public training script",
    ),
    "greedy": Preset(
        1,
        Sampling(temperature=0.0, top_p=1.0, top_k=0, max_tokens=8192),
        "the likeliest token each time, once a problem; 8192 tokens are our assumption",
    ),
}


def preset(
    name: str,
    *,
    n: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
) -> Preset:
    """Return a preset with what is given put in its place.

    Args:
        name: a key of `PRESETS`.
        n: samples a problem.
        temperature: 0 is greedy.
        top_p: 1 is off.
        top_k: 0 is off.
        max_tokens: response tokens at most.

    Raises:
        GeomrlError: the name is unknown, or several greedy samples are asked for.
    """
    if name not in PRESETS:
        raise GeomrlError(f"preset '{name}' is unknown; choose among {', '.join(PRESETS)}")
    own = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "max_tokens": max_tokens}
    given: dict[str, Any] = {key: value for key, value in own.items() if value is not None}
    chosen = PRESETS[name]
    changed = replace(
        chosen,
        n=chosen.n if n is None else n,
        sampling=replace(chosen.sampling, **given),
    )
    if changed.sampling.temperature == 0 and changed.n > 1:
        raise GeomrlError(
            f"n = {changed.n} greedy samples would all be the same; take -n 1, or a temperature"
        )
    return changed
