"""Equality of two answers by computer algebra (math-verify and sympy). Runs in workers only.

Nothing here is bounded in time or memory: the caller is a process that can be killed. A parsed
answer is never turned into a string, since that alone can hang.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex
from math_verify import verify
from math_verify.grader import should_treat_as_complex
from sympy.core.function import AppliedUndef

from geomrl.verify.families import same_family, with_same_constants
from geomrl.verify.grading import Decision, compare, normal_forms
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
_WHOLE_PROBES = ("23", "10", "37", "52", "101", "95", "7", "66")
_COUNT = re.compile(r"[kmnKMN]")
_MAX_NAMES = 20
_BARE_LOG = re.compile(r"\\log(?![A-Za-z_])(?!\s*_)")
# `2(3)` is a product, and no mixed number.
_BRACKETED_FACTOR = re.compile(r"(?<![\w.^])(\d[\d.]*)\s*\((?=\s*[-\d])")
# To the parser E is a constant and I the imaginary unit, also with an index, which it drops.
_INDEXED = re.compile(r"(?<![A-Za-z\\])([EI])(?=_)")
# A derivative's prime is an accent to the parser, which would drop it: y' is no y.
_PRIME = re.compile(r"([A-Za-z]|\\[a-z]{2,8})\s*(_\w|_\{\w+\})?\s*\^\s*\{?((?:\\prime\s*){1,3})\}?")
_ADJACENT_NUMERALS = re.compile(r"(?<![_^.\d])\d[\d.]*\s+\d")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")

logging.getLogger("math_verify").setLevel(logging.ERROR)


def symbolic_equal(gold: str, answer: str) -> bool:
    """Whether `answer` equals `gold`, both as they were written.

    Raises:
        MemoryError, RecursionError, ArithmeticError: the comparison could not be finished.
    """
    return bool(compare(*normal_forms(gold, answer), _leaf))


def _leaf(gold: str, answer: str) -> Decision:
    gold, answer = _read_log_as(gold, answer), _read_log_as(answer, gold)
    parsed_gold, parsed_answer = _parse(gold), _parse(answer)
    if parsed_gold is None or parsed_answer is None:
        return False  # not mathematics, and the texts differ
    sides = (parsed_gold, parsed_answer)
    if any(map(_is_false, sides)):
        return False
    if all(map(_is_scalar, sides)):
        one, other = with_same_constants(*map(_opaque, sides))
        decision = _compare_scalars(gold, answer, one, other)
        if decision is not None:
            return (
                decision or same_family(one, other) or _are_equal_complex(gold, answer, one, other)
            )
    if all(isinstance(side, sympy.Eq) for side in sides):
        opaque = [_opaque(side) for side in sides]
        if _are_proportional(*(side.lhs - side.rhs for side in opaque)):
            return True
        if _is_solved(*opaque) or _is_solved(*reversed(opaque)):
            return True
        if opaque != list(sides):
            return False  # to solve for a function is without end: \ddot{\theta}(t)
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
        text = _BRACKETED_FACTOR.sub(r"\1 \\cdot (", text)
        text = _INDEXED.sub(r"\\mathrm{\1}", _PRIME.sub(_derivative, text))
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


def _derivative(prime: re.Match[str]) -> str:
    dots = "d" * prime[3].count("p")
    return rf"\{dots}ot{{{prime[1]}}}{prime[2] or ''}"


def _is_scalar(parsed: Any) -> bool:
    return (
        isinstance(parsed, sympy.Expr)
        and not isinstance(parsed, sympy.MatrixExpr)
        and not parsed.has(sympy.MatrixBase)
    )


def _are_equal_complex(gold: str, answer: str, one: Any, other: Any) -> bool:
    """Whether two expressions in the letter i are equal where it is the imaginary unit."""
    units = [
        {symbol: sympy.I for symbol in side.free_symbols if symbol.name == "i"}
        for side in (one, other)
    ]
    if not any(units):
        return False
    one, other = (side.xreplace(unit) for side, unit in zip((one, other), units, strict=True))
    return bool(_compare_scalars(gold, answer, one, other))


def _opaque(parsed: Any) -> Any:
    """The expression with each `f(t)` of an unknown f, and each dv/dt of an unknown v, as a variable."""
    calls = parsed.atoms(AppliedUndef) | {
        derivative
        for derivative in parsed.atoms(sympy.Derivative)
        if not derivative.expr.free_symbols & set(derivative.variables)
    }
    return parsed.xreplace({call: _variable(call) for call in calls})


def _variable(call: Any) -> Any:
    """What stands for a call: itself as a variable, or the product that `\\omega(v+1)` must be."""
    if isinstance(call, AppliedUndef) and len(call.args) == 1 and call.args[0].is_Add:
        name = call.func.__name__
        if name.startswith("\\") and name[1:].isalpha():
            return sympy.Symbol(name[1:], real=True) * call.args[0]
    value = call if isinstance(call, sympy.Derivative) else call.doit()
    return sympy.Symbol(f"call{hash(value)}", real=True)


def _read_log_as(text: str, other: str) -> str:
    """`\\log` without a base is the natural one beside an answer that says `\\ln`."""
    if r"\ln" in text or r"\ln" not in other:
        return text
    return _BARE_LOG.sub(r"\\ln", text)


def _is_false(parsed: Any) -> bool:
    """An equation between two different numbers, `8 = 7`, which the library takes for 7."""
    if not isinstance(parsed, sympy.Eq) or parsed.free_symbols or parsed.has(AppliedUndef):
        return False
    one, other = _evaluate(parsed.lhs, {}), _evaluate(parsed.rhs, {})
    return one is not None and other is not None and not _agree(one, other, _INEXACT)


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
    compared, signs = 0, False
    for probe, values in enumerate(_points(names, parsed_gold, parsed_answer)):
        one, other = _evaluate(parsed_gold, values), _evaluate(parsed_answer, values)
        if one is None or other is None or (probe > 2 and not (one.is_real and other.is_real)):
            continue  # outside the domain: 2 log x and log x^2 are compared where x > 0
        if max(abs(one), abs(other)) < _EXACT:
            continue  # nothing but rounding is left: x^2 - x^2
        if not _agree(one, other, inexact):
            # Physical constants are positive: r sqrt(a) is sqrt(a r^2), though |x| is not x.
            if (
                len(names) < 2
                or min(values.values()) > 0
                or not _agree(abs(one), abs(other), inexact)
            ):
                return False
            signs = True
            continue
        compared += 1
    if signs:
        return _agree_where_positive(names, parsed_gold, parsed_answer, inexact)
    return True if compared >= 2 else None


def _agree_where_positive(names: Sequence[str], one: Any, other: Any, tolerance: Any) -> bool:
    """Whether two expressions agree at three points of positive coordinates."""
    points = [{name: abs(value) for name, value in point.items()} for point in _points(names)][:3]
    pairs = [(_evaluate(one, point), _evaluate(other, point)) for point in points]
    return all(a is not None and b is not None and _agree(a, b, tolerance) for a, b in pairs)


def _are_proportional(one: Any, other: Any) -> bool:
    """Whether two equations `one = 0` and `other = 0` differ by a constant factor."""
    names = sorted({symbol.name for side in (one, other) for symbol in side.free_symbols})
    if not names or len(names) > _MAX_NAMES:
        return False
    pairs = [(_evaluate(one, values), _evaluate(other, values)) for values in _points(names)]
    known = [(a, b) for a, b in pairs if a is not None and b is not None and a != 0 != b]
    return len(known) > 2 and all(
        _agree(a * known[0][1], b * known[0][0], _EXACT) for a, b in known[1:]
    )


def _is_solved(solution: Any, equation: Any) -> bool:
    """Whether `y = ...` is what an equation, linear in y, says."""
    unknown, value = solution.lhs, solution.rhs
    residual = equation.lhs - equation.rhs
    if not isinstance(unknown, sympy.Symbol) or unknown in value.free_symbols:
        return False
    slope = residual.diff(unknown)
    if slope == 0 or unknown in slope.free_symbols:
        return False
    return _are_proportional(residual, slope * (unknown - value))


def _points(names: Sequence[str], *sides: Any) -> Iterator[dict[str, Any]]:
    """Values for the variables: five unrelated points.

    Near zero most roundings are alike, so that expressions which round are compared at whole
    numbers too, and at nothing else where all variables are counts such as n.
    """
    rounds = any(side.has(sympy.floor, sympy.ceiling, sympy.Mod) for side in sides)
    counts = rounds and all(_COUNT.fullmatch(name) for name in names)
    for probes in (() if counts else _PROBES, _WHOLE_PROBES if rounds else ()):
        for probe in range(len(probes)):
            yield {
                name: sympy.Rational(probes[(probe + i) % len(probes)]) + i // len(probes)
                for i, name in enumerate(names)
            }


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
