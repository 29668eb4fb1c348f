"""The normal form of an answer: one spelling for what differs only in how it is written.

Everything here is text in, text out, linear in the answer's length, and free of heavy imports.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

_UNICODE = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "—": "-",
        "×": r"\times ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "÷": "/",
        "π": r"\pi ",
        "∞": r"\infty ",
        "√": r"\sqrt",
        "°": r"^{\circ}",
        "²": "^{2}",
        "³": "^{3}",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "±": r"\pm ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∈": r"\in ",
        "≈": r"\approx ",
        "½": r"\frac{1}{2}",
        "¼": r"\frac{1}{4}",
        "¾": r"\frac{3}{4}",
        "％": "%",
        "，": ",",
        "；": ";",
        "：": ":",
        "（": "(",
        "）": ")",
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
    }
)
_TEXT_COMMAND = (
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt)|mbox|hbox|operatorname\*?)"
)
_FUNCTIONS = "(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|exp|gcd|lcm|max|min|det|arg|pi"
_TEXT = re.compile(rf"{_TEXT_COMMAND}\s*\{{([^{{}}]*)\}}")
_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"))


def _mixed_number(match: re.Match[str]) -> str:
    whole, numerator, denominator = match.groups()
    proper = len(numerator) < 20 > len(denominator) and int(numerator) < int(denominator)
    return rf"{whole}\frac{{{numerator}}}{{{denominator}}}" if proper else match.group()


_REWRITES: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\\$|[€£¥₹]", ""),  # currency signs
        (r"\\!\s*", ""),  # negative space: 32,\!349
        (r"(?<=\d)\{,\}\s*(?=\d)", ""),  # a brace keeps TeX from spacing a thousands comma
        (r"\$", ""),  # what is left of math mode inside the answer
        (r"(?<!\\)\\(?:[,;:>]|(?:quad|qquad|enspace|thinspace)(?![A-Za-z])|[ ])|~", " "),
        (rf"{_TEXT_COMMAND}\s*\{{\s*({_FUNCTIONS})\s*\}}", r"\\\1 "),
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
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
        (r"\\(?:lbrace|rbrace)(?![A-Za-z])", lambda m: r"\{" if "l" in m.group()[:2] else r"\}"),
        (r"\\degree(?![A-Za-z])|\^\s*\\circ(?![A-Za-z])|\^\{\s*\\circ\s*\}", r"^{\\circ}"),
        (r"\\(?:rm|bf|it|sf|tt)(?![A-Za-z])", ""),
        (r"(?i)\\?%|(?<![A-Za-z\\])(?:percent(?:age)?|pct)(?![A-Za-z])", r"\\%"),
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
# A run of white space is entered at its start only and never given back: else n blanks cost n^2.
_SEPARATOR_WORD = re.compile(
    r"(?:(?<!\s)\s++,?\s*+|,\s*+)?"
    rf"(?:{_TEXT_COMMAND}\s*\{{\s*(?:and|or)\s*\}}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*+"
)
_APPROXIMATION = re.compile(r"(?<=[\d})])\s*\\approx(?![A-Za-z]).*$", re.DOTALL)
_LEAD_IN = re.compile(
    r"^(?:(?:so|thus|hence|therefore|we (?:get|find|have|obtain)|that|the|my|final|answer|result"
    r"|solution|is|are)(?![A-Za-z])[\s,:]*)+(?=[\d$\\(\[{+.-]|[A-Za-z]\s*(?:[=<>\\]|$))",
    re.IGNORECASE,
)
_LEAD_OUT = re.compile(r"(?<!\s)\s++is the (?:final )?(?:answer|result|solution)$", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_LONE_LETTER = re.compile(r"^\(\s*([A-Za-z])\s*\)$|^([A-Z])\s*[.:)]$")

# Units. A text command after a number is always one; a plain word only when it cannot be a
# product of variables.
_NUMERIC = (
    r"[-+]?(?:[\d.,\s/^*()+{}=-]|\\(?:frac|sqrt|pi|times|cdot|pm|circ|infty|le|ge|ne)(?![A-Za-z])"
    r"|\\%)*[\d)}]"
)
_POWER = r"(?:\s*\^\s*\{?-?\d+\}?)?"
_TEXT_UNITS = re.compile(
    rf"^(?P<number>{_NUMERIC}|[-+]?\d*\s*\\(?:pi|infty))\s*"
    rf"(?:{_TEXT_COMMAND}\s*\{{[^{{}}]*\}}{_POWER}[\s/.]*(?:\\cdot\s*)?)+$"
)
_SHORT_UNITS = (
    "cm|mm|km|nm|kg|mg|ml|mL|cc|ft|lbs?|oz|hrs?|mins?|mph|kph|k?Hz|MHz|GHz|kW|MW|kJ|MJ"
    r"|[kM]?eV|rad|k?Pa|AU|yrs?|M?pc|sq|km/h|m/s(?:\^2)?"
)
_PLAIN_UNITS = re.compile(
    rf"^(?P<number>{_NUMERIC})(?:\s*(?:{_SHORT_UNITS}){_POWER}"
    r"|\s+(?!(?:sin|cos|tan|cot|sec|csc|log|exp|sqrt|mod|infinity|and|not|abs|max)(?![a-z]))"
    r"(?:[A-Za-z]{3,}|sq|cu)\b\.?(?:[\s/-]+[A-Za-z]+\.?)*"
    rf"{_POWER})$"
)
_LETTER_UNIT = re.compile(rf"^(?P<number>{_NUMERIC})\s*[mgshLlNJWVKCF]{_POWER}$")
_DEGREES = re.compile(rf"^(?P<number>{_NUMERIC})\s*\^\{{\\circ\}}\s*[CF]?$")


@lru_cache(maxsize=4096)
def normal_form(answer: str) -> str:
    """The canonical spelling of an answer; equal normal forms are equal answers.

    Math delimiters, outer boxes, layout commands, units after a number, currency signs and
    degree signs go, and so do words that only introduce the answer. `\\frac12` and `\\dfrac{1}{2}`
    become `\\frac{1}{2}`, and `1 000` becomes `1000`. Letters keep their case, since a variable's
    case carries meaning.
    """
    text = _LEAD_OUT.sub("", _LEAD_IN.sub("", unwrap(answer)))
    text = unwrap(text).translate(_UNICODE)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = unwrap(_APPROXIMATION.sub("", _SEPARATOR_WORD.sub(",", text)))
    text = strip_units(text)
    text = join_thousands(re.sub(r"(?<=\d)\s+(?=\\%)", "", text))
    text = _TEXT.sub(r"\1", text)
    letter = _LONE_LETTER.match(text.strip())
    if letter:
        return letter.group(1) or letter.group(2)
    # Text commands are gone, so only their inner white space still separates anything.
    return re.sub(r"[ \t\r\n]+", " ", text).strip()


def compact(normal: str) -> str:
    """A normal form without white space; words alone are also lower-cased, to compare as text."""
    bare = re.sub(r"\s+", "", normal)
    return bare.lower() if re.fullmatch(r"[A-Za-z'-]{2,}", bare) else bare


def unwrap(text: str) -> str:
    """Strip white space, trailing punctuation and whole-answer delimiters (`$`, `\\(`, a box)."""
    while True:
        stripped = _strip_trailing(text)
        for opening, closing in _WRAPPERS:
            inner = stripped[len(opening) : len(stripped) - len(closing)]
            if (
                len(stripped) > len(opening) + len(closing)
                and stripped.startswith(opening)
                and stripped.endswith(closing)
                and opening not in inner
            ):
                stripped = inner
                break
        stripped = _unbox(stripped)
        if stripped == text:
            return text
        text = stripped


def _strip_trailing(text: str) -> str:
    """Strip white space, and at the end also punctuation and stray backslashes."""
    end = len(text)
    while end and (text[end - 1].isspace() or text[end - 1] in ".,;:\\"):
        end -= 1
    return text[:end].lstrip()


def _unbox(text: str) -> str:
    box = _BOX.match(text)
    if box and closing_brace(text, box.end() - 1) == len(text) - 1:
        return text[box.end() : -1]
    return text


def closing_brace(text: str, start: int) -> int:
    """Index of the brace that closes the one at `start`; -1 when it is never closed."""
    depth = 0
    position = start
    while position < len(text):
        if text[position] == "\\":
            position += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position
        position += 1
    return -1


def strip_units(text: str) -> str:
    """Drop what follows a number as its unit: text commands, unit words, a degree sign."""
    for pattern in (_TEXT_UNITS, _PLAIN_UNITS, _DEGREES):
        match = pattern.match(text)
        # A number that ends in an operator is not complete: `1-1/\mathrm{e}` has no unit.
        if match:
            text = match["number"].strip()
    return text


def strip_letter_unit(normal: str) -> str:
    """Drop a single-letter SI unit after a number, `5 m`; only safe when the gold is a number."""
    match = _LETTER_UNIT.match(normal)
    return match["number"].strip() if match else normal


def join_thousands(text: str) -> str:
    """Join digit groups when the whole text is one grouped number: `1,234.5`, `1 000`."""
    match = re.fullmatch(
        r"([-+]?)\s*+(?:\$\s*+)?([1-9]\d{0,2}(?:([ ,])\d{3})(?:\3\d{3})*)(\.\d+)?(\\%)?", text
    )
    if match is None:
        return text
    sign, digits, _, decimals, percent = match.groups("")
    return sign + re.sub(r"[ ,]", "", digits) + decimals + percent


def split_top_level(text: str, separators: str = ",;") -> list[str]:
    """Split at separators outside every bracket and brace; one part when there are none."""
    parts, depth, begin, position = [], 0, 0, 0
    while position < len(text):
        character = text[position]
        if character == "\\":  # an escaped brace is a set's bracket
            follower = text[position + 1 : position + 2]
            depth += {"{": 1, "}": -1}.get(follower, 0)
            position += 2
            continue
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character in separators and depth == 0:
            parts.append(text[begin:position].strip())
            begin = position + 1
        position += 1
    parts.append(text[begin:].strip())
    return [part for part in parts if part] if len(parts) > 1 else parts
