"""Verdicts: right answers in many spellings, near misses, hard inputs, and no leaks."""

import csv
import gc
import random
import sys
import textwrap
import threading
import time
from fractions import Fraction
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import gone, run_process

from geomrl.errors import GeomrlError
from geomrl.files import text_hash
from geomrl.verify.grading import Uncompared, quick_equal
from geomrl.verify.normal import normal_form
from geomrl.verify.numbers import read_numeral, same_number
from geomrl.verify.verifier import Grade, MathVerifier
from geomrl.verify.workers import Outcome, WorkerPool

TOWER = r"9^{9^{9^9}}+1"
ADJUDICATION = Path(__file__).parents[1] / "data" / "verifier_adjudication.csv"


@pytest.fixture(scope="module")
def verifier():
    with MathVerifier(workers=1, timeout_s=10) as verifier:
        yield verifier


def boxed(*answers):
    return [f"so \\boxed{{{answer}}}" for answer in answers]


# One pair a rule, decided without a worker.
EQUAL_AT_SIGHT = [
    ("42", " 42. "),
    ("5", "$5$"),
    ("5", r"\(5\)"),
    ("5", "5.0"),
    (r"\frac{1}{2}", r"\dfrac12"),
    (r"\frac{1}{2}", "0.5"),
    ("2/4", "1/2"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    ("10000", "10{,}000"),
    ("1234.5", r"1\,234.5"),
    ("1000", "1 000"),
    ("32349", r"32,\!349"),
    ("1000.99", "1000,99"),
    ("9/2", "4 1/2"),
    ("-9/2", r"-4\frac12"),
    ("150000000", r"1.5\times10^{8}"),
    (r"\frac{1}{6}", r"0.1\overline{6}"),
    ("3.1416", "3.14159"),
    ("8/3", "2.6667"),
    (r"28\%", "28 percent"),
    (r"28\%", "0.28"),
    ("10", r"10\%"),
    ("5", r"5\text{ cm}^2"),
    ("9.6e-9", r"9.6 \times 10^{-9} \mathrm{erg} \mathrm{~s}^{-1}"),
    ("125", "125 miles"),
    ("5", "5 m"),
    ("5", r"\$5.00"),
    ("48", r"48^\circ"),
    ("5", "x = 5"),
    ("f(x)=2x", "2x"),
    ("5", "The answer is $5$."),
    ("C", r"\text{(C)}"),
    ("C", r"\textbf{(C)}\ 5"),
    ("Evelyn", r"\text{evelyn}"),
    ("(1, 2)", r"\left(1,2\right)"),
    (r"(0.6, 2.6667]", r"(\frac{3}{5}, \frac{8}{3}]"),
    (r"\{1,2,3\}", r"\{3, 1, 2\}"),
    ("1,2,3", r"2, 3 \text{ and } 1"),
    (r"1\pm\sqrt{2}", r"1-\sqrt2, 1+\sqrt2"),
    ("x=1, y=2", "(1, 2)"),
    ("p=5,q=2;p=7,q=2", "(7,2),(5,2)"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{\sqrt{3}}{3} \approx 0.577"),
]
DIFFERENT_AT_SIGHT = [
    ("7", "8"),
    ("5", "-5"),
    ("5", ""),
    ("0.5", "0.52"),
    ("1/3", "0.33"),
    ("0.0000001", "0.0000002"),
    ("10", "9.99999"),
    ("1000.99", "1000.98"),
    ("2", "12"),
    ("40/9", r"4\frac{4}{9}\%"),
    ("0.75", "75"),
    ("odd", "even"),
    ("C", "(D) 5"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("1,2", "1,3"),
    ("x=1, y=2", "(2, 1)"),
]
EQUAL_BY_ALGEBRA = [
    (r"\sqrt{8}", r"2\sqrt{2}"),
    (r"\frac{\sqrt2}{2}", r"\frac{1}{\sqrt2}"),
    (r"\sqrt{2}", "1.41421356"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"\sin^2 x+\cos^2 x", "1"),
    (r"\ln(x^2)", r"2\ln x"),
    ("0", "x^2-x^2"),
    (r"\binom{5}{2}", "10"),
    (r"(-\infty, 3]", r"x \le 3"),
    (r"x \le 3", r"(-\infty, 3]"),
    (r"(0,1)\cup(2,3)", r"(2,3)\cup(0,1)"),
    ("x^2/4+y^2/3=1", "3x^2+4y^2=12"),
    (r"x \ne 3", r"3 \ne x"),
    (r"\begin{pmatrix}1/2\\2\end{pmatrix}", r"\begin{bmatrix} 0.5 \\ 2 \end{bmatrix}"),
    (r"\tan 45^\circ", "1"),
    (r"(\sqrt{8}, 1)", r"(2\sqrt{2}, 1)"),
]
DIFFERENT_BY_ALGEBRA = [
    ("1/2004!", "1/2006!"),
    ("1", "1+1/2004!"),
    ("10^{50}+1", "10^{50}"),
    (r"1-1/\mathrm{e}", r"1+1/\mathrm{e}"),
    ("0", "R-r"),
    ("2c", "2"),
    ("3t", "3"),
    ("|x|", "x"),
    ("x+z=1", "1"),
    ("x=5", "y=5"),
    (r"\pm 3", "3"),
    (r"n \text{ odd}", r"n \text{ even}"),
    ("17/6", "11 6/6"),
    ("12:00", "1:00"),
    ("x>2", r"x \ge 2"),
    (r"\frac{R}{r}", r"\frac{r}{R}"),
    (r"\frac{2}{3}", r"\text{nothing \{ at all}"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL_AT_SIGHT)
def test_spellings_of_one_answer_need_no_worker(gold, answer):
    assert quick_equal(gold, answer) is True


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT_AT_SIGHT)
def test_near_misses_need_no_worker(gold, answer):
    assert quick_equal(gold, answer) is False


def test_algebra_decides_the_rest(verifier):
    pairs = EQUAL_BY_ALGEBRA + DIFFERENT_BY_ALGEBRA
    grades = verifier.grade(boxed(*(a for _, a in pairs)), [g for g, _ in pairs])
    expected = ["correct"] * len(EQUAL_BY_ALGEBRA) + ["wrong"] * len(DIFFERENT_BY_ALGEBRA)
    wrong = [
        (pair, grade.verdict, grade.reason)
        for pair, grade, verdict in zip(pairs, grades, expected, strict=True)
        if grade.verdict != verdict
    ]
    assert wrong == []


def test_algebra_was_needed():
    """The lists above would prove nothing about the workers if exact rules decided them."""
    pairs = EQUAL_BY_ALGEBRA + DIFFERENT_BY_ALGEBRA
    decided = [pair for pair in pairs if quick_equal(*pair) is not None]
    assert len(decided) <= len(pairs) // 5, decided


def test_only_the_last_closed_box_is_graded(verifier):
    responses = [r"\boxed{42} wait no, \boxed{43}", "it is 43", r"\boxed{43", r"\boxed{}", ""]
    grades = verifier.grade(responses, ["43"] * 5)
    assert [(g.verdict, g.answer) for g in grades] == [
        ("correct", "43"),
        ("no_answer", None),
        ("no_answer", None),
        ("no_answer", None),
        ("no_answer", None),
    ]


def test_another_marker():
    with MathVerifier(r"re:####\s*(.+)") as verifier:
        assert verifier.grade(["so\n#### 1,000"], ["1000"]) == [Grade("correct", "1,000")]


def test_progress_counts_every_response_once(verifier):
    said = []
    responses = [*boxed("1", "1", r"\sqrt{4}", "2", "x^2"), "none"]
    verifier.grade(responses, ["1", "1", "2", "2", "x", "1"], said.append)
    assert said == sorted(said)
    assert said[-1] == len(responses)


def test_bad_options_and_lengths_are_named(verifier):
    with pytest.raises(GeomrlError, match="2 responses but 1 gold"):
        verifier.grade(["a", "b"], ["1"])
    with pytest.raises(GeomrlError, match="timeout_s=0"):
        MathVerifier(timeout_s=0)


# Numbers.

numerals = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.decimals(-1000, 1000, places=3).map(str),
    st.tuples(st.integers(-99, 99), st.integers(1, 99)).map(
        lambda t: f"\\frac{{{t[0]}}}{{{t[1]}}}"
    ),
    st.integers(-100, 100).map(lambda n: f"{n}\\%"),
)


@given(numerals, numerals)
def test_number_equality_is_reflexive_and_symmetric(one, other):
    a, b = read_numeral(one), read_numeral(other)
    assert same_number(a, a)
    assert same_number(a, b) == same_number(b, a)
    if a.step is None and b.step is None and not a.percent and not b.percent:
        assert same_number(a, b) == (a.value == b.value)


@given(st.fractions(-1000, 1000, max_denominator=500), st.integers(4, 9))
def test_a_decimal_stands_for_what_rounds_to_it(value, places):
    step = Fraction(1, 10**places)
    rounded = round(value / step)
    whole, decimals = divmod(abs(rounded), 10**places)
    decimal = read_numeral(f"{'-' if rounded < 0 else ''}{whole}.{decimals:0{places}d}")
    assert abs(decimal.value - value) <= step / 2
    exact = read_numeral(f"{value.numerator}/{value.denominator}")
    small = abs(decimal.value - value) >= max(abs(value), abs(decimal.value)) / 10**4
    tie = 2 * abs(rounded * step - value) == step
    assert same_number(decimal, exact) == (not small or decimal.value == value) or tie
    shifted = read_numeral(f"{value.numerator + value.denominator}/{value.denominator}")
    assert not same_number(decimal, shifted)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-4\\frac{4}{9}", Fraction(-40, 9)),
        ("11\\frac{6}{6}", None),  # a mixed number needs a proper fraction
        ("\\frac{1}{0}", None),
        (".5", Fraction(1, 2)),
        ("6.02e23", 602 * Fraction(10) ** 21),
        ("1e999999999", None),
        ("9" * 10_000, None),
        ("1.2.3", None),
        ("x", None),
    ],
)
def test_what_reads_as_a_number(text, value):
    numeral = read_numeral(text)
    assert (numeral and numeral.value) == value


@pytest.mark.parametrize("text", [a for pair in EQUAL_AT_SIGHT + EQUAL_BY_ALGEBRA for a in pair])
def test_the_normal_form_is_its_own_normal_form(text):
    assert normal_form(normal_form(text)) == normal_form(text)


@given(st.text(alphabet=list("ab12 {}()[]\\$,;.^_%=+-/"), max_size=60))
def test_any_text_gets_a_quick_decision_or_none(text):
    assert quick_equal("42", text) in (True, False, None)
    assert quick_equal(text, text) is bool(text.strip())


# Hard inputs.


def test_hard_answers_neither_hang_nor_crash():
    with MathVerifier(workers=2, timeout_s=1) as verifier:
        grades = verifier.grade(
            boxed(TOWER, "1" * 100_000, "{" * 5000 + "3" + "}" * 5000, "(" * 300 + "3" + ")" * 300)
            + boxed(r"\sqrt{4}", "(10^9)!", r"\sqrt{9}", "x+" * 50_000 + "1"),
            ["3", "3", "3", "3", "2", "3", "3", "3"],
        )
    verdicts = [grade.verdict for grade in grades]
    # A killed worker is replaced, and what stands behind it is graded all the same.
    assert verdicts == [
        "timeout",
        "wrong",
        "wrong",
        "wrong",
        "correct",
        "timeout",
        "correct",
        "wrong",
    ]
    assert grades[0].reason == grades[5].reason == "cpu_time"
    assert "longer than" in grades[1].reason
    assert "nested deeper" in grades[3].reason


def test_size_is_limited_before_anything_expensive():
    start = time.process_time()
    for answer in ("1+" * 50_000, "(" * 100_000, "\\text{" * 20_000, " " * 100_000 + "."):
        assert isinstance(quick_equal("3", answer), Uncompared)
    assert time.process_time() - start < 2
    longest = "(" * 12 + "a" * 900 + ")" * 12
    assert quick_equal("3", longest) is None


def test_normal_forms_of_long_answers_stay_cheap():
    hard = [
        "1 " * 499,
        "\\frac" * 190,
        "{" * 999,
        "a," * 499,
        "1\\text{a}" * 110,
        "-1." * 330,
        "$" * 999,
    ]
    start = time.process_time()
    for text in hard:
        normal_form(text)
        quick_equal("3", text)
    assert time.process_time() - start < 2


def test_memory_is_limited():
    pool = WorkerPool(workers=1, timeout_s=60, memory_mb=48)
    assert list(pool.run([("42", "2^{2^{31}}"), ("2", r"\sqrt{4}")])) == [
        Outcome(None, "memory"),
        Outcome(True),
    ]
    pool.close()


def test_a_crashed_worker_is_an_error_and_not_a_wrong_answer():
    pool = WorkerPool(workers=1, timeout_s=60, memory_mb=1024)
    assert list(pool.run([("2", r"\sqrt{4}")])) == [Outcome(True)]
    worker = children()[-1]
    killer = threading.Timer(0.5, worker.kill)
    killer.start()
    outcomes = list(pool.run([("42", TOWER), ("3", r"\sqrt{9}")]))
    assert outcomes == [Outcome(None, "error: worker ended (SIGKILL)"), Outcome(True)]
    pool.close()


# Processes.


def children():
    return [
        child
        for child in psutil.Process().children()
        if "geomrl.verify.worker_main" in " ".join(child.cmdline())
    ]


def all_gone(processes):
    return gone(processes)


def test_an_exception_leaves_no_process_and_no_stale_answer():
    before = set(children())
    verifier = MathVerifier(workers=2, timeout_s=30)

    def interrupt(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verifier.grade(boxed(r"\sqrt{4}", TOWER), ["2", "2"], interrupt)
    # The busy worker is dead; the next call gets answers to its own questions.
    assert verifier.grade(boxed(r"\sqrt{9}"), ["3"])[0].verdict == "correct"
    mine = set(children()) - before
    assert mine
    del verifier
    gc.collect()
    assert all_gone(mine)


def test_a_script_without_a_main_guard_and_a_thread_can_grade(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            r"""
            import threading
            from geomrl.verify.verifier import MathVerifier
            verifier = MathVerifier(workers=1)
            found = []
            def work():
                found.extend(verifier.grade([r"\boxed{\sqrt{4}}", r"\boxed{x}"], ["2", "y"]))
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            print([grade.verdict for grade in found])
            """
        )
    )
    # Neither closed nor used as a context manager: the interpreter's end must end the worker too.
    done = run_process([sys.executable, script], check=True)
    assert done.stdout.strip() == "['correct', 'wrong']"


# Answer classes.


def test_answer_classes(verifier):
    answers = ["7", "2", "1/2", r"\frac12", r"\sqrt{8}", "0.5", r"2\sqrt2", "x", "2.0"]
    grades = [*verifier.grade(boxed(*answers), ["2"] * len(answers)), Grade("no_answer", None)]
    assert verifier.answer_classes(grades) == [1, 0, 2, 2, 3, 2, 3, 4, 0, None]


def test_the_partition_does_not_depend_on_the_order(verifier):
    answers = ["1/2", r"\sqrt{8}", "0.5", r"2\sqrt2", "3", "x+1", "1+x", r"\frac{2}{4}"]
    grades = verifier.grade(boxed(*answers), ["9"] * len(answers))
    reference = partition(answers, verifier.answer_classes(grades))
    for seed in range(3):
        order = random.Random(seed).sample(range(len(answers)), len(answers))
        shuffled = [grades[i] for i in order]
        classes = verifier.answer_classes(shuffled)
        assert partition([answers[i] for i in order], classes) == reference
        assert classes[0] == 1  # numbered by first appearance


def test_a_timeout_joins_only_its_own_spelling(verifier, monkeypatch):
    def nobody(pairs):
        assert not list(pairs), "a worker is asked again"
        return iter(())

    monkeypatch.setattr(verifier._pool, "run", nobody)
    stuck = Grade("timeout", TOWER, "wall_clock")
    respelled = Grade("timeout", f"${TOWER}$", "wall_clock")
    grades = [stuck, Grade("wrong", r"\sqrt{5}"), stuck, respelled]
    assert verifier.answer_classes(grades) == [1, 2, 1, 1]


def partition(answers, classes):
    return {
        frozenset(a for a, c in zip(answers, classes, strict=True) if c == number)
        for number in classes
    }


# The adjudication table.


def test_the_adjudication_table_is_whole_and_current(verifier):
    with ADJUDICATION.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["key"] for row in rows}) == len(rows) <= 40
    for row in rows:
        assert row["ruling"] in ("set aside", "counted")
        assert len(row["reason"]) > 30
        assert row["source"]
    whole = [row for row in rows if "[...]" not in row["gold"] + row["pred"]]
    assert len(whole) > 15
    for row in whole:
        assert row["key"] == text_hash(row["gold"], row["pred"])
    plain = [row for row in whole if "\\boxed" not in row["gold"] + row["pred"]]
    grades = verifier.grade(boxed(*(row["pred"] for row in plain)), [row["gold"] for row in plain])
    for row, grade in zip(plain, grades, strict=True):
        assert row["ours"].startswith(grade.verdict), row
        assert (grade.verdict == "correct") != (row["expected"] == "True"), row
