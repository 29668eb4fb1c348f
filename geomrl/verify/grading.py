"""Whether an answer equals the gold answer: exact rules first, a leaf comparison where they end.

`compare` takes two normal forms apart (numbers, words, `x = 5`, tuples, intervals, sets, lists,
`\\pm`) and hands what is left to a `leaf` function. In the parent process the leaf says
"undecided", so that most answers cost microseconds; in a worker it is computer algebra.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from geomrl.verify.conditions import letters, rename_integer, renamed, split_condition
from geomrl.verify.normal import compact, join_thousands, normal_form, split_top_level
from geomrl.verify.numbers import (
    read_based,
    read_clock,
    read_decimal_comma,
    read_numeral,
    same_digits,
    same_number,
    same_time,
)
from geomrl.verify.quantities import in_one_unit, split_unit

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
_OTHER_CHOICE = re.compile(r"(?:^|[\s,;/(])[A-J](?:\s*[):.,]|$)")
_FUNCTION = re.compile(r"([A-Za-z])\s*\(\s*([A-Za-z])\s*\)")
_DEFINITION = re.compile(r"^\s*([A-Za-z]\s*\(\s*([A-Za-z])\s*\)|y)\s*=([^=,;]*)$")
_SUM_LABEL = re.compile(r"[A-Za-z](?:\s*\+\s*[A-Za-z])+\s*=\s*(?P<value>[^=<>]+)$")
_BRACKETS = (("{", "}"), ("(", ")"), ("[", "]"))
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
    return compare(*normal_forms(gold, answer), _undecided)


def normal_forms(gold: str, answer: str) -> tuple[str, str]:
    """Both normal forms, the answer's function called as the gold's: `g(t) = t^2`, `y = x^2`."""
    gold, answer = normal_form(gold), normal_form(answer)
    one, other = _DEFINITION.match(gold), _DEFINITION.match(answer)
    if not (one and other) or (one[1] == "y" and other[1] == "y"):
        return gold, answer
    value = other[3]
    if one[2] and other[2]:
        value = _rename_variable(value, other[2], one[2])
    return gold, f"{one[1]}={value}"


def _rename_variable(text: str, old: str, new: str) -> str:
    """`text` with a function's variable renamed, unless the new name is taken."""
    return text if new in letters(text) else renamed(text, old, new)


def compare(gold: str, answer: str, leaf: Leaf) -> Decision:
    """Compare two normal forms; symmetric, but for what only an answer may do.

    That is a single-letter unit after a number, and a decimal comma for a decimal point.
    """
    if not gold or not answer:
        return False
    if compact(gold) == compact(answer):
        return True
    if (decision := _compare_numerals(gold, answer)) is not None:
        return decision
    if _are_words(gold, answer):
        return False
    if (letters_agree := _compare_choices(gold, answer)) is not None:
        return letters_agree
    if (values := _strip_conditions(gold, answer)) is not None:
        return values and compare(*values, leaf)
    if (chained := _chained_values(answer)) is not None:
        return _any(compare(gold, value, leaf) for value in chained)
    if (values := _strip_labels(gold, answer)) is not None:
        return compare(*values, leaf)
    if (readings := in_one_unit(gold, answer)) is not None:
        return _any(compare(*reading, leaf) for reading in readings)
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


def _compare_numerals(gold: str, answer: str) -> Decision:
    """Compare two numbers, numerals with a base, or times of day; None for anything else."""
    gold_number, answer_number = read_numeral(gold), read_numeral(answer)
    # A comma in the answer is a decimal one only beside a decimal point: `1,2` is a list otherwise.
    if gold_number is not None and gold_number.step is not None:
        answer_number = answer_number or read_decimal_comma(answer)
    if gold_number is not None and answer_number is not None:
        return same_number(gold_number, answer_number)
    gold_based, answer_based = read_based(gold), read_based(answer)
    if gold_based and answer_based:
        return gold_based == answer_based
    if gold_based and re.fullmatch(r"[\w.()+-]+", answer):
        return same_digits(gold_based, answer)
    if answer_based and re.fullmatch(r"[\w.()+-]+", gold):
        return same_digits(answer_based, gold)
    gold_time, answer_time = read_clock(gold), read_clock(answer)
    return same_time(gold_time, answer_time) if gold_time and answer_time else None


def _compare_choices(gold: str, answer: str) -> Decision:
    """`E`, `(E) 42` and `E. some text` name one choice; `E) 5 or F) 6` names none."""
    if re.fullmatch("[A-J]", answer) and _CHOICE_WITH_TEXT.match(gold):
        gold, answer = answer, gold
    choice = _CHOICE_WITH_TEXT.match(answer)
    if not (choice and re.fullmatch("[A-J]", gold)):
        return None
    return choice[1] == gold and not _OTHER_CHOICE.search(answer, choice.end() - 1)


def _strip_conditions(gold: str, answer: str) -> tuple[str, str] | Literal[False] | None:
    """Both values without the conditions behind them, an integer parameter under one name.

    False where both have a condition and these differ; None where there is nothing to strip.
    """
    one, other = split_condition(gold), split_condition(answer)
    value = rename_integer(one, other)
    if (one.value, value) == (gold, answer):
        return None
    alike = compact(one.condition) == compact(other.condition) or (one.integer and other.integer)
    return (one.value, value) if alike or not (one.condition and other.condition) else False


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
    if (total := _SUM_LABEL.match(answer)) and read_numeral(gold) is not None:
        return gold, total["value"].strip()  # m + n = 7, where m + n was asked for
    labels = [_read_label(text) for text in (gold, answer)]
    values = [
        join_thousands(label["value"].strip()) if label else text
        for label, text in zip(labels, (gold, answer), strict=True)
    ]
    if labels[0] and labels[1]:
        if compact(labels[0]["name"]) == compact(labels[1]["name"]):
            return values[0], values[1]
        one, other = (_FUNCTION.fullmatch(label["name"].strip()) for label in labels if label)
        if one and other and one[1] == other[1]:  # f(x) = 2x and f(n) = 2n
            return values[0], _rename_variable(values[1], other[2], one[2])
        return None
    if (labels[0] and "=" not in answer) or (labels[1] and "=" not in gold):
        return values[0], values[1]
    return None


def _chained_values(answer: str) -> list[str] | None:
    """What `F = m a = 4 + 4 = 8` may answer: the last value, and numbers that round to it.

    No value where two numbers contradict each other, `x = 8 = 7`; None for fewer than two signs.
    """
    parts = [part.strip() for part in answer.split("=")]
    if not 3 <= len(parts) <= MAX_DEPTH or not all(parts) or re.search(r"[<>]", answer):
        return None
    balanced = all(
        part.count(one) == part.count(other) for part in parts for one, other in _BRACKETS
    )
    if not balanced or any(len(split_top_level(part)) > 1 for part in parts):
        return None
    quantities = [(part, *split_unit(part)) for part in parts]
    numbers = {
        part: (numeral.value, unit)
        for part, value, unit in quantities
        if (numeral := read_numeral(value))
    }
    for (one, unit), (other, other_unit) in combinations(numbers.values(), 2):
        if unit == other_unit and abs(one - other) * 100 > max(abs(one), abs(other)):
            return []
    return list(dict.fromkeys([parts[-1], *numbers]))


def _read_label(text: str) -> re.Match[str] | None:
    """The name before an equals sign: outside brackets, unlike the one of `\\sum_{k=1}^5`."""
    label = _LABEL.match(text) or _REVERSED_LABEL.match(text)
    name = label["name"] if label else ""
    balanced = all(name.count(one) == name.count(other) for one, other in _BRACKETS)
    return label if balanced else None


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
        if r"\cup" in gold and other and (union := _as_union(other.parts)):
            return leaf(gold, union)
        if r"\cup" in answer and one and (union := _as_union(one.parts)):
            return leaf(union, answer)
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
            # A bare list may be a tuple without its brackets. What else it is, the leaf knows.
            pairs = zip(one.parts, other.parts, strict=True)
            return _all(compare(a, b, leaf) for a, b in pairs) or None
    elif not named:
        return _match_unordered(one.parts, other.parts, leaf)
    return _all(compare(a, b, leaf) for a, b in zip(one.parts, other.parts, strict=True))


_INEQUALITY = re.compile(
    r"(?P<name>[A-Za-z])\s*(?P<sign><|>|\\le|\\ge)(?![A-Za-z])\s*(?P<bound>[^<>,;]*[\w}])$"
)


def _as_union(parts: Sequence[str]) -> str | None:
    """`x<-1, x>1` as the union of its intervals; None for anything else."""
    bounds = [_INEQUALITY.match(part) for part in parts]
    if len({bound["name"] if bound else None for bound in bounds}) != 1 or not all(bounds):
        return None
    return r"\cup ".join(
        {
            "<": rf"(-\infty, {bound['bound']})",
            ">": rf"({bound['bound']}, \infty)",
            r"\le": rf"(-\infty, {bound['bound']}]",
            r"\ge": rf"[{bound['bound']}, \infty)",
        }[bound["sign"]]
        for bound in bounds
        if bound
    )


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


def _any(decisions: Iterable[Decision]) -> Decision:
    undecided = False
    for decision in decisions:
        if decision:
            return True
        undecided |= decision is None
    return None if undecided else False


def _all(decisions: Iterable[Decision]) -> Decision:
    undecided = False
    for decision in decisions:
        if decision is False:
            return False
        undecided |= decision is None
    return None if undecided else True
