"""A response laid out: its text, its tokens as byte spans, and its answer marker."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from geomrl.verify.marker import Marker, MarkerSpan, SearchTimeout


@dataclass(frozen=True)
class Response:
    """A response up to its first end-of-turn, in which anchors are located.

    Attributes:
        text: what its tokens spell; bytes that are no UTF-8 are lone surrogates.
        ends: ends[j] is one past token j's last byte; token j starts at ends[j - 1].
        marker: the answer marker's offsets in bytes; None where there is none.
        absent: why there is no marker.
    """

    text: str
    ends: list[int]
    marker: MarkerSpan | None
    absent: str | None

    @property
    def last(self) -> int:
        """The index of the last token; -1 where the response is empty."""
        return len(self.ends) - 1

    def token_at(self, character: int) -> int:
        """Return the index of the token that contains (the first byte of) a character of `text`."""
        return self.first_overlapping(byte_length(self.text[:character]))

    @cached_property
    def marker_first(self) -> int:
        """The first token that overlaps the marker's opening string, m."""
        return self.first_overlapping(self.span.start)

    @cached_property
    def marker_last(self) -> int:
        """The last token that overlaps the marker's opening string, e."""
        return self.last_overlapping(self.span.open_end)

    @property
    def span(self) -> MarkerSpan:
        """The marker, of a response that has one."""
        if self.marker is None:
            raise ValueError("this response has no answer marker: look at `marker` first")
        return self.marker

    def first_overlapping(self, start: int) -> int:
        """Return the first token that contains the byte at `start` or a later one."""
        return bisect_right(self.ends, start)

    def last_overlapping(self, end: int) -> int:
        """Return the last token that contains the byte before `end`."""
        return bisect_left(self.ends, end)

    def start(self, token: int) -> int:
        """Return the offset of a token's first byte."""
        return self.ends[token - 1] if token else 0


def lay_out(pieces: Sequence[bytes], marker: Marker, answer: str | None) -> Response:
    """Lay out a response.

    Args:
        pieces: the bytes of each of its tokens.
        marker: what opens and closes the answer.
        answer: what the verifier read from its text; where the tokens say something else, there is
            no marker.
    """
    ends = list(accumulate(map(len, pieces)))
    # surrogateescape keeps every byte as one character where the text is not valid UTF-8, so that
    # character offsets turn back into byte offsets exactly.
    text = b"".join(pieces).decode("utf-8", "surrogateescape")
    try:
        span = marker.find(text)
    except SearchTimeout:
        return Response(text, ends, None, "marker_timeout")
    if span is None:
        return Response(text, ends, None, "no_closed_marker" if ends else "empty_response")
    found = text[span.answer_start : span.answer_end]
    if answer is not None and _visible(found) != _visible(answer):
        return Response(text, ends, None, "ids_differ_from_text")
    offsets: tuple[int, ...] = (
        span.start, span.open_end, span.answer_start, span.answer_end, span.end
    )  # fmt: skip
    if len(text) != ends[-1]:  # else every character is one byte
        offsets = tuple(byte_length(text[:offset]) for offset in offsets)
    return Response(text, ends, MarkerSpan(*offsets), None)


def byte_length(text: str) -> int:
    """Return the number of bytes that a laid out text was made of."""
    return len(text.encode("utf-8", "surrogateescape"))


def _visible(text: str) -> str:
    """Return the text without white space and invalid UTF-8, composed as tokenizers compose it."""
    valid = text.encode("utf-8", "surrogateescape").decode("utf-8", "ignore").replace("\ufffd", "")
    return unicodedata.normalize("NFC", "".join(valid.split()))
