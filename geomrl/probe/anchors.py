r"""Anchors: named positions in a response, as indices into its tokens.

Positions are found by the byte offsets of the generated ids, never by matching token ids: a
byte-level BPE merges `$\boxed` and `{\`, so the marker has no tokens of its own. With m the first
token that overlaps the marker's opening string and e the last:

| anchor | index |
|---|---|
| `before_marker` | m - 1 (the paper's; -1, the prompt's last token, where the marker comes first) |
| `before_marker-k` | m - 1 - k |
| `fraction:f` | round(f (m - 1)): f = 0 is the first token, f = 1 `before_marker` |
| `marker_end` | e |
| `before_answer` | the state that predicts the first whole token of the answer |
| `answer_last` | the last token that holds a character of the answer |
| `response_last` | the last token before the first end-of-turn |
| `think_end` | the last token of the first `</think>` |

A response ends at its first end-of-turn id: what stands behind it (padding, a line feed, a next turn)
is not looked at, neither for the marker. A marker that is blank is none, as for the verifier.

The state at index j predicts token j + 1. "Before the marker" is the paper's (arXiv 2606.03234,
abstract); which token index that means is our assumption.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile

from geomrl.errors import GeomrlError
from geomrl.models.token_bytes import TokenBytes
from geomrl.verify.marker import Marker, MarkerSpan, SearchTimeout

FIXED = (
    "before_marker",
    "marker_end",
    "before_answer",
    "answer_last",
    "response_last",
    "think_end",
)
DEFAULT_ANCHORS = (
    "fraction:0",
    "fraction:0.25",
    "fraction:0.5",
    "fraction:0.75",
    "before_marker-4",
    "before_marker-2",
    "before_marker-1",
    "before_marker",
    "marker_end",
    "before_answer",
    "answer_last",
    "response_last",
)
_BEFORE = re.compile(r"before_marker-(\d+)")
_FRACTION = re.compile(r"fraction:(\d*\.?\d+)")


@dataclass(frozen=True)
class Anchor:
    """Where one anchor lies in one response.

    `token_index` counts the response's tokens from 0; -1 is the prompt's last token. It is None
    where the response has no such position, and `reason` then says why. `flags` are facts that
    change what the state means: `at_prompt`, `merged_right` (the token also holds the answer's
    first character).
    """

    name: str
    token_index: int | None
    reason: str | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Layout:
    """A response's tokens as byte spans, with its marker's byte offsets where it has one."""

    ends: list[int]  # ends[j] is one past token j's last byte; token j starts at ends[j - 1]
    last: int  # index of the last token before the first end-of-turn
    think_end: int | None
    marker: MarkerSpan | None  # in bytes
    absent: str | None  # why there is no marker

    def first_overlapping(self, start: int) -> int:
        """Return the first token that holds the byte at `start` or a later one."""
        return bisect_right(self.ends, start)

    def last_overlapping(self, end: int) -> int:
        """Return the last token that holds the byte before `end`."""
        return bisect_left(self.ends, end)

    def start(self, token: int) -> int:
        """Return the offset of a token's first byte."""
        return self.ends[token - 1] if token else 0


def check_anchor(name: str) -> str:
    """Return `name` if it names an anchor.

    Raises:
        GeomrlError: it does not.
    """
    fraction = _FRACTION.fullmatch(name)
    if name in FIXED or _BEFORE.fullmatch(name) or (fraction and float(fraction[1]) <= 1):
        return name
    raise GeomrlError(
        f"anchor '{name}' is unknown; use {', '.join(FIXED)}, before_marker-K (K tokens earlier) or "
        "fraction:F with F from 0 to 1"
    )


def anchor_order(name: str) -> tuple[int, float]:
    """Return a key that sorts anchors in the order in which a response reaches them."""
    if match := _FRACTION.fullmatch(name):
        return (0, float(match[1]))
    if match := _BEFORE.fullmatch(name):
        return (2, -float(match[1]))
    places = {
        "think_end": 1,
        "before_marker": 3,
        "marker_end": 4,
        "before_answer": 5,
        "answer_last": 6,
        "response_last": 7,
    }
    return (places[name], 0.0)


def find_anchors(
    tokens: TokenBytes,
    response_ids: Sequence[int],
    marker: Marker,
    names: Sequence[str],
    *,
    stop_ids: frozenset[int] = frozenset(),
    answer: str | None = None,
) -> list[Anchor]:
    """Find several anchors in one response.

    Args:
        tokens: the tokenizer's byte view.
        response_ids: the response's token ids; the prompt is never looked at.
        marker: what opens and closes the answer.
        names: the anchors wanted, in the order of the result.
        stop_ids: ids that end a turn; the response ends before the first of them.
        answer: what the verifier read from the response's text. Where the ids say something else
            (text and ids of different origin), no marker anchor is given.

    Returns:
        One `Anchor` a name; `token_index` None with a `reason` where there is no such position.
    """
    layout = _lay_out(tokens, response_ids, marker, stop_ids, answer)
    return [_find(check_anchor(name), layout) for name in names]


def _lay_out(
    tokens: TokenBytes,
    response_ids: Sequence[int],
    marker: Marker,
    stop_ids: frozenset[int],
    answer: str | None,
) -> _Layout:
    ids = list(takewhile(lambda token: token not in stop_ids, response_ids))
    pieces = [tokens[i] for i in ids]
    ends = list(accumulate(map(len, pieces)))
    # surrogateescape keeps every byte as one character where the text is not valid UTF-8, so that
    # character offsets turn back into byte offsets exactly.
    text = b"".join(pieces).decode("utf-8", "surrogateescape")
    think = text.find("</think>")
    layout = _Layout(
        ends=ends,
        last=len(ids) - 1,
        think_end=None
        if think < 0
        else bisect_left(ends, _byte_length(text[: think + len("</think>")])),
        marker=None,
        absent="empty_response" if not ids else None,
    )
    try:
        span = marker.find(text)
    except SearchTimeout:
        return _with(layout, None, "marker_timeout")
    if span is None:
        return _with(layout, None, layout.absent or "no_closed_marker")
    if answer is not None and _visible(text[span.answer_start : span.answer_end]) != _visible(
        answer
    ):
        return _with(layout, None, "ids_differ_from_text")
    offsets: tuple[int, ...] = (
        span.start, span.open_end, span.answer_start, span.answer_end, span.end
    )  # fmt: skip
    if len(text) != ends[-1]:  # else every character is one byte
        offsets = tuple(_byte_length(text[:offset]) for offset in offsets)
    return _with(layout, MarkerSpan(*offsets), None)


def _with(layout: _Layout, marker: MarkerSpan | None, absent: str | None) -> _Layout:
    return _Layout(layout.ends, layout.last, layout.think_end, marker, absent)


def _byte_length(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def _visible(text: str) -> str:
    """Return the text without white space and invalid UTF-8, composed as tokenizers compose it."""
    valid = text.encode("utf-8", "surrogateescape").decode("utf-8", "ignore").replace("\ufffd", "")
    return unicodedata.normalize("NFC", "".join(valid.split()))


def _find(name: str, layout: _Layout) -> Anchor:
    """Find one anchor in a response that is laid out."""
    if name == "response_last":
        if layout.last < 0:
            return Anchor(name, None, "empty_response")
        return Anchor(name, layout.last)
    if name == "think_end":
        return Anchor(
            name, layout.think_end, None if layout.think_end is not None else "no_think_end"
        )
    if layout.marker is None:
        return Anchor(name, None, layout.absent)

    marker = layout.marker
    first = layout.first_overlapping(marker.start)  # m
    end = layout.last_overlapping(marker.open_end)  # e
    if name == "before_marker":
        return _in_response(name, first - 1)
    if match := _BEFORE.fullmatch(name):
        return _in_response(name, first - 1 - int(match[1]))
    if match := _FRACTION.fullmatch(name):
        if first == 0:
            return Anchor(name, None, "nothing_before_marker")
        return Anchor(name, round(float(match[1]) * (first - 1)))
    if name == "marker_end":
        merged = layout.ends[end] > marker.answer_start
        return Anchor(name, end, flags=("merged_right",) if merged else ())
    if name == "answer_last":
        return Anchor(name, layout.last_overlapping(marker.answer_end))
    # before_answer: the first token that starts within the answer, less one.
    whole = layout.first_overlapping(marker.answer_start)
    if layout.start(whole) < marker.answer_start:
        whole += 1
    if whole > layout.last or layout.start(whole) >= marker.answer_end:
        return Anchor(name, None, "no_whole_answer_token")
    return _in_response(name, whole - 1)


def _in_response(name: str, index: int) -> Anchor:
    if index < -1:
        return Anchor(name, None, "before_the_response")
    return Anchor(name, index, flags=("at_prompt",) if index == -1 else ())
