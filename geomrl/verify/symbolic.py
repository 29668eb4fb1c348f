"""Equality of two answers by computer algebra (math-verify and sympy). Runs in workers only.

Nothing here is bounded in time or memory: the caller is a process that can be killed. A parsed
answer is never turned into a string, since that alone can hang.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex
from math_verify import verify
from math_verify.grader import should_treat_as_complex

from geomrl.verify.grading import Decision, compare
from geomrl.verify.normal import normal_form
from geomrl.verify.numbers import close, read_numeral

_DIGITS = 50
_EXACT = sympy.Float(10) ** -40  # two exact values that agree to 40 digits are equal
_INEXACT = sympy.Float(10) ** -6  # a decimal took part, inside an expression
_PROBES = ("0.3719", "1.6180339", "2.7351", "-0.6137", "-1.8519")

# Only spelling is normalised by the library. Its unit rule reads `3t` as 3 and `1-1/\mathrm{e}`
# as 1, and lower-casing makes R - r vanish; geomrl's own normal form stands in their place.
_SPELLING = NormalizationConfig(
    basic_latex=True,
    units=False,
    malformed_operators=True,
    nits=True,
    boxed="none",
    equations=False,
)
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_ADJACENT_NUMERALS = re.compile(r"(?<![_^.\d])\d[\d.]*\s+\d")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")

logging.getLogger("math_verify").setLevel(logging.ERROR)


def symbolic_equal(gold: str, answer: str) -> bool:
    """Whether `answer` equals `gold`, both as they were written.

    Raises:
        MemoryError, RecursionError, ArithmeticError: the comparison could not be finished.
    """
    return bool(compare(normal_form(gold), normal_form(answer), _leaf))


def _leaf(gold: str, answer: str) -> Decision:
    parsed_gold, parsed_answer = _parse(gold), _parse(answer)
    if parsed_gold is None or parsed_answer is None:
        return False  # not mathematics, and the texts differ
    if _is_scalar(parsed_gold) and _is_scalar(parsed_answer):
        decision = _compare_scalars(gold, answer, parsed_gold, parsed_answer)
        if decision is not None:
            return decision
    sides = (parsed_gold, parsed_answer)
    if any(map(_is_equation_with_sum, sides)) and not all(isinstance(s, _RELATIONS) for s in sides):
        return False
    if isinstance(parsed_gold, sympy.Ne) and isinstance(parsed_answer, sympy.Ne):
        # x != 3 excludes what x = 3 allows; the library has no rule for it and raises.
        parsed_gold, parsed_answer = (
            sympy.Eq(side.lhs, side.rhs, evaluate=False) for side in (parsed_gold, parsed_answer)
        )
    # The order (gold, answer) matters, and the timeout must be off: it needs the main thread's
    # signals, and the parent process keeps the time.
    return bool(
        verify(
            parsed_gold,
            parsed_answer,
            allow_set_relation_comp=True,  # an interval may be answered by an inequality
            timeout_seconds=None,
            raise_on_error=True,
        )
    )


@lru_cache(maxsize=256)  # one gold answer meets many answers
def _parse(text: str) -> Any:
    """The sympy object that the LaTeX in `text` denotes; None when it denotes none."""
    if _ADJACENT_NUMERALS.search(text):
        return None  # the parser reads `11 6/6` as 17/6
    try:
        spelled = normalize_latex(text, _SPELLING)
        parsed = latex2sympy(
            spelled,
            is_real=not should_treat_as_complex(spelled),
            # Degrees after a bare number were a unit, and are gone by now.
            convert_degrees=_TRIGONOMETRY.search(spelled) is not None,
            normalization_config=None,
            conversion_config=_CONVERSION,
        )
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001  the parser raises bare Exception on a syntax error
        return None
    return None if parsed in (sympy.nan, sympy.zoo) else parsed


_RELATIONS = (sympy.core.relational.Relational, sympy.And)


def _is_scalar(parsed: Any) -> bool:
    return (
        isinstance(parsed, sympy.Expr)
        and not isinstance(parsed, sympy.MatrixExpr)
        and not parsed.has(sympy.core.function.AppliedUndef, sympy.MatrixBase)
    )


def _is_equation_with_sum(parsed: Any) -> bool:
    """`x + z = 1`, which math-verify takes for an assignment whose value is 1."""
    is_sum = isinstance(parsed, sympy.Eq) and isinstance(parsed.lhs, sympy.Add)
    return bool(is_sum and parsed.lhs.free_symbols)


def _compare_scalars(gold: str, answer: str, parsed_gold: Any, parsed_answer: Any) -> Decision:
    """Compare two expressions by value, at fixed points where they have variables.

    Two different elementary expressions that agree to 40 digits at five unrelated points do not
    occur; and a comparison by value, unlike `simplify`, has no false positive from chopping small
    terms (1/2004! and 1/2006!).
    """
    names = sorted({s.name for side in (parsed_gold, parsed_answer) for s in side.free_symbols})
    if not names:
        return _compare_values(gold, answer, parsed_gold, parsed_answer)
    inexact = _INEXACT if parsed_gold.has(sympy.Float) or parsed_answer.has(sympy.Float) else _EXACT
    compared = 0
    for probe in range(len(_PROBES)):
        values = {
            name: sympy.Rational(_PROBES[(probe + i) % len(_PROBES)]) + i // len(_PROBES)
            for i, name in enumerate(names)
        }
        one, other = _evaluate(parsed_gold, values), _evaluate(parsed_answer, values)
        if one is None or other is None or (probe > 2 and not (one.is_real and other.is_real)):
            continue  # outside the domain: 2 log x and log x^2 are compared where x > 0
        if max(abs(one), abs(other)) < _EXACT:
            continue  # nothing but rounding is left: x^2 - x^2
        if not _agree(one, other, inexact):
            return False
        compared += 1
    return True if compared >= 2 else None


def _compare_values(gold: str, answer: str, parsed_gold: Any, parsed_answer: Any) -> Decision:
    if parsed_gold.doit().is_Rational and parsed_answer.doit().is_Rational:
        return bool(parsed_gold.doit() == parsed_answer.doit())
    one, other = _evaluate(parsed_gold, {}), _evaluate(parsed_answer, {})
    if one is None or other is None:
        return None
    numeral = read_numeral(gold) or read_numeral(answer)
    if numeral is not None and numeral.step is not None and one.is_real and other.is_real:
        return close(_fraction(one), _fraction(other), numeral.step)
    inexact = parsed_gold.has(sympy.Float) or parsed_answer.has(sympy.Float)
    if max(abs(one), abs(other)) < _EXACT:  # a tiny value, or zero by cancellation
        return bool(sympy.simplify(parsed_gold - parsed_answer) == 0)
    return _agree(one, other, _INEXACT if inexact else _EXACT)


def _evaluate(parsed: Any, values: dict[str, Any]) -> Any:
    """The value to 50 digits, or None when it is not a finite number."""
    substitution = {symbol: values[symbol.name] for symbol in parsed.free_symbols}
    value = sympy.N(parsed.subs(substitution).doit(), _DIGITS)
    return value if value.is_number and value.is_finite else None


def _agree(one: Any, other: Any, tolerance: Any) -> bool:
    return bool(abs(one - other) <= tolerance * max(abs(one), abs(other)))


def _fraction(value: Any) -> Fraction:
    rational = sympy.Rational(value)
    return Fraction(int(rational.p), int(rational.q))
