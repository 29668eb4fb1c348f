"""Families of solutions: what they call their constants, and where they begin to count.

Runs in workers only, as `symbolic` does.
"""

from __future__ import annotations

import re
from itertools import permutations
from typing import Any

import sympy

_CONSTANT = re.compile(r"[cC](?:_\{?\d\}?)?$")
_CALLED_OTHERWISE = re.compile(r"(?:[cCkK](?:_\{?\d\}?)?|[ABD])$")
_INTEGER = re.compile(r"[klmnjN]$")
_MAX_CONSTANTS = 4


def with_same_constants(gold: Any, answer: Any) -> tuple[Any, Any]:
    """Both expressions, the answer's arbitrary constants called as in the gold answer.

    `C e^{-2x}` is `c e^{-2x}`, in whatever order several constants are numbered. Only names that
    the other side does not use are changed, one for one. A letter alone is a choice, and no
    constant: B does not answer C.
    """
    if gold.is_Symbol or answer.is_Symbol:
        return gold, answer
    mine = {symbol.name: symbol for symbol in gold.free_symbols}
    theirs = {symbol.name: symbol for symbol in answer.free_symbols}
    new = sorted(name for name in mine if name not in theirs)
    old = sorted(name for name in theirs if name not in mine)
    if (
        len(new) != len(old)
        or not 0 < len(new) <= _MAX_CONSTANTS
        or not all(map(_CONSTANT.match, new))
        or not all(map(_CALLED_OTHERWISE.match, old))
    ):
        return gold, answer
    candidates = [
        answer.xreplace({theirs[a]: mine[b] for a, b in zip(old, order, strict=True)})
        for order in permutations(new)
    ]
    same = [candidate for candidate in candidates if (gold - candidate).expand() == 0]
    return gold, (same or candidates)[0]


def same_family(one: Any, other: Any) -> bool:
    """Whether `a + b k` and `c + b k` with an integer k run through the same values.

    Only where b is a multiple of pi, and the only variable of both is a letter that counts.
    """
    symbols = one.free_symbols | other.free_symbols
    if len(symbols) != 1 or one.free_symbols != other.free_symbols:
        return False
    (symbol,) = symbols
    steps = [side.diff(symbol) for side in (one, other)]
    starts = [side.subs(symbol, 0) for side in (one, other)]
    if not _INTEGER.match(symbol.name) or any(step.free_symbols for step in steps):
        return False
    turns = [sympy.nsimplify(step / sympy.pi) for step in steps]
    if not (turns[0].is_Rational and turns[0] != 0 and turns[0] == turns[1]) or not any(starts):
        return False
    shift = sympy.simplify((starts[0] - starts[1]) / steps[0])
    return bool(shift.is_Integer)
