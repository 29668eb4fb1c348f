"""Where a response puts its final answer: the last closed answer marker that contains something.

A marker is what opens and closes the answer, by default `\\boxed{` and the brace that matches it.
Only the response is ever searched, never the prompt. All offsets are character offsets.

A blank marker is passed over, as one that is not closed: `\\boxed{}` quotes the instruction.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import regex

from geomrl.errors import GeomrlError
from geomrl.verify.blank import is_blank
from geomrl.verify.boxes import last_box

BOXED = "\\boxed{"
SEARCH_SECONDS = 1.0  # CPU time of a user's own expression on one text; milliseconds are usual
_ELLIPSIS = "..."
_REGEX_PREFIX = "re:"
# As in the grader of MATH (Hendrycks et al. 2021), \fbox counts where no \boxed does.
_SPELLINGS = {BOXED: (BOXED, "\\fbox{")}


class SearchTimeout(GeomrlError):
    """A marker's regular expression took longer than `SEARCH_SECONDS` on one text."""


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
        """The last closed marker of `text` that is not blank; None without one."""
        ...


@dataclass(frozen=True)
class BraceMarker:
    """An opening string that ends in `{`, closed by the brace that matches it.

    White space may stand between a command and its brace (`\\boxed {5}`), and `\\boxed{` has a
    second spelling, `\\fbox{`. How braces are counted and which of several boxes contains the answer is
    explained in `verify.boxes`.

    >>> text = r"\\boxed{1}, no: \\boxed{\\frac{1}{2}}, in \\boxed{} as asked"
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
        """The last closed marker that is not blank, in one pass over `text`, without recursion."""
        for opening in _SPELLINGS.get(self.opening, (self.opening,)):
            box = last_box(text, opening)
            if box is not None:
                return MarkerSpan(box.start, box.open_end, box.open_end, box.close, box.close + 1)
        return None


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
        """The last closed pair that is not blank, in one pass over `text`."""
        tokens = re.compile(f"{re.escape(self.opening)}|{re.escape(self.closing)}")
        open_starts: list[int] = []
        last: MarkerSpan | None = None
        for token in tokens.finditer(text):
            closes = token.group() == self.closing
            if closes and open_starts:
                start = open_starts.pop()
                open_end = start + len(self.opening)
                if not is_blank(text, open_end, token.start()):
                    last = MarkerSpan(start, open_end, open_end, token.start(), token.end())
            elif token.group() == self.opening:
                open_starts.append(token.start())
        return last


@dataclass(frozen=True)
class RegexMarker:
    """A regular expression with one group, the answer, such as `####[ ]*(.+)`.

    The opening string is what the match contains before the group, without trailing white space
    (a tokenizer joins that to the answer). It is empty where the group comes first.

    An expression can take exponential time on some text. So the search has a limit in CPU time,
    which Python's `re` cannot have; the `regex` package matches what `re` does.
    """

    pattern: str

    @property
    def spec(self) -> str:
        """`re:PATTERN`."""
        return f"{_REGEX_PREFIX}{self.pattern}"

    def find(self, text: str) -> MarkerSpan | None:
        """The last match whose group took part and is not blank.

        Raises:
            SearchTimeout: the expression takes too long on this text.
        """
        try:
            # The limit holds for all matches together.
            matches = list(regex.finditer(self.pattern, text, timeout=SEARCH_SECONDS))
        except TimeoutError:
            raise SearchTimeout(
                f"answer marker '{self.spec}' takes more than {SEARCH_SECONDS:g} s on a response of"
                f" {len(text)} characters: its repetitions can match in too many ways; let each"
                " begin with a character that the one before it cannot match"
            ) from None
        for match in reversed(matches):
            answer_start, answer_end = match.span(1)
            if answer_start < 0 or is_blank(text, answer_start, answer_end):
                continue
            opening = text[match.start() : answer_start].rstrip()
            open_end = match.start() + len(opening)
            return MarkerSpan(match.start(), open_end, answer_start, answer_end, match.end())
        return None


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


def find_to_show(marker: Marker, text: str) -> MarkerSpan | None:
    """`marker.find` for a display, which shows no marker where the search takes too long."""
    try:
        return marker.find(text)
    except SearchTimeout:
        return None


def _parse_regex(spec: str) -> RegexMarker:
    pattern = spec.removeprefix(_REGEX_PREFIX)
    try:
        groups = regex.compile(pattern).groups
    except regex.error as error:
        raise GeomrlError(
            f"answer marker '{spec}' is not a regular expression ({error}): mend the pattern"
        ) from error
    if groups != 1:
        raise GeomrlError(
            f"answer marker '{spec}' has {groups} groups: give exactly one, around the answer"
            " (write '(?:...)' for a group that is not the answer)"
        )
    return RegexMarker(pattern)
