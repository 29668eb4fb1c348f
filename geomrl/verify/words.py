"""Words around an answer: what introduces it, what closes it, ordinals, choices, conjunctions."""

from __future__ import annotations

import re

from geomrl.verify.units import CJK

TEXT_COMMAND = (
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|math(?:rm|bf|it|sf|tt)|mbox|hbox|operatorname\*?)"
)
_TEXT = re.compile(rf"{TEXT_COMMAND}\s*\{{([^{{}}]*)\}}")

# What follows words that only introduce it: a number, a bracket, a command, one letter.
_ANSWER = r"(?=[-+]?\s*(?:[\d.\\(\[{|]|[A-Za-z](?![A-Za-z])))"
_WORD = r"[A-Za-z\\'-]++[\s,~]++"
_VERB = (
    r"(?:is|are|was|were|be|equals|gives|get|equal to|given by|approximately|about|roughly|around"
    r"|circa|exactly|precisely|only|just|takes?|has|have|had|needs?|requires?|costs?|earns?|makes?"
    r"|contains?)(?![A-Za-z])[\s:,]*+"
)
_SENTENCE = re.compile(rf"(?:{_WORD}){{0,14}}{_VERB}(?:{_VERB})?{_ANSWER}", re.IGNORECASE)
_HEADING = re.compile(rf"(?:{_WORD}){{0,6}}[A-Za-z]{{3,}}+\s*:\s*+{_ANSWER}", re.IGNORECASE)
_PARTICLE = re.compile(
    rf"(?:(?:so|thus|hence|therefore|we|get|find|have|obtain|that|the|my|final|answer|result|solution"
    rf"|a total of|total of)(?![A-Za-z])[\s,:]*+){{1,8}}{_ANSWER}",
    re.IGNORECASE,
)
_NAMED_WORD = re.compile(
    r"(?:(?:so|thus|hence|therefore|the|my|final|correct|right|best)\s++){0,4}"
    r"(?:answer|solution|result|day|name)\s*+(?:is|are|:)[\s:]*+(?=[A-Z])",
    re.IGNORECASE,
)
_SIGN = re.compile(
    r"(?:\\(?:approx|sim|simeq|therefore|implies|Rightarrow|rightarrow)(?![A-Za-z])|[~=约]|大约|约为)"
    r"\s*+(?=[-+\d.\\])"
)
_REMARK = re.compile(rf"(?<=\d)\s*\(([A-Za-z{CJK}][A-Za-z{CJK} ]*+)\)$")
_ARTICLE = re.compile(r"(?:the|an?)\s+(?=[A-Za-z]{3,}+$)", re.IGNORECASE)
_CLOSING = re.compile(
    r"(?<!\s)\s++(?:is|are)\s+(?:the|our|my)\s+(?:[A-Za-z]++\s*+){1,12}$", re.IGNORECASE
)
_CHINESE_OPENING = re.compile(
    rf"(?:[{CJK}]{{0,14}}(?:是|为|共|等于|约|：|:)|所以|因此|答|答案)[\s:,]*+(?=[-+]?[\d\\(\[A-Za-z])"
)
# These turn a sentence into another claim: `not 5`, `twice the answer is 5`.
_OTHER_CLAIM = re.compile(
    r"(?<![A-Za-z])(?:not|no|non|never|neither|nor|cannot|\w+n't|without|except|if|unless|otherwise"
    r"|half|twice|double|triple|minus|negative|opposite|reciprocal|false|wrong|incorrect|other|or|and"
    r"|but)(?![A-Za-z])|[不非没無无否]",
    re.IGNORECASE,
)
_CHOICE = re.compile(
    r"(?:the\s++)?(?:(?:correct|right|best|final)\s++)?(?:option|choice|answer|answer choice"
    r"|选项?|答案)\s*+(?:is|are|是|为)?[\s:]*+\(?\s*([A-J])\s*\)?\.?$",
    re.IGNORECASE,
)
_CHOICE_CJK = re.compile(r"([A-J])\s*(?:选项|项)$")
_SUFFIX = r"(st|nd|rd|th)(?![A-Za-z])"
_RAISED = rf"(?:{TEXT_COMMAND}|\\textsuperscript)"
_ORDINAL = re.compile(
    rf"(\d)\s*(?:\^\s*\{{\s*{_RAISED}\s*\{{\s*{_SUFFIX}\s*\}}\s*\}}|\^?\s*\{{\s*{_SUFFIX}\s*\}}"
    rf"|\^?\s*{_RAISED}\s*\{{\s*{_SUFFIX}\s*\}}|\^?\s*{_SUFFIX})"
)
_ORDINAL_IN_TEXT = re.compile(rf"(\d)\s*({TEXT_COMMAND}\s*\{{\s*){_SUFFIX}(?=\s)")
_CONJUNCTION = re.compile(
    r"(?:(?<!\s)\s++,?\s*+|,\s*+)?"
    rf"(?:{TEXT_COMMAND}\s*\{{\s*(?:and|or|或者?|和|与|及)\s*\}}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])"
    r"|(?:以及|或者|或|和|与|及)(?=\s*[-+\d\\(\[A-Za-z]))\s*+"
)


def plain_text(text: str) -> str:
    """The text with each text command replaced by what is in it."""
    return _TEXT.sub(r"\1", text)


def strip_ordinals(text: str) -> str:
    """`11^{\\mathrm{th}}` and `21st` as their numbers."""
    return _ORDINAL.sub(r"\1", _ORDINAL_IN_TEXT.sub(r"\1\2", text))


def join_by_commas(text: str) -> str:
    """`3 or 5`, `3 \\text{ and } 5` and `3或5` as a list with commas."""
    return _CONJUNCTION.sub(", ", text)


def strip_phrases(text: str) -> str:
    """Drop the words that only introduce or close an answer: `The sum is 15`, `约5`, `Total: 5`.

    Words that change the claim stay, and with them the whole sentence: `not 5`, `half of it is 5`.
    """
    plain = plain_text(text).strip()
    if choice := _CHOICE.match(plain) or _CHOICE_CJK.match(plain):
        return choice[1].upper()
    for opening in (_SENTENCE, _HEADING, _PARTICLE, _NAMED_WORD, _SIGN, _CHINESE_OPENING):
        match = opening.match(plain)
        if match and not _OTHER_CLAIM.search(match.group()):
            text = plain = plain[match.end() :]
    text = _REMARK.sub(r" \1", text)
    if article := _ARTICLE.match(plain):
        text = plain[article.end() :]
    closing = _CLOSING.search(plain)
    if closing and not _OTHER_CLAIM.search(closing.group()):
        text = plain[: closing.start()]
    return text
