"""Answers that say nothing: an empty marker, or one that contains what stands for an answer."""

from __future__ import annotations

import re

# Each branch begins with a character of its own or ends where the next may begin, and nothing is
# given back, so that this takes linear time.
_BLANK = re.compile(
    r"""(?:
      [\s{}$~_.…\u200b-\u200d\u2060\ufeff]           # white space, math mode, a gap to fill in
    | \\[\s,;:!>()\[\]_]                            # TeX's spaces and math delimiters
    | \\(?:[hv]space\*?|[hv]?phantom)\s*+\{[^{}]*+\}
    | \\(?: boxed | fbox | mbox | hbox
        | text(?:bf|it|rm|sf|tt|normal)? | math(?:bf|it|rm|sf|tt) | operatorname\*?
        | q?quad | enspace | thinspace | [lc]?dots | displaystyle | textstyle | left | right
      )(?![A-Za-z])
    )*+""",
    re.VERBOSE,
)


def is_blank(text: str, start: int = 0, end: int | None = None) -> bool:
    r"""Whether `text[start:end]` prints nothing, or only an ellipsis or a line to fill in.

    >>> [is_blank(text) for text in ("", r"\ ", r"$\text{ }$", "...", r"\_\_", "-", "0", "answer")]
    [True, True, True, True, True, False, False, False]
    """
    return _BLANK.fullmatch(text, start, len(text) if end is None else end) is not None


def blank_until(text: str, start: int) -> int:
    """Where what begins at `start` first prints something."""
    match = _BLANK.match(text, start)
    return start if match is None else match.end()
