"""What may stand behind an answer: where it holds, and which letter counts through the integers.

`\\frac{\\pi}{4} + n\\pi \\text{ for } n \\in \\mathbb{Z}` is the answer `\\frac{\\pi}{4} + n\\pi` with
the integer parameter n, which another answer may call k.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_INTRODUCED = re.compile(
    r"[\s,;(\[]*+(?<![A-Za-z\\])(?:for|where|when|with|if|such that|provided|assuming|\\forall)"
    r"(?![A-Za-z])\s*+"
)
_MODULUS = re.compile(r"\s*+,?\s*+(?:\\pmod\s*|\(\s*\\mod\s*)(?=\{?\s*\w+\s*[})]*$)")
_RELATION = r"(?:=|<|>|\\(?:in|le|ge|ne|leq|geq|subset|equiv)(?![A-Za-z]))"
_DOMAIN_BEHIND_COMMA = re.compile(
    r"[,;]\s*(?=[A-Za-z]\s*(?:\\in(?![A-Za-z])[^,;]*$|=\s*0\s*,\s*(?:\\pm\s*)?1))"
)
_RELATES = re.compile(_RELATION)
_DOMAIN_WORDS = re.compile(
    r"(?<![A-Za-z])(?:all|any|every|each|some|integers?|reals?|natural|positive|nonnegative|even|odd"
    r"|constants?|arbitrary|whole)(?![A-Za-z])"
)
_CASES = re.compile(r"(?<![A-Za-z])(?:otherwise|else|if|for|when|not)(?![A-Za-z])")
_INTEGERS = re.compile(
    r"(?<![A-Za-z\\])([A-Za-z])(?![A-Za-z])\s*(?:\\in\s*(?:\\mathbb\s*\{?\s*[ZN]|\\?Z(?![A-Za-z])|N(?![A-Za-z]))"
    r"|(?:is )?(?:an? |any |all )?(?:\w+ )?integers?|=\s*0\s*,\s*(?:\\pm\s*)?1)"
    r"|integers?\s+([A-Za-z])(?![A-Za-z])"
)
_TOKEN = re.compile(r"\\[A-Za-z]+|[A-Za-z]")
_PERIODIC = re.compile(r"\\pi|\\circ|\d{3}")


@dataclass(frozen=True)
class Conditioned:
    """An answer, and the condition behind it: "" for none."""

    value: str
    condition: str = ""

    @property
    def integer(self) -> str | None:
        """The letter that the condition declares to be an integer."""
        match = _INTEGERS.search(self.condition)
        return (match[1] or match[2]) if match else None


def split_condition(normal: str) -> Conditioned:
    """The value of a normal form and its condition, without the word that introduces it.

    What tells several cases apart (`5 if n is even, 7 otherwise`) is no condition of one value.

    >>> split_condition("2n+1 for n \\\\in \\\\mathbb{Z}")
    Conditioned(value='2n+1', condition='n \\\\in \\\\mathbb{Z}')
    """
    for pattern in (_INTRODUCED, _MODULUS, _DOMAIN_BEHIND_COMMA):
        match = pattern.search(normal)
        if match:
            value, condition = normal[: match.start()], normal[match.end() :].rstrip(" )].")
            break
    else:
        opening = _last_parenthesis(normal)
        value, condition = normal[:opening], normal[opening + 1 : -1]
        if opening <= 0 or not _RELATES.search(condition):
            return Conditioned(normal)
    if pattern is _MODULUS and match:
        condition = "modulo " + condition.strip("{}( ")
    elif not _is_one_condition(condition):
        return Conditioned(normal)
    value = value.strip().rstrip(",;")
    if len(value) == 0 or _is_open(value):
        return Conditioned(normal)
    return Conditioned(value, condition)


def _last_parenthesis(text: str) -> int:
    """Where the parenthesis that ends the text was opened; -1 without one."""
    depth = 0
    for place in range(len(text) - 1, -1, -1):
        depth += (text[place] == ")") - (text[place] == "(")
        if depth == 0:
            return place if text[-1:] == ")" else -1
    return -1


def _is_one_condition(condition: str) -> bool:
    enumerates = _INTEGERS.search(condition) is not None
    parts = [condition] if enumerates else condition.split(",")
    return not _CASES.search(condition) and all(
        (_RELATES.search(part) or _DOMAIN_WORDS.search(part)) and not part.strip()[:1].isdigit()
        for part in parts
    )


def _is_open(value: str) -> bool:
    """The condition stands inside a bracket: `\\{x : x > 0 for ...\\}` or a set's description."""
    depth = 0
    for character in value:
        depth += (character in "([{") - (character in ")]}")
    return depth != 0


def renamed(text: str, old: str, new: str) -> str:
    """`text` with the letter `old`, where it is no part of a command, called `new`."""
    return _TOKEN.sub(lambda match: new if match.group() == old else match.group(), text)


def letters(text: str) -> set[str]:
    """The letters of `text` outside commands."""
    return {token for token in _TOKEN.findall(text) if len(token) == 1}


def rename_integer(gold: Conditioned, answer: Conditioned) -> str:
    """The answer's value with its integer parameter called as in the gold answer.

    One side must say that it is an integer, or both be written as a period: `x + 2\\pi k`. Each
    side must have exactly one letter that the other has not.
    """
    mine, theirs = letters(gold.value), letters(answer.value)
    if len(mine - theirs) != 1 or len(theirs - mine) != 1:
        return answer.value
    (new,), (old,) = mine - theirs, theirs - mine
    declared = gold.integer == new or answer.integer == old
    periodic = all(
        letter in "kKlmnNjt" and _PERIODIC.search(value) and re.search(r"[^\s(,]\s*[-+]", value)
        for letter, value in ((new, gold.value), (old, answer.value))
    )
    return renamed(answer.value, old, new) if declared or periodic else answer.value
