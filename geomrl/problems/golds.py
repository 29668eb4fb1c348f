"""Gold answers as data sets write them, and the bare answer that is graded against."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from geomrl.verify.marker import BOXED, parse_marker

LONGEST = 300
"""Characters of a worked solution that may still be an answer by itself."""
_GROUPED = re.compile(r"[-+$\\]*\d{1,3}(,\d{3})+(\.\d+)?[%.]?")
_QUOTED_LIST = ("['", '["')


def bare_gold(value: Any, *, worked: bool = False) -> str:
    r"""Return the answer in a gold cell, and "" where it contains none.

    Of several answers, all; of GSM8K's solutions what follows `####`; of a text with a box its last
    box. Problem files and imported rollouts are read alike.

    Args:
        value: a cell in plain Python's types (`nested.plain`).
        worked: the cell contains a worked solution: without `####` and box, a long one has no answer.

    >>> bare_gold("6*7=<<6*7=42>>42\n#### 42"), bare_gold("so \\boxed{15}."), bare_gold(42.0)
    ('42', '15', '42')
    >>> bare_gold(["4", "5"]), bare_gold("['4', '5']"), bare_gold([0, 5]), bare_gold("[0, 5]")
    ('4, 5', '4, 5', '0, 5', '[0, 5]')
    >>> bare_gold(None), bare_gold([]), bare_gold(" ")
    ('', '', '')
    """
    if isinstance(value, str):
        value = _listed(value.strip())
    if isinstance(value, list):
        parts = [bare_gold(part) for part in value]
        return ", ".join(parts) if all(parts) else ""
    if value is None or isinstance(value, Mapping | bool):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas makes floats of whole numbers with gaps
    return _of_text(str(value).strip(), worked=worked)


def _listed(text: str) -> Any:
    """Return a list of texts that was printed (JSON or Python); an interval `[1, 2]` stays one."""
    if not (text.startswith(_QUOTED_LIST) and text.endswith("]")):
        return text
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return found if all(isinstance(part, str) for part in found) else text


def _of_text(text: str, *, worked: bool) -> str:
    _, hashes, last = text.rpartition("####")
    last = last.strip()
    if hashes and "\n" not in last:  # several lines below it: a heading, not GSM8K's answer
        grouped = _GROUPED.fullmatch(last)
        return last.replace(",", "") if grouped else _of_text(last, worked=False)
    # Two boxes in one line are two answers; in a solution the last one is the answer.
    solution = worked or len(text) > LONGEST or "\n" in text
    if solution or text.count("\\boxed") == 1:
        span = parse_marker(BOXED).find(text)
        if span is not None:
            inner = text[span.answer_start : span.answer_end].strip()
            return inner if inner == text else _of_text(inner, worked=False)
    return "" if worked and len(text) > LONGEST else text
