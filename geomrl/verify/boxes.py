r"""The box that contains the answer, among nested, blank, quoted and unclosed ones.

A brace after a backslash (`\{`, `\}`) is a character of the answer and does not count; `\\` is one
unit, so that the brace in `\\}` counts. An opening string that follows a stray backslash
(`\\boxed{`, which over-escaping models write) still opens a box.

The last box that is closed counts, and the outermost of nested ones, except that

- a blank box is passed over (`verify.blank`);
- an opening in quotation marks, as in "put it into `\boxed{`", opens nothing;
- an opening that any later brace closes, behind prose and a complete box, does not swallow that box:
  in `\boxed{ is for the answer. \boxed{5} ... }` it is 5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from geomrl.verify.blank import blank_until

_QUOTES = {"`": "`", '"': '"', "“": "”"}
_TEXT = re.compile(r"\\(?:text|math)[a-z]*\s*+\{[^{}]*+\}|\\[mh]box\s*+\{[^{}]*+\}")
# Words, and not the names of variables: two letters of Latin, or one of a script without spaces.
_PROSE = re.compile(
    r"(?<![\\A-Za-z])(?!(?:and|or)(?![A-Za-z]))[A-Za-z]{2,}"
    r"|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|`|\.\.\.|…"
)


@dataclass(frozen=True)
class Box:
    """Character offsets: `text[start:open_end]` opens it, and its brace closes it at `close`."""

    start: int
    open_end: int
    close: int


@dataclass
class _OpenBox:
    start: int
    open_end: int
    blank_until: int
    looked_until: int  # its own text is known up to here
    has_prose: bool = False
    has_box: bool = False

    def look(self, text: str, end: int) -> None:
        """Look for prose in its own text, the boxes within left out."""
        if not self.has_prose:
            own = _TEXT.sub("", text[self.looked_until : end])
            self.has_prose = _PROSE.search(own) is not None


def last_box(text: str, opening: str) -> Box | None:
    r"""The box that contains the answer of `text`, in one pass and linear time.

    Args:
        text: a response.
        opening: what opens a box, up to its brace, such as `\boxed{`. White space may stand
            between a command and its brace.
    """
    last: Box | None = None
    braces: list[_OpenBox | None] = []  # what is open; None for a plain brace
    boxes: list[_OpenBox] = []  # the boxes among them
    blank: int = -1
    for token in _tokens(opening).finditer(text):
        if token.lastgroup == "box" and not _is_quoted(text, token.start(), token.end()):
            if token.end() >= blank:  # else it stands within a blank stretch that is known
                blank = blank_until(text, token.end())
            if boxes:
                boxes[-1].look(text, token.start())
            boxes.append(_OpenBox(token.start(), token.end(), blank, token.end()))
            braces.append(boxes[-1])
        elif token.lastgroup == "open":
            braces.append(None)
        elif token.lastgroup == "close" and braces:
            box = braces.pop()
            if box is None:
                continue
            boxes.pop()
            is_answer = token.start() > box.blank_until
            if is_answer:
                box.look(text, token.start())
                # Boxes nest or follow one another, so whichever closes last is both the last one
                # and the outermost.
                if not (box.has_box and box.has_prose):
                    last = Box(box.start, box.open_end, token.start())
            if boxes:
                boxes[-1].looked_until = token.end()
                boxes[-1].has_box |= is_answer
    return last


@lru_cache(maxsize=64)
def _tokens(opening: str) -> re.Pattern[str]:
    command = re.escape(opening[:-1])
    gap = r"\s*+" if re.fullmatch(r".*\\[A-Za-z]+\{", opening, re.DOTALL) else ""
    box = rf"{command}{gap}\{{"
    return re.compile(rf"(?P<box>{box})|\\(?={box})|\\.|(?P<open>\{{)|(?P<close>\}})", re.DOTALL)


def _is_quoted(text: str, start: int, end: int) -> bool:
    quote = _QUOTES.get(text[start - 1 : start])
    return quote is not None and text[end : end + 1] == quote
