"""Numbers that can be read and compared exactly, without a computer algebra system."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

RELATIVE_TOLERANCE = Fraction(1, 10_000)
_MAX_DIGITS = 400  # longer numerals are compared as text

_DECIMAL = r"\d+(?:\.\d*)?|\.\d+"
_SIGNED = re.compile(rf"([-+]?)\s*({_DECIMAL})")
_FRACTION = re.compile(
    rf"([-+]?)\s*(?:\\frac\s*\{{\s*([-+]?)\s*({_DECIMAL})\s*\}}\s*\{{\s*([-+]?)\s*({_DECIMAL})\s*\}}"
    rf"|({_DECIMAL})\s*/\s*([-+]?)\s*({_DECIMAL}))"
)
_MIXED = re.compile(r"([-+]?)\s*(\d+)\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_SCIENTIFIC = re.compile(
    rf"([-+]?)\s*({_DECIMAL})\s*(?:(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?:\{{\s*([-+]?\d+)\s*\}}"
    r"|([-+]?\d+))|[eE]([-+]?\d+))"
)
_POWER_OF_TEN = re.compile(r"([-+]?)\s*10\s*\^\s*(?:\{\s*([-+]?\d{1,4})\s*\}|(-?\d{1,4}))")
_REPEATING = re.compile(r"([-+]?)\s*(\d*)\.(\d*)\s*\\(?:overline|bar|dot)\s*\{\s*(\d+)\s*\}")
_BASED = re.compile(
    r"\(?\s*([-+]?[0-9A-Za-z.]*\d[0-9A-Za-z.]*+|[A-Fa-f]{2,20})\s*\)?\s*_\s*"
    r"(?:\{\s*\(?(\d{1,2})\)?\s*\}|(\d))"
)
_CLOCK = re.compile(r"(\d{1,2})(?::(\d{2}))?\s*(?:\\unit\{([ap])m\})?")
_DECIMAL_COMMA = re.compile(r"([-+]?)(\d+),(\d+)")


@dataclass(frozen=True)
class Numeral:
    """A number as it was written.

    `value` is exact. `step` is one unit of the last written decimal for a number with a decimal
    point (0.50 has the step 1/100), and None where nothing was rounded. `percent` says that a
    percent sign followed; `literal` that it was a plain integer or decimal.
    """

    value: Fraction
    step: Fraction | None = None
    percent: bool = False
    literal: bool = False


def read_numeral(normal: str) -> Numeral | None:
    """Read a normal form that is one number; None when it is anything else.

    Integers, decimals (also repeating), fractions, mixed numbers and scientific notation, each
    with an optional sign and percent sign. A mixed number needs a proper fraction: `11 6/6` is not
    a number.
    """
    if len(normal) > _MAX_DIGITS or not any(character.isdigit() for character in normal):
        return None
    text = normal.strip()
    percent = text.endswith("\\%")
    text = text.removesuffix("\\%").rstrip()
    numeral = _read_unsigned_percent(text)
    if numeral is None:
        return None
    return Numeral(numeral.value, numeral.step, percent, numeral.literal)


def read_decimal_comma(normal: str) -> Numeral | None:
    """Read `1000,99` as 1000.99, unless the comma can group thousands."""
    match = _DECIMAL_COMMA.fullmatch(normal.strip())
    if match is None or (len(match[3]) == 3 and match[2] != "0") or len(normal) > _MAX_DIGITS:
        return None
    return _literal(match[1], f"{match[2]}.{match[3]}", exponent=0)


@dataclass(frozen=True)
class BasedNumeral:
    """Digits in a positional system, as `2B_{16}` writes them."""

    digits: str
    base: int


def read_based(normal: str) -> BasedNumeral | None:
    """Read a numeral with its base as a subscript; None where a digit exceeds the base.

    >>> read_based("2b_{16}"), read_based("x_1"), read_based("3_2")
    (BasedNumeral(digits='2B', base=16), None, None)
    """
    match = _BASED.fullmatch(normal.strip())
    if match is None or len(normal) > _MAX_DIGITS:
        return None
    digits, base = match[1].upper(), int(match[2] or match[3])
    plain = digits.lstrip("+-").replace(".", "", 1)
    if not all(character.isalnum() and int(character, 36) < base for character in plain):
        return None
    return BasedNumeral(digits.lstrip("+"), base)


def same_digits(based: BasedNumeral, plain: str) -> bool:
    """Whether a numeral without its base has the digits of one with it."""
    return plain.strip().strip("()").upper() == based.digits


def read_clock(normal: str) -> tuple[int, int, str] | None:
    """Read `3:45` or `3 p.m.` as hour, minute and "a", "p" or ""; None for anything else."""
    match = _CLOCK.fullmatch(normal.strip())
    if match is None or not (match[2] or match[3]):
        return None
    hour, minute = int(match[1]), int(match[2] or 0)
    return (hour, minute, match[3] or "") if hour <= 24 and minute < 60 else None


def same_time(one: tuple[int, int, str], other: tuple[int, int, str]) -> bool:
    """Whether two times of day agree; `3:45` may mean the afternoon, `15:45` must."""
    if one[2] and other[2]:
        return one == other
    return one[:2] == other[:2] or _in_24_hours(one) == _in_24_hours(other)


def _in_24_hours(time: tuple[int, int, str]) -> tuple[int, int]:
    hour, minute, half = time
    return (hour % 12 + 12 if half == "p" else hour % 12 if half == "a" else hour), minute


def _read_unsigned_percent(text: str) -> Numeral | None:
    if match := _SIGNED.fullmatch(text):
        return _literal(match[1], match[2], exponent=0)
    if match := _SCIENTIFIC.fullmatch(text):
        exponent = int(match[3] or match[4] or match[5])
        return _literal(match[1], match[2], exponent) if abs(exponent) <= _MAX_DIGITS else None
    if match := _POWER_OF_TEN.fullmatch(text):
        exponent = int(match[2] or match[3])
        return _literal(match[1], "1", exponent) if abs(exponent) <= _MAX_DIGITS else None
    if match := _MIXED.fullmatch(text):
        whole, numerator, denominator = (int(match[i]) for i in (2, 3, 4))
        if not 0 <= numerator < denominator:
            return None
        return Numeral(_sign(match[1]) * (whole + Fraction(numerator, denominator)))
    if match := _REPEATING.fullmatch(text):
        return Numeral(_sign(match[1]) * _repeating(match[2], match[3], match[4]))
    if match := _FRACTION.fullmatch(text):
        top, bottom = Fraction(match[3] or match[6]), Fraction(match[5] or match[8])
        if bottom == 0:
            return None
        sign = _sign(match[1]) * _sign(match[2]) * _sign(match[4]) * _sign(match[7])
        return Numeral(sign * top / bottom)
    return None


def _repeating(whole: str, fixed: str, cycle: str) -> Fraction:
    """0.1\\overline{6} is 1/10 + 6/90."""
    head = Fraction(f"{whole or 0}.{fixed or 0}")
    return head + Fraction(int(cycle), (10 ** len(cycle) - 1) * 10 ** len(fixed))


def _literal(sign: str, digits: str, exponent: int) -> Numeral:
    value = _sign(sign) * Fraction(digits) * Fraction(10) ** exponent
    _, point, decimals = digits.partition(".")
    step = Fraction(10) ** (exponent - len(decimals)) if point and decimals else None
    return Numeral(value, step, literal=True)


def _sign(sign: str | None) -> int:
    return -1 if sign == "-" else 1


def same_number(one: Numeral, other: Numeral) -> bool:
    """Whether two written numbers are the same answer; symmetric.

    Exact numbers must be equal. A decimal stands for what rounds to it: it equals another number
    that rounds to the same decimal at the coarser of the two steps, provided that the two differ
    by less than 1e-4 of the larger, so that 0.3 is not 1/3 and 1e-7 is not 2e-7.

    A percent sign may be dropped (10% is 10, as answer keys write it, and also 0.1), except after
    a fraction or a mixed number.
    """
    if one.percent == other.percent:
        return close(one.value, other.value, _coarser(one.step, other.step))
    percent, plain = (one, other) if one.percent else (other, one)
    hundredth = Fraction(1, 100)
    scaled_step = percent.step * hundredth if percent.step is not None else None
    as_share = close(percent.value * hundredth, plain.value, _coarser(scaled_step, plain.step))
    dropped = percent.literal and plain.literal
    return as_share or (
        dropped and close(percent.value, plain.value, _coarser(percent.step, plain.step))
    )


def _coarser(one: Fraction | None, other: Fraction | None) -> Fraction | None:
    steps = [step for step in (one, other) if step is not None]
    return max(steps) if steps else None


def close(one: Fraction, other: Fraction, step: Fraction | None) -> bool:
    """Equal, or equal after rounding to `step` and within the relative tolerance."""
    if one == other:
        return True
    if step is None or abs(one - other) >= RELATIVE_TOLERANCE * max(abs(one), abs(other)):
        return False
    return _round_half_up(one, step) == _round_half_up(other, step)


def _round_half_up(value: Fraction, step: Fraction) -> int:
    rounded = (2 * abs(value) + step) // (2 * step)
    return int(rounded) if value >= 0 else -int(rounded)
