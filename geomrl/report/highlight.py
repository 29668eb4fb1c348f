"""A response cut into pieces: its anchor token, its answer marker, and the text between."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from geomrl.errors import GeomrlError
from geomrl.models.identity import vocabulary_hash
from geomrl.models.loading import load_tokenizer, quiet_transformers
from geomrl.models.token_bytes import TokenBytes
from geomrl.models.turns import turn_end_ids
from geomrl.probe.anchors import find_anchors, is_anchor
from geomrl.verify.marker import Marker, find_to_show

Piece = tuple[str, str]
"""Text and its class: "", "anchor", "marker", "answer" or "cut"."""
Span = tuple[int, int, str]
"""First character, one past the last, class."""


@dataclass(frozen=True)
class Highlighter:
    """Finds the anchor's token in responses.

    `tokens` is None where no tokenizer is at hand: then only the marker and the answer are shown.
    """

    marker: Marker
    anchor: str
    tokens: TokenBytes | None
    stop_ids: frozenset[int] = frozenset()

    def anchor_span(
        self, response: str, response_ids: Sequence[int], answer: str | None
    ) -> Span | None:
        """Return the anchor token's characters in `response`; None where it has none there.

        None too where the ids say something else than the text, or the anchor is in the prompt.
        """
        if self.tokens is None:
            return None
        found = find_anchors(
            self.tokens, response_ids, self.marker, [self.anchor], stop_ids=self.stop_ids,
            answer=answer,
        )[0]  # fmt: skip
        if found.token_index is None or found.token_index < 0:
            return None
        pieces = [self.tokens[int(i)] for i in response_ids]
        ends = [0, *accumulate(map(len, pieces))]
        whole = b"".join(pieces)
        text = whole.decode("utf-8", "replace")
        shift = text.find(response)
        if shift < 0:
            return None
        before, upto = (
            len(whole[: ends[found.token_index + step]].decode("utf-8", "replace"))
            for step in (0, 1)
        )
        start, end = max(before - shift, 0), min(upto - shift, len(response))
        return (start, end, "anchor") if start < end else None

    def pieces(
        self, response: str, response_ids: Sequence[int], answer: str | None, most: int
    ) -> list[Piece]:
        """Return a response in pieces that together are its text, cut to about `most` characters."""
        spans: list[Span] = []
        found = find_to_show(self.marker, response)
        if found is not None:
            spans += [
                (found.start, found.answer_start, "marker"),
                (found.answer_start, found.answer_end, "answer"),
                (found.answer_end, found.end, "marker"),
            ]
        anchor = self.anchor_span(response, response_ids, answer)
        spans += [anchor] if anchor else []
        centre = anchor[0] if anchor else found.start if found else len(response)
        return shorten(cut(response, spans), most, centre)


def cut(text: str, spans: Iterable[Span]) -> list[Piece]:
    """Cut a text at the ends of spans; where they overlap the later one names the piece.

    >>> cut("so 7 \\\\boxed{7}", [(5, 12, "marker"), (12, 13, "answer"), (3, 5, "anchor")])[:3]
    [('so ', ''), ('7 ', 'anchor'), ('\\\\boxed{', 'marker')]
    """
    spans = list(spans)
    edges = sorted({0, len(text), *(s for s, _, _ in spans), *(e for _, e, _ in spans)})
    return [
        (text[start:end], next((c for s, e, c in reversed(spans) if s <= start < e), ""))
        for start, end in pairwise(edges)
    ]


def shorten(pieces: Sequence[Piece], most: int, centre: int) -> list[Piece]:
    """Keep a text's first third of `most` characters and the rest of them around `centre`.

    What is left out is named by a piece of class "cut"; a short text stays whole.

    >>> shorten([("a" * 30, ""), ("b", "anchor")], 9, 30)
    [('aaa', ''), (' … 22 characters left out … ', 'cut'), ('aaaaa', ''), ('b', 'anchor')]
    """
    total = sum(len(text) for text, _ in pieces)
    if total <= most:
        return list(pieces)
    head = most // 3
    room = most - head
    start = max(head, min(centre - room // 2, total - room))
    kept = [(0, head), (start, start + room)]
    found: list[Piece] = []
    for number, (low, high) in enumerate(kept):
        gap = low - (kept[number - 1][1] if number else 0)
        if gap > 0:
            found.append((f" … {gap:,} characters left out … ", "cut"))
        at = 0
        for text, kind in pieces:
            part = text[max(low - at, 0) : max(high - at, 0)]
            found += [(part, kind)] if part else []
            at += len(text)
    left = total - kept[-1][1]
    return [*found, (f" … {left:,} characters left out", "cut")] if left > 0 else found


def make_highlighter(
    marker: Marker, anchor: str, tokenizer: str | None, vocabulary: str | None
) -> tuple[Highlighter, str | None]:
    """Return a highlighter, and why it cannot show anchors where it cannot.

    Args:
        marker: what the rollouts were graded by.
        anchor: the anchor to show.
        tokenizer: the model whose tokenizer made the ids.
        vocabulary: that tokenizer's hash, as the run recorded it.
    """
    if not is_anchor(anchor):
        return Highlighter(marker, anchor, None), f"'{anchor}' is located by a file of the user's"
    if tokenizer is None:
        return Highlighter(marker, anchor, None), "the run names no tokenizer"
    quiet_transformers()
    try:
        loaded = load_tokenizer(tokenizer)
    except GeomrlError as error:
        return Highlighter(marker, anchor, None), f"its tokenizer cannot be loaded ({error})"
    if vocabulary is not None and vocabulary_hash(loaded) != vocabulary:
        return Highlighter(marker, anchor, None), f"{tokenizer} has another vocabulary by now"
    return Highlighter(marker, anchor, TokenBytes(loaded), turn_end_ids(None, loaded)), None
