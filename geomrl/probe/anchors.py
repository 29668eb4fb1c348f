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
| `answer_last` | the last token that contains a character of the answer |
| `response_last` | the last token before the first end-of-turn |
| `think_end` | the last token of the first `</think>` |

Each is a row of `KINDS`. One of the user's own is "FILE.py:FUNCTION", a function that is called with
a `Response` and returns a token's index, or None; it is stored under the function's name.

A response ends at its first end-of-turn id: what comes after it (padding, a line feed, a next turn)
is not looked at, neither for the marker. A marker that is blank is none, as for the verifier.

The state at index j predicts token j + 1. "Before the marker" is the paper's (arXiv 2606.03234,
abstract); which token index that means is our assumption.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile

from geomrl.errors import GeomrlError, reason_of
from geomrl.files import is_user_code, load_user_function, user_code_name
from geomrl.models.token_bytes import TokenBytes
from geomrl.probe.response import Response, lay_out
from geomrl.verify.marker import Marker, parse_marker

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


@dataclass(frozen=True)
class Anchor:
    """Where one anchor lies in one response.

    `token_index` counts the response's tokens from 0; -1 is the prompt's last token. It is None
    where the response has no such position, and `reason` then says why. `flags` are facts that
    change what the state means: `at_prompt`, `merged_right` (the token also contains the answer's
    first character).
    """

    name: str
    token_index: int | None
    reason: str | None = None
    flags: tuple[str, ...] = ()


Found = int | str
"""A token's index, where less than -1 lies before the response; or why there is none."""


@dataclass(frozen=True, kw_only=True)
class AnchorKind:
    """A kind of anchor: how it is named, located, and shown.

    Attributes:
        stem: its name, up to the number if it takes one.
        number: a pattern for the number that follows; "" where none does.
        usage: the name in words, for messages.
        locate: called with a response and the number's text.
        needs_marker: located only where the response has an answer marker.
        flags: called with a response that has the anchor: facts that change what the state means.
        order: kinds in the order in which a response reaches them.
        within: called with the number's text: the order within the kind.
        before_answer: whether it comes before the answer, so that knowing it means something.
        label: called with the number's text: the name for an axis; None: the stem in words.
    """

    stem: str
    number: str = ""
    usage: str = ""
    locate: Callable[[Response, str], Found]
    needs_marker: bool = True
    flags: Callable[[Response], tuple[str, ...]] = lambda response: ()
    order: int
    within: Callable[[str], float] = lambda number: 0.0
    before_answer: bool
    label: Callable[[str], str] | None = None

    def number_of(self, name: str) -> str | None:
        """Return the number's text in an anchor's name; None where it is of another kind."""
        rest = name.removeprefix(self.stem) if name.startswith(self.stem) else None
        return rest if rest is not None and re.fullmatch(self.number, rest) else None


def _fraction(response: Response, number: str) -> Found:
    if response.marker_first == 0:
        return "nothing_before_marker"
    return round(float(number) * (response.marker_first - 1))


def _before_answer(response: Response, number: str) -> Found:
    """Return the first token that starts within the answer, less one."""
    span, whole = response.span, response.first_overlapping(response.span.answer_start)
    if response.start(whole) < span.answer_start:
        whole += 1
    if whole > response.last or response.start(whole) >= span.answer_end:
        return "no_whole_answer_token"
    return whole - 1


def _think_end(response: Response, number: str) -> Found:
    at = response.text.find("</think>")
    return "no_think_end" if at < 0 else response.token_at(at + len("</think>") - 1)


def _merged_right(response: Response) -> tuple[str, ...]:
    merged = response.ends[response.marker_last] > response.span.answer_start
    return ("merged_right",) if merged else ()


KINDS = (
    AnchorKind(
        stem="before_marker",
        locate=lambda response, number: response.marker_first - 1,
        order=3,
        before_answer=True,
    ),
    AnchorKind(
        stem="marker_end",
        locate=lambda response, number: response.marker_last,
        flags=_merged_right,
        order=4,
        before_answer=True,
    ),
    AnchorKind(stem="before_answer", locate=_before_answer, order=5, before_answer=True),
    AnchorKind(
        stem="answer_last",
        locate=lambda response, number: response.last_overlapping(response.span.answer_end),
        order=6,
        before_answer=False,
    ),
    AnchorKind(
        stem="response_last",
        locate=lambda response, number: response.last if response.ends else "empty_response",
        needs_marker=False,
        order=7,
        before_answer=False,
    ),
    AnchorKind(
        stem="think_end", locate=_think_end, needs_marker=False, order=1, before_answer=True
    ),
    AnchorKind(
        stem="before_marker-",
        number=r"\d+",
        usage="before_marker-K (K tokens earlier)",
        locate=lambda response, number: response.marker_first - 1 - int(number),
        order=2,
        within=lambda number: -float(number),
        before_answer=True,
        label=lambda number: f"before marker − {number}",
    ),
    AnchorKind(
        stem="fraction:",
        number=r"0*\.\d+|0+|0*1(\.0+)?",
        usage="fraction:F with F from 0 to 1",
        locate=_fraction,
        order=0,
        within=float,
        before_answer=True,
        label=lambda number: (
            f"{100 * float(number):g} % of the way" if float(number) else "first token"
        ),
    ),
)
"""All kinds of geomrl's own."""

FIXED = tuple(kind.stem for kind in KINDS if not kind.number)
"""Anchors that take no number."""


@cache
def anchor_kind(name: str) -> tuple[AnchorKind, str]:
    """Return an anchor's kind, and the text of the number in its name.

    A name that is none of geomrl's own is one of the user's: drawn last, and not known to come
    before the answer.
    """
    for kind in KINDS:
        number = kind.number_of(name)
        if number is not None:
            return kind, number
    own = AnchorKind(
        stem=user_code_name(name),
        locate=lambda response, number: _call(name, response),
        needs_marker=False,
        order=len(KINDS),
        before_answer=False,
    )
    return own, ""


def is_anchor(name: str) -> bool:
    """Say whether a name is that of one of geomrl's own anchors."""
    return anchor_kind(name)[0] in KINDS


def check_anchor(name: str) -> str:
    """Return `name` if it names an anchor, or a function of the user's (which is not loaded).

    Raises:
        GeomrlError: it does not.
    """
    if is_anchor(name):
        return name
    if is_user_code(name):
        if is_anchor(user_code_name(name)):
            raise GeomrlError(
                f"anchor '{name}' would be stored as '{user_code_name(name)}', which is one of"
                " geomrl's own: give the function another name"
            )
        return name
    usages = [kind.usage for kind in KINDS if kind.number]
    raise GeomrlError(
        f"anchor '{name}' is unknown; use {', '.join([*FIXED, *usages[:-1]])} or {usages[-1]}; or"
        " one of your own, FILE.py:FUNCTION"
    )


def try_anchor(name: str) -> str:
    """Return `name` if it names an anchor; call a function of the user's on small responses.

    Raises:
        GeomrlError: it does not; or there is no such function, or it fails.
    """
    check_anchor(name)
    if is_user_code(name):
        for pieces in (
            [b"so 3 + 4", b" = ", b"7: ", b"\\boxed{", b"7", b"}"],
            [b"no ", b"idea"],
            [],
        ):
            _find(name, lay_out(pieces, parse_marker("\\boxed{"), None))
    return name


def own_anchors(names: Iterable[str]) -> list[str]:
    """Return those names that are functions of the user's.

    Raises:
        GeomrlError: two of them would be stored under one name.
    """
    own = [name for name in names if is_user_code(name)]
    stored = [user_code_name(name) for name in own]
    twice = [name for name in stored if stored.count(name) > 1]
    if twice:
        raise GeomrlError(
            f"anchors {', '.join(own)}: two would be stored as '{twice[0]}'; give one function"
            " another name"
        )
    return own


def anchor_order(name: str) -> tuple[int, float]:
    """Return a key that sorts anchors in the order in which a response reaches them."""
    kind, number = anchor_kind(name)
    return kind.order, kind.within(number)


def before_the_answer(name: str) -> bool:
    """Say whether an anchor comes before the answer, so that knowing it means something."""
    return anchor_kind(name)[0].before_answer


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
        names: the anchors wanted, in the order of the result; "FILE.py:FUNCTION" is named FUNCTION
            there.
        stop_ids: ids that end a turn; the response ends before the first of them.
        answer: what the verifier read from the response's text. Where the ids say something else
            (text and ids of different origin), no marker anchor is given.

    Returns:
        One `Anchor` a name; `token_index` None with a `reason` where there is no such position.
    """
    ids = takewhile(lambda token: token not in stop_ids, response_ids)
    response = lay_out([tokens[i] for i in ids], marker, answer)
    return [_find(check_anchor(name), response) for name in names]


def _find(name: str, response: Response) -> Anchor:
    """Find one anchor in a response that is laid out."""
    kind, number = anchor_kind(name)
    stored = f"{kind.stem}{number}"
    if kind.needs_marker and response.marker is None:
        return Anchor(stored, None, response.absent)
    found = kind.locate(response, number)
    if isinstance(found, str):
        return Anchor(stored, None, found)
    if found < -1:
        return Anchor(stored, None, "before_the_response")
    return Anchor(
        stored, found, flags=(*kind.flags(response), *(("at_prompt",) if found < 0 else ()))
    )


def _call(name: str, response: Response) -> Found:
    """Call a function of the user's with a response; check what it returns."""
    function = load_user_function(name, "an anchor", "a response")
    try:
        found = function(response)
    except Exception as error:  # whatever the user's code raises
        raise GeomrlError(
            f"{name}: fails on the response {response.text[:80]!r} ({type(error).__name__}:"
            f" {reason_of(error)}); mend it: it is called with a geomrl.probe.response.Response"
        ) from error
    if found is None:
        return f"no_{user_code_name(name)}"
    whole = hasattr(found, "__index__") and not isinstance(found, bool)
    if not whole or not -1 <= int(found) <= response.last:
        raise GeomrlError(
            f"{name}: returns {found!r} for the response {response.text[:80]!r} of"
            f" {len(response.ends)} tokens; return the index of a token, -1 for the prompt's last"
            " one, or None"
        )
    return int(found)
