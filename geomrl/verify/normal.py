"""The normal form of an answer: one spelling for what differs only in how it is written.

Everything here is text in, text out, linear in the answer's length, and free of heavy imports.
"""

from __future__ import annotations

import re
from functools import lru_cache

from geomrl.verify.latex import braced_arguments, one_spelling
from geomrl.verify.unicode import to_latex
from geomrl.verify.units import is_unit_word, may_be_unit
from geomrl.verify.words import (
    TEXT_COMMAND,
    join_by_commas,
    plain_text,
    strip_ordinals,
    strip_phrases,
)

_WHITE_SPACE = re.compile(r"\s{2,}+")
_PLAIN_NUMBER = re.compile(r"-?\d{1,3}|-?\d+\.\d+")
_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"))
_APPROXIMATION = re.compile(r"(?<=[\d})])\s*\\approx(?![A-Za-z]).*$", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_LONE_LETTER = re.compile(r"^\(\s*([A-Za-z])\s*\)$|^([A-Z])\s*[.:)]$")
_WHOLE_TEXT = re.compile(rf"^{TEXT_COMMAND}\s*\{{([^{{}}]*)\}}$")
_UNIT_TEXT = re.compile(
    r"([\d})]|\\%|\\pi|\\infty|(?<=[A-Za-z]))\s*+"
    r"((?:\\(?:text(?:rm|normal|up)?|mathrm|mbox|hbox)\s*\{(?:[^{}^]++|\^\s*(?:\{\s*-?\d+\s*\})?)*+\}"
    r"(?:\s*\^\s*(?:\{\s*-?\d+\s*\}|-?\d+))?"
    r"[\s/.]*+(?:\\cdot\s*+)?)++)"
)
_UNIT_POWER = re.compile(r"\s*\^\s*(?:\{\s*(-?\d+)\s*\}|(-?\d+))")
_MERGED_UNITS = re.compile(r"(\\unit\{[^{}]*)\}\s*(?:\\unit\{|(?=[A-Za-z/][A-Za-z/ ]*+$))")
_HALF_DAY = re.compile(
    r"(?<=\d)\s*+(?:\\(?:text(?:rm)?|mathrm)\s*\{\s*([AaPp])\.?\s?[Mm]\.?\s*\}"
    r"|([AaPp])(?:\.\s?[Mm]\.?|[Mm](?![A-Za-z])))"
)
_OCLOCK = re.compile(r"(?<=\d)\s*+(?:\\text\s*\{\s*)?o'clock\s*\}?")
_GROUPED = re.compile(
    r"((?:[A-Za-z]\w*\s*=\s*+)?[-+]?\s*+)([1-9]\d{0,2}(?:(?:,\d{3})+|(?: \d{3})+))"
    r"(?![\d,])(\.\d+)?(?=$|\s*\\|\s*[A-Za-z])"
)


@lru_cache(maxsize=4096)
def normal_form(answer: str) -> str:
    """The canonical spelling of an answer; equal normal forms are equal answers.

    Math delimiters, outer boxes and layout commands go, and so do words that only introduce the
    answer. `\\frac12` and `\\dfrac{1}{2}` become `\\frac{1}{2}`, and `1 000` becomes `1000`. What a
    text command says behind a number becomes `\\unit{...}`, and so does a sign of money. Letters
    keep their case, since a variable's case carries meaning.
    """
    if _PLAIN_NUMBER.fullmatch(answer):
        return answer
    text = to_latex(unwrap(_WHITE_SPACE.sub(_one_space, answer)))
    text = _half_days(strip_ordinals(_WHOLE_TEXT.sub(r"\1", text)))
    text = braced_arguments(one_spelling(text))
    text = unwrap(strip_phrases(unwrap(text)))
    text = unwrap(_APPROXIMATION.sub("", join_by_commas(text)))
    text = plain_text(_mark_units(re.sub(r"(?<=\d)\s+(?=\\%)", "", text)))
    letter = _LONE_LETTER.match(text.strip())
    if letter:
        return letter.group(1) or letter.group(2)
    # Text commands are gone, so only their inner white space still separates anything.
    return join_thousands(re.sub(r"[ \t\r\n]+", " ", text).strip())


def compact(normal: str) -> str:
    """A normal form without white space; words alone are also lower-cased, to compare as text.

    A space between two digits stays: `1 8` is not 18.
    """
    bare = re.sub(r"(?<!\d) | (?!\d)", "", " ".join(normal.split()))
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


def _one_space(run: re.Match[str]) -> str:
    """A run of white space as one character: two lines stay two lines, 11 and 5/6 no 11 5/6."""
    return "\n" if "\n" in run.group() else " "


def _half_days(text: str) -> str:
    """`3:45 p.m.` with its half of the day as a unit, and `5 o'clock` as 5:00."""
    text = _OCLOCK.sub(":00", text)
    return _HALF_DAY.sub(lambda match: rf"\unit{{{(match[1] or match[2]).lower()}m}}", text)


def _mark_units(text: str) -> str:
    """Mark what text commands say behind a number as its unit: `5\\unit{cm}`."""
    return _MERGED_UNITS.sub(r"\1 ", _UNIT_TEXT.sub(_mark_unit, text))


def _mark_unit(match: re.Match[str]) -> str:
    powers = _UNIT_POWER.sub(r"^\1\2", match[2].replace("~", " "))
    words = " ".join(plain_text(powers).split())
    names = re.findall(r"[^\W\d_]+", words)
    known = bool(names) and all(map(is_unit_word, names))
    # Behind a letter it must be a unit or a plural, and one letter a unit: `n \text{ odd}`, `2\mathrm{e}`.
    counted = len(names[-1]) > 3 and names[-1].endswith("s") if names else False
    if not may_be_unit(words) or not (known or counted or (match[1] and len("".join(names)) > 1)):
        return match.group()
    return rf"{match[1]}\unit{{{words}}}"


def join_thousands(text: str) -> str:
    """Join digit groups when the whole text is one grouped number: `1,234.5`, `x = 1 000`, `1,000\\pi`."""
    match = _GROUPED.match(text)
    if match is None or "," in text[match.end() :]:
        return text
    sign, digits, decimals = match.groups("")
    return sign + re.sub(r"[ ,]", "", digits) + decimals + text[match.end() :]


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
