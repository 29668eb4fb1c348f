"""Whether an answer equals the gold answer: exact rules first, a leaf comparison where they end.

`compare` takes two normal forms apart (numbers, words, `x = 5`, tuples, intervals, sets, lists,
`\\pm`) and hands what is left to a `leaf` function. In the parent process the leaf says
"undecided", so that most answers cost microseconds; in a worker it is computer algebra.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from geomrl.verify.normal import (
    compact,
    normal_form,
    split_top_level,
    strip_letter_unit,
)
from geomrl.verify.numbers import Numeral, read_decimal_comma, read_numeral, same_number

MAX_CHARACTERS = 1000  # the longest gold answer of the named benchmarks has 210
QUICK_CHARACTERS = 256  # what is longer is compared where a process can be killed
MAX_DEPTH = 12  # parsing time grows fast with nested brackets
MAX_PARTS = 64

Decision = bool | None  # None: undecided
Leaf = Callable[[str, str], Decision]

# `x = 5`, `f(x) = 2x`, `x \in S`: a name, not an expression, on the left.
_LABEL = re.compile(
    r"^(?P<name>[A-Za-z\\(][^=<>+*/^-]{0,40}?)\s*(?:=|\\in(?![A-Za-z]))\s*(?P<value>[^=<>]+)$"
)
_REVERSED_LABEL = re.compile(r"^(?=[^=<>]*\d)(?P<value>[^=<>]*+)=\s*+(?P<name>[A-Za-z])$")
_CHOICE_WITH_TEXT = re.compile(r"^\(?([A-J])\s*[):.]\s*\S")
_PLUS_MINUS = re.compile(r"\\(pm|mp)(?![A-Za-z])")


@dataclass(frozen=True)
class Uncompared:
    """Why two answers are compared as text only."""

    reason: str


def quick_equal(gold: str, answer: str) -> Decision | Uncompared:
    """Compare two answers by exact rules; None where only a worker process can tell.

    The caller runs this in its own process, where nothing can be killed. So every expression here
    and in `normal` takes linear time, or is bounded by `MAX_PARTS`, and long answers are left alone.

    >>> quick_equal("\\\\frac{1}{2}", "0.5"), quick_equal("5", "x = 5"), quick_equal("7", "8")
    (True, True, False)
    """
    if gold.strip() == answer.strip() and gold.strip():
        return True
    for text in (gold, answer):
        reason = _too_big(text)
        if reason:
            return Uncompared(reason)
    if max(len(gold), len(answer)) > QUICK_CHARACTERS:
        return None
    return compare(normal_form(gold), normal_form(answer), _undecided)


def compare(gold: str, answer: str, leaf: Leaf) -> Decision:
    """Compare two normal forms; symmetric, but for what only an answer may add.

    That is a single-letter unit after a number, and text after a choice's letter.
    """
    if not gold or not answer:
        return False
    if compact(gold) == compact(answer):
        return True
    if (by_number := _compare_numbers(gold, answer)) is not None:
        return by_number
    if _are_words(gold, answer):
        return False
    if (choice := _CHOICE_WITH_TEXT.match(answer)) and re.fullmatch("[A-J]", gold):
        return choice[1] == gold
    if (values := _strip_labels(gold, answer)) is not None:
        return compare(*values, leaf)
    if (decision := _compare_structures(gold, answer, leaf)) is not None:
        return decision
    return leaf(gold, answer)


def _undecided(gold: str, answer: str) -> Decision:
    return None


def _too_big(text: str) -> str | None:
    if len(text) > MAX_CHARACTERS:
        return f"longer than {MAX_CHARACTERS} characters: compared as text only"
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH} brackets: compared as text only"
    return None


def _compare_numbers(gold: str, answer: str) -> Decision:
    gold_number, answer_number = read_numeral(gold), read_numeral(answer)
    # A decimal comma is read as one only beside a decimal point: `1,2` is a list otherwise.
    if _is_decimal(gold_number):
        answer_number = answer_number or read_decimal_comma(answer)
    if gold_number is not None:
        answer_number = answer_number or read_numeral(strip_letter_unit(answer))
    if _is_decimal(answer_number):
        gold_number = gold_number or read_decimal_comma(gold)
    if gold_number is None or answer_number is None:
        return None
    return same_number(gold_number, answer_number)


def _is_decimal(number: Numeral | None) -> bool:
    return number is not None and number.step is not None


def _are_words(gold: str, answer: str) -> bool:
    """Both are plain words. Rearranged letters stay undecided: `abc` is also a product."""
    words = [compact(text) for text in (gold, answer)]
    if not all(re.fullmatch(r"[A-Za-z'-]{3,}", word) for word in words):
        return False
    return sorted(words[0]) != sorted(words[1])


def _strip_labels(gold: str, answer: str) -> tuple[str, str] | None:
    """Both values without their labels; None where no label may go.

    `x = 5` answers both `5` and `x = 5`, but not `y = 5`; and `5` does not answer `x + y = 5`.
    """
    labels = [_LABEL.match(text) or _REVERSED_LABEL.match(text) for text in (gold, answer)]
    values = [
        label["value"].strip() if label else text
        for label, text in zip(labels, (gold, answer), strict=True)
    ]
    if labels[0] and labels[1]:
        same = compact(labels[0]["name"]) == compact(labels[1]["name"])
        return (values[0], values[1]) if same else None
    if (labels[0] and "=" not in answer) or (labels[1] and "=" not in gold):
        return values[0], values[1]
    return None


@dataclass(frozen=True)
class _Structure:
    """An answer of several parts. `brackets` is "" for a bare list, "{}" for a set."""

    brackets: str
    parts: list[str]

    @property
    def ordered(self) -> bool:
        return self.brackets not in ("", "{}")


def _compare_structures(gold: str, answer: str, leaf: Leaf) -> Decision:
    one, other = _read_structure(gold), _read_structure(answer)
    if one is None or other is None:
        return None
    if len(one.parts) != len(other.parts) and not (one.ordered or other.ordered):
        one, other = _flatten(one), _flatten(other)  # a=1, b=2; a=3, b=4 without its semicolon
    if len(one.parts) != len(other.parts) or len(one.parts) > MAX_PARTS:
        return None
    named = _are_named(one.parts) != _are_named(other.parts)  # x=1, y=2 against (1,2) or 1,2
    if one.ordered and other.ordered:
        if one.brackets != other.brackets:
            return False
    elif one.ordered or other.ordered:
        if not named:
            return None
    elif not named:
        return _match_unordered(one.parts, other.parts, leaf)
    return _all(compare(a, b, leaf) for a, b in zip(one.parts, other.parts, strict=True))


def _read_structure(text: str) -> _Structure | None:
    for opening, closing in (("\\{", "\\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        inner = text[len(opening) : len(text) - len(closing)]
        if text.startswith(opening) and text.endswith(closing) and _is_balanced(inner):
            parts = _split(inner)
            if opening == "\\{":
                return _Structure("{}", _expand_plus_minus(parts))
            return _Structure(opening + closing, parts) if len(parts) > 1 else None
    parts = _expand_plus_minus(_split(text))
    return _Structure("", parts) if len(parts) > 1 else None


def _flatten(structure: _Structure) -> _Structure:
    parts = [piece for part in structure.parts for piece in split_top_level(part, ",")]
    return _Structure(structure.brackets, parts)


def _split(text: str) -> list[str]:
    groups = split_top_level(text, ";")
    return groups if len(groups) > 1 else split_top_level(text, ",")


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text.replace("\\{", "(").replace("\\}", ")"):
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _expand_plus_minus(parts: Sequence[str]) -> list[str]:
    expanded: list[str] = []
    for part in parts:
        if _PLUS_MINUS.search(part):
            upper = part.replace("\\pm", "+").replace("\\mp", "-")
            lower = part.replace("\\pm", "-").replace("\\mp", "+")
            expanded += [upper.strip(), lower.strip()]
        else:
            expanded.append(part)
    return expanded


def _are_named(parts: Sequence[str]) -> bool:
    labels = [_LABEL.match(part) for part in parts]
    return all(labels) and len({label["name"] for label in labels if label}) == len(parts)


def _match_unordered(gold: Sequence[str], answer: Sequence[str], leaf: Leaf) -> Decision:
    """Pair each part with an equal one. Equality is transitive enough for a greedy matching."""
    remaining = list(answer)
    undecided = False
    for part in gold:
        decisions: list[Decision] = []
        for candidate in remaining:
            decisions.append(compare(part, candidate, leaf))
            if decisions[-1]:
                break
        if decisions and decisions[-1]:
            remaining.pop(len(decisions) - 1)
        elif None in decisions:
            undecided = True
        else:
            return False
    return None if undecided else True


def _all(decisions: Iterable[Decision]) -> Decision:
    undecided = False
    for decision in decisions:
        if decision is False:
            return False
        undecided |= decision is None
    return None if undecided else True
