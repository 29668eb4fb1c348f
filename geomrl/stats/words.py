"""A value with its interval in words, as tables print it."""

from __future__ import annotations

TOO_FEW = 5
"""Below so many problems an interval says nothing: one of three cosines may run from -1.6 to 1.4."""


def interval_words(
    value: float | None,
    low: float | None = None,
    high: float | None = None,
    *,
    digits: int = 3,
    signed: bool = False,
    n: int | None = None,
) -> str:
    """Return a value with its interval in parentheses, where it has one.

    Args:
        value: None prints "-".
        low: the interval's lower limit; None or NaN where there is no interval.
        high: its upper limit.
        digits: decimals.
        signed: print a plus, too: of a difference.
        n: how many problems the interval is over; below `TOO_FEW` that is printed in its place.

    >>> interval_words(0.25, 0.2, 0.3), interval_words(0.25, float("nan"), float("nan"))
    ('0.250 (0.200, 0.300)', '0.250')
    >>> interval_words(0.05, 0.0, 0.1, signed=True), interval_words(None)
    ('+0.050 (+0.000, +0.100)', '-')
    >>> interval_words(0.25, -1.6, 1.4, n=3)
    '0.250 (too few)'
    """
    if value is None:
        return "-"
    form = f"{'+' if signed else ''}.{digits}f"
    if low is None or high is None or low != low:
        return f"{value:{form}}"
    if n is not None and n < TOO_FEW:
        return f"{value:{form}} (too few)"
    return f"{value:{form}} ({low:{form}}, {high:{form}})"
