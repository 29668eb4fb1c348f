"""Where a response puts its final answer: the last closed answer marker.

A marker is what opens and closes the answer, by default `\\boxed{` and the brace that matches it.
Only the response is ever searched, never the prompt. All offsets are character offsets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from geomrl.errors import GeomrlError

BOXED = "\\boxed{"
_ELLIPSIS = "..."
_REGEX_PREFIX = "re:"


@dataclass(frozen=True)
class MarkerSpan:
    """Character offsets of one closed marker: `text[start:end]` is the whole of it.

    `text[start:open_end]` is the opening string and `text[answer_start:answer_end]` the answer.
    """

    start: int
    open_end: int
    answer_start: int
    answer_end: int
    end: int


class Marker(Protocol):
    """Finds the graded marker of a text; `parse_marker(marker.spec)` gives an equal marker."""

    @property
    def spec(self) -> str:
        """The string that `parse_marker` reads back."""
        ...

    def find(self, text: str) -> MarkerSpan | None:
        """The last closed marker of `text`, the outermost one when nested; None without one."""
        ...


@dataclass(frozen=True)
class BraceMarker:
    """An opening string that ends in `{`, closed by the brace that matches it.

    A brace after a backslash (`\\{`, `\\}`) is a character of the answer and does not count; `\\\\`
    is one unit, so that the brace in `\\\\}` counts. An opening string that follows a stray
    backslash (`\\\\boxed{`, which over-escaping models write) still opens a marker.

    >>> text = r"\\boxed{1}, no: \\boxed{\\frac{1}{2}}"
    >>> span = BraceMarker("\\\\boxed{").find(text)
    >>> text[span.answer_start:span.answer_end]
    '\\\\frac{1}{2}'
    """

    opening: str

    @property
    def spec(self) -> str:
        """The opening string."""
        return self.opening

    def find(self, text: str) -> MarkerSpan | None:
        """The last closed marker in one pass over `text`, without recursion."""
        opening = re.escape(self.opening)
        tokens = re.compile(rf"{opening}|\\(?={opening})|\\.|[{{}}]", re.DOTALL)
        plain_brace = -1
        open_braces: list[int] = []  # where each still open marker starts, or plain_brace
        last: tuple[int, int] | None = None
        for token in tokens.finditer(text):
            if token.group() == self.opening:
                open_braces.append(token.start())
            elif token.group() == "{":
                open_braces.append(plain_brace)
            elif token.group() == "}" and open_braces:
                start = open_braces.pop()
                # Markers nest or follow one another, so whichever closes last is both the last
                # one and the outermost.
                if start != plain_brace:
                    last = start, token.start()
        return None if last is None else _span(*last, len(self.opening), 1)


@dataclass(frozen=True)
class PairMarker:
    """An opening and a closing string such as `<answer>` and `</answer>`; equal ones alternate."""

    opening: str
    closing: str

    @property
    def spec(self) -> str:
        """`OPEN...CLOSE`."""
        return f"{self.opening}{_ELLIPSIS}{self.closing}"

    def find(self, text: str) -> MarkerSpan | None:
        """The last closed pair in one pass over `text`."""
        tokens = re.compile(f"{re.escape(self.opening)}|{re.escape(self.closing)}")
        open_starts: list[int] = []
        last: tuple[int, int] | None = None
        for token in tokens.finditer(text):
            closes = token.group() == self.closing
            if closes and open_starts:
                last = open_starts.pop(), token.start()
            elif token.group() == self.opening:
                open_starts.append(token.start())
        return None if last is None else _span(*last, len(self.opening), len(self.closing))


@dataclass(frozen=True)
class RegexMarker:
    """A regular expression with one group, the answer, such as `####[ ]*(.+)`.

    The opening string is what the match holds before the group, without trailing white space
    (a tokenizer joins that to the answer). It is empty where the group comes first.
    """

    pattern: str

    @property
    def spec(self) -> str:
        """`re:PATTERN`."""
        return f"{_REGEX_PREFIX}{self.pattern}"

    def find(self, text: str) -> MarkerSpan | None:
        """The last match in which the group took part."""
        last: MarkerSpan | None = None
        for match in re.finditer(self.pattern, text):
            answer_start, answer_end = match.span(1)
            if answer_start < 0:
                continue
            opening = text[match.start() : answer_start].rstrip()
            open_end = match.start() + len(opening)
            last = MarkerSpan(match.start(), open_end, answer_start, answer_end, match.end())
        return last


def parse_marker(spec: str) -> Marker:
    """Read a marker from its spec.

    `\\boxed{` or any string that ends in `{` is closed by its matching brace; `OPEN...CLOSE` is a
    pair of strings; `re:PATTERN` is a regular expression with one group.

    Raises:
        GeomrlError: the spec is none of these, or its pattern does not compile.
    """
    if spec.startswith(_REGEX_PREFIX):
        return _parse_regex(spec)
    opening, _, closing = spec.partition(_ELLIPSIS)
    if opening.endswith("{") and closing in ("", "}"):
        if re.search(r"[{}]", opening[:-1]):
            raise GeomrlError(
                f"answer marker '{spec}': its opening string holds more than one brace, so that its"
                " end is not defined; keep the last one only, or use 're:PATTERN'"
            )
        return BraceMarker(opening)
    if opening and closing:
        return PairMarker(opening, closing)
    raise GeomrlError(
        f"answer marker '{spec}' is not a marker: give a string that ends in '{{' (such as"
        " '\\boxed{'), 'OPEN...CLOSE' (such as '<answer>...</answer>'), or 're:PATTERN' with one"
        " group (such as 're:####\\s*(.+)')"
    )


def _parse_regex(spec: str) -> RegexMarker:
    pattern = spec.removeprefix(_REGEX_PREFIX)
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise GeomrlError(
            f"answer marker '{spec}' is not a regular expression ({error}): mend the pattern"
        ) from error
    if groups != 1:
        raise GeomrlError(
            f"answer marker '{spec}' has {groups} groups: give exactly one, around the answer"
            " (write '(?:...)' for a group that is not the answer)"
        )
    return RegexMarker(pattern)


def _span(start: int, answer_end: int, n_opening: int, n_closing: int) -> MarkerSpan:
    open_end = start + n_opening
    return MarkerSpan(start, open_end, open_end, answer_end, answer_end + n_closing)
