"""Numbers with their units: `8 km`, `5\\text{ apples}`, `30^\\circ`, `\\$8`.

A unit that only one of two answers names was left out by the other, and costs nothing. Where both
name one, they must measure the same thing, and are converted: 8 km is 8000 m, but not 8 m. Words
that are no unit (`8 apples`) only say what was counted.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from geomrl.verify.numbers import read_numeral
from geomrl.verify.units import (
    CJK,
    Unit,
    is_plain_unit_word,
    is_unit_word,
    may_be_unit,
    ratio,
    read_unit,
)

UNIT = r"\unit{"  # how a normal form marks what a text command said behind a number

_NUMBER = re.compile(
    r"[-+]?(?:[\d.,:\s/^*()+{}=-]|\\(?:frac|sqrt|pi|times|cdot|pm|circ|infty|le|ge|ne)(?![A-Za-z])"
    r"|(?<=\d)[eE](?=[-+]?\d)|\\%)*+"
)
_DEGREES = re.compile(r"\^\{\\circ\}\s*([CF]?)$")
_TAIL = re.compile(rf"[A-Za-z{CJK}][A-Za-z{CJK}'\s./^*(){{}}\d-]*+$")
_SYMBOL = r"(?:[mgshLlNJWVKCFAT]|\\Omega|[kM]?ohm)(?:\s*\^\s*\{?\s*-?\d\s*\}?)?"
_LETTER = re.compile(rf"{_SYMBOL}(?:(?:\s*+(?:\\cdot|\*)\s*+|\s++)[kMm]?{_SYMBOL})*$")
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(?:\\unit\{([^{}]*)\}|([A-Za-z]+))[\s,]*")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_DEGREE, _RADIAN = read_unit("deg"), read_unit("rad")


@lru_cache(maxsize=4096)
def split_unit(normal: str) -> tuple[str, Unit | None]:
    """The value of a normal form, and its unit; None where it has none.

    >>> split_unit("125 miles")[0], split_unit("2x")
    ('125', ('2x', None))
    """
    text = normal.strip()
    if (total := _read_sum(text)) is not None:
        return total
    marked = text.rfind(UNIT)
    if marked > 0 and text.find("}", marked) == len(text) - 1:
        value = text[:marked].rstrip()
        return (value, read_unit(text[marked + len(UNIT) : -1])) if _is_one(value) else (text, None)
    number = _NUMBER.match(text)
    value = text[: number.end()].rstrip() if number else ""
    if (degrees := _DEGREES.search(text)) and degrees.start() < len(value):
        name = {"": "deg", "C": "celsius", "F": "fahrenheit"}[degrees[1]]
        angle = text[: degrees.start()].rstrip()
        return (angle, read_unit(name)) if _is_complete(angle) else (text, None)
    tail = text[len(value) :].lstrip()
    spaced = len(value) + len(tail) < len(text)
    words = tail.replace(r"\cdot", " ")
    if tail and _is_complete(value) and _TAIL.match(words) and _is_plain_unit(words, spaced):
        return value, read_unit(words)
    return text, None


def _read_sum(text: str) -> tuple[str, Unit] | None:
    """`5 ft 3 in` and `2 hours, 30 minutes` in their smaller unit."""
    parts = list(_PART.finditer(text))
    if not 2 <= len(parts) <= 4 or sum(len(part.group()) for part in parts) != len(text):
        return None
    units = [read_unit(part[2] or part[3]) for part in parts]
    factors = [unit.factor for unit in units]
    alike = units[0].powers and all(unit.powers == units[0].powers for unit in units)
    if not alike or any(one <= other for one, other in pairwise(factors)):
        return None
    total = sum(Fraction(part[1]) * factor for part, factor in zip(parts, factors, strict=True))
    value = total / factors[-1]
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}", units[-1]


def _split_letter(normal: str) -> tuple[str, Unit | None]:
    """As `split_unit`, for one bare letter, which might as well be a variable."""
    text = normal.strip()
    number = _NUMBER.match(text)
    value = text[: number.end()].rstrip() if number else ""
    tail = text[len(value) :].lstrip()
    if _is_complete(value) and _LETTER.match(tail):
        return value, read_unit(tail.replace(r"\Omega", "ohm"))
    return text, None


def _is_complete(number: str) -> bool:
    """`1-1/` ends in an operator: what follows is a part of it."""
    return number.endswith(r"\%") or number[-1:].isdigit() or number[-1:] in (")", "}", ".")


def _is_one(value: str) -> bool:
    """Not a list of quantities, of which each has its own unit, and no half of a bracket."""
    depth = 0
    for character in value:
        depth += (character in "([{") - (character in ")]}")
    return depth == 0 and UNIT not in value


def _is_plain_unit(tail: str, spaced: bool) -> bool:
    """Whether bare letters are a unit, or words, and not a product of variables: `2ab`."""
    words = re.findall(rf"[A-Za-z']+|[{CJK}]+", tail)
    if not may_be_unit(tail):
        return False
    if not words[0].isascii():
        return True
    if all(is_unit_word(word) for word in words) and (
        "/" in tail or all(is_plain_unit_word(word) for word in words)
    ):
        return True
    nouns = [word for word in words if len(word) > 2 and word.lower() not in _ALPHABET]
    return spaced and bool(nouns) and all(len(word) > 1 or word == "a" for word in words)


def in_one_unit(gold: str, answer: str) -> list[tuple[str, str]] | None:
    """The values of both normal forms in the gold's unit, in each way they can be read.

    Empty where their units measure different things; None where neither has a unit. A bare letter
    counts as one only beside a number or another unit: `5 m` answers 5, and 5 km answers `5000 m`,
    but 2 does not answer `2c`.
    """
    (value, unit), (other_value, other) = split_unit(gold), split_unit(answer)
    if unit is None and other is not None:
        value, unit = _split_letter(gold)
    elif other is None and (unit is not None or read_numeral(gold) is not None):
        other_value, other = _split_letter(answer)
    if unit is not None and other is not None:
        return _converted(value, unit, other_value, other)
    if unit is not None:
        return [(reading, answer) for reading in _readings(value, unit, answer)]
    if other is not None:
        return [(gold, reading) for reading in _readings(other_value, other, gold)]
    return None


def _readings(value: str, unit: Unit, bare: str) -> list[str]:
    """What a value with a unit may be written as without: 1.5 million, and an angle in radians."""
    if unit == _DEGREE and r"\pi" in bare:
        return [_in_radians(value)]
    return [value] if unit.scale == 1 else [value, scaled(value, unit.scale)]


def _converted(value: str, unit: Unit, other_value: str, other: Unit) -> list[tuple[str, str]]:
    if (unit, other) == (_DEGREE, _RADIAN):
        return [(_in_radians(value), other_value)]
    if (unit, other) == (_RADIAN, _DEGREE):
        return [(value, _in_radians(other_value))]
    factor = ratio(unit, other)
    return [] if factor is None else [(value, scaled(other_value, factor))]


def _in_radians(degrees: str) -> str:
    return rf"\frac{{\pi}}{{180}} \cdot ({degrees})"


def scaled(value: str, factor: Fraction) -> str:
    """`factor` times a value, as text. A decimal keeps what it was rounded to, where it can."""
    if factor == 1:
        return value
    numeral = read_numeral(value)
    if numeral is None:
        return rf"\frac{{{factor.numerator}}}{{{factor.denominator}}} \cdot ({value})"
    digits = len(str(max(factor.numerator, factor.denominator))) - 1
    exponent = digits if factor > 1 else -digits
    if Fraction(10) ** exponent == factor and re.fullmatch(r"[-+]?[\d.]+", value):
        return f"{value}e{exponent}"
    product = numeral.value * factor
    return rf"\frac{{{product.numerator}}}{{{product.denominator}}}"
