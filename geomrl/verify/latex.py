"""The LaTeX of an answer in one spelling: `\\dfrac12`, `\\leqslant`, `np.sqrt(2)`, `**`, `\\$5`."""

from __future__ import annotations

import re
from collections.abc import Callable

from geomrl.verify.words import TEXT_COMMAND

_FUNCTIONS = "(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|exp|gcd|lcm|max|min|det|arg|pi"
_CALLED = "arc(?:sin|cos|tan)|(?:sin|cos|tan)h?|cot|sec|csc|log|ln|exp|gcd|lcm|max|min"
_CURRENCY = r"\\\$|[€£¥₹]|(?<![A-Za-z])Rs\.?(?![A-Za-z])"
_MONEY = {"$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY", "₹": "INR", "R": "INR"}
_BASE_NAMES = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
)
_BASES = _BASE_NAMES.replace(" ", "|") + r"|\d{1,2}"


def _mixed_number(match: re.Match[str]) -> str:
    whole, numerator, denominator = match.groups()
    proper = len(numerator) < 20 > len(denominator) and int(numerator) < int(denominator)
    return rf"{whole}\frac{{{numerator}}}{{{denominator}}}" if proper else match.group()


def _money(match: re.Match[str]) -> str:
    """The number, and the sign of its currency as its unit."""
    return rf"{match[2]}\unit{{{_MONEY[match[1].removeprefix(chr(92))[0]]}}}"


def _base(match: re.Match[str]) -> str:
    """A numeral's base as its subscript, in digits."""
    names = _BASE_NAMES.split()
    base = names.index(match[1]) + 2 if match[1] in names else int(match[1])
    return f"_{{{base}}}"


_REWRITES: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\!\s*", ""),  # negative space: 32,\!349
        (r"(?<=\d)\{,\}\s*(?=\d)", ""),  # a brace keeps TeX from spacing a thousands comma
        (r"\{([:,;])\}", r"\1"),  # 3{:}45
        (rf"(?:US)?({_CURRENCY})\s*(\d(?:[\d,.]*\d)?)", _money),
        (rf"(?<=\d)\s*({_CURRENCY})()", _money),
        (r"\\?\$|[€£¥₹]", ""),  # math mode inside the answer, and other signs of money
        (r"(?<!\\)\\(?:[,;:>]|(?:quad|qquad|enspace|thinspace)(?![A-Za-z])|[ ])|~", " "),
        (r" {2,}", " "),  # so that no later expression meets a run of white space
        (rf"{TEXT_COMMAND}\s*\{{\s*({_FUNCTIONS})\s*\}}(?!\s*(?:$|[,;]))", r"\\\1 "),
        # numpy's and Python's names: np.arcsin(x), math.log(x), sin(pi*x)
        (r"(?<![A-Za-z\\])(?:np|numpy|math|sp|sympy)\.log(?![0-9A-Za-z])", r"\\ln "),
        (r"(?<![A-Za-z\\])(?:np|numpy|math|sp|sympy)\.(?=[A-Za-z])", ""),
        (r"(?<![A-Za-z\\])log(10|2)(?=\()", r"\\log_{\1}"),
        (r"(?<![A-Za-z\\])a(sin|cos|tan)(?=\()", r"\\arc\1"),
        (rf"(?<![A-Za-z\\])({_CALLED})(?=\s*[(\\]|\^|\s+\w)", r"\\\1 "),
        (r"(?<![A-Za-z\\])sqrt(?=\s*[({])", r"\\sqrt"),
        (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
        (r"\\[hv]space\*?\{[^{}]*\}", " "),
        (r"\\(?:displaystyle|textstyle|limits|nolimits|left|right|[bB]igg?[lrm]?)(?![A-Za-z])", ""),
        (r"\\left(?=[.])|\\right(?=[.])", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\dbinom(?![A-Za-z])|\\tbinom(?![A-Za-z])", r"\\binom"),
        (r"\\(?:leq|leqslant)(?![A-Za-z])", r"\\le "),
        (r"\\(?:geq|geqslant)(?![A-Za-z])", r"\\ge "),
        (r"\\neq(?![A-Za-z])|!=", r"\\ne "),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\*\*", "^"),  # Python's power
        (r"\\bmod(?![A-Za-z])|(?<![A-Za-z\\])mod(?![A-Za-z])", r"\\mod "),
        (r"\\equiv(?![A-Za-z])|(?<=[A-Za-z])\s*\\approx(?![A-Za-z])", "="),
        (r"(?<=[A-Za-z)\d}])('+)", lambda m: rf"^{{{' '.join([chr(92) + 'prime'] * len(m[1]))}}}"),
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
        (r"\\(?:lbrace|rbrace)(?![A-Za-z])", lambda m: r"\{" if "l" in m.group()[:2] else r"\}"),
        (r"\\degree(?![A-Za-z])|\^\s*\\circ(?![A-Za-z])|\^\{\s*\\circ\s*\}", r"^{\\circ}"),
        (r"\\(?:rm|bf|it|sf|tt)(?![A-Za-z])", ""),
        (r"(?i)\\?%|(?<![A-Za-z\\])(?:percent(?:age)?|per cent|pct)(?![A-Za-z])", r"\\%"),
        (rf"\s*{TEXT_COMMAND}\s*\{{\s*\\%\s*\}}", r"\\%"),
        # Base two in words: 110_{\text{two}}, (110)_{2}, 110 (base 2)
        (rf"_\s*\{{?\s*{TEXT_COMMAND}\s*\{{\s*(?:base\s*)?({_BASES})\s*\}}\s*\}}?", _base),
        (rf"_\s*\{{\s*(?:base\s*)?({_BASES})\s*\}}", _base),
        (
            rf"(?<=[\dA-F)])\s*+(?:{TEXT_COMMAND}\s*+\{{\s*+)?(?:\(\s*+)?(?:in )?base[\s~-]*(?:\}}\s*)?"
            rf"({_BASES})\s*\)?\}}?$",
            _base,
        ),
        # 50\,\Omega and 3\,\mu\text{m}
        (
            rf"(?<=[\d}}])\s*\\mu\s*(?:{TEXT_COMMAND}\s*\{{\s*)?([mgslLAVWFJH])(?![A-Za-z])\s*\}}?$",
            r"\\text{u\1}",
        ),
        (
            rf"(?<=[\d}}])\s*(?:{TEXT_COMMAND}\s*\{{\s*)?([kM])\s*\}}?\s*\\Omega(?![A-Za-z])",
            r"\\text{\1ohm}",
        ),
        (r"(?<![A-Za-z\\])infinity(?![A-Za-z])", r"\\infty "),
        # \frac12 and \sqrt3: TeX's own rule, one token is one argument.
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"\\sqrt\s*(\d|[A-Za-z](?![A-Za-z]))", r"\\sqrt{\1}"),
        (r"([\^_])\{(\w)\}(?!\w)", r"\1\2"),
        (r"_\{\\([A-Za-z]+)\}", r"_{\1}"),  # R_{\odot}: a subscript is a name
        (r"(?<![\w.}/])(\d+)[ ](\d+)/(\d+)(?![\w/.])", _mixed_number),  # 4 4/9
    )
]

_ROUND = re.compile(r"(\\sqrt|\^)\s*\(|[()]")


def one_spelling(text: str) -> str:
    """Rewrite an answer's LaTeX, and what Python and plain text write instead, in one spelling."""
    if _LONE_DOLLAR.match(text):
        text = text.replace("$", r"\$")
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text


_LONE_DOLLAR = re.compile(r"[-+]?\$\s*[\d.][^$]*$")


def braced_arguments(text: str) -> str:
    """`\\sqrt(x+1)` and `x^(1/2)` with braces, where their brackets are closed.

    >>> braced_arguments(r"\\sqrt((x+1)/2)")
    '\\\\sqrt{(x+1)/2}'
    """
    closers: list[int | None] = []
    places: dict[int, str] = {}
    for match in _ROUND.finditer(text):
        if match.group() == ")":
            opening = closers.pop() if closers else None
            if opening is not None:
                places[opening], places[match.start()] = "{", "}"
        else:
            closers.append(match.end() - 1 if match[1] else None)
    return "".join(places.get(place, character) for place, character in enumerate(text))
