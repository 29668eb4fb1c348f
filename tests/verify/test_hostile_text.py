"""What a model writes cannot hang the process that reads it."""

import resource
import sys
import textwrap
import threading
from itertools import combinations

import psutil
from cpu_limit import cpu_limit
from processes import run_process
from tiny import byte_level_tokenizer

from geomrl.models.token_bytes import TokenBytes
from geomrl.probe.anchors import find_anchors
from geomrl.verify import marker as markers
from geomrl.verify import workers
from geomrl.verify.marker import parse_marker
from geomrl.verify.workers import Outcome, WorkerPool

TOWER = r"9^{9^{9^9}}+1"
HOSTILE = [
    ", ".join(rf"{n}\%" for n in range(10, 50)),
    r"\%" * 40,
    "%" * 20,
    "5" + " " * 900 + "=",
    " " * 900 + "=",
]


def in_a_fresh_process(script, *, cpu_seconds=20):
    """What a script prints; the kernel ends it when it computes for too long.

    CPU seconds, not seconds on the wall: a busy machine fails no test.
    """
    done = run_process(
        [sys.executable, "-c", textwrap.dedent(script)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds)),
    )  # fmt: skip
    assert done.returncode == 0, f"ended by signal {-done.returncode}\n{done.stderr}"
    return done.stdout.strip()


def test_no_answer_takes_exponential_time_to_grade():
    script = f"""
        from geomrl.verify.verifier import MathVerifier
        answers = {HOSTILE!r}
        responses = ["\\\\boxed{{" + answer + "}}" for answer in answers]
        with MathVerifier(workers=1, timeout_s=2) as verifier:
            print(*[grade.verdict for grade in verifier.grade(responses, ["5"] * len(responses))])
        """
    verdicts = in_a_fresh_process(script).split()
    assert len(verdicts) == len(HOSTILE)
    assert set(verdicts) <= {"wrong", "correct", "timeout"}


def test_a_verdict_does_not_depend_on_the_machines_load():
    """A worker that gets no CPU for longer than its limit is not one that hangs."""
    pool = WorkerPool(workers=1, timeout_s=0.5, memory_mb=1024)
    assert list(pool.run([("2", r"\sqrt{4}")])) == [Outcome(True)]
    worker = psutil.Process().children()[-1]
    worker.suspend()
    threading.Timer(1.5, worker.resume).start()
    assert list(pool.run([("3", r"\sqrt{9}")])) == [Outcome(True)]
    pool.close()


def test_a_comparison_that_hangs_is_ended_by_its_cpu_time():
    pool = WorkerPool(workers=1, timeout_s=0.5, memory_mb=1024)
    found = list(pool.run([("42", TOWER), ("3", r"\sqrt{9}")]))
    assert found == [Outcome(None, "cpu_time"), Outcome(True)]
    pool.close()


def test_a_worker_without_any_progress_is_ended(monkeypatch):
    pool = WorkerPool(workers=1, timeout_s=60, memory_mb=1024)
    assert list(pool.run([("2", r"\sqrt{4}")])) == [Outcome(True)]
    monkeypatch.setattr(workers, "STALL_SECONDS", 0.5)
    psutil.Process().children()[-1].suspend()
    assert next(pool.run([("3", r"\sqrt{9}")])) == Outcome(None, "wall_clock")
    pool.close()


# `(a|aa)+` matches n letters in exponentially many ways.
HARD_MARKER = r"re:((?:a|aa)+)[!?]"


def test_a_users_expression_has_a_limit():
    script = f"""
        from geomrl.verify.verifier import MathVerifier
        responses = ["a" * 60 + "b", "a!"]
        with MathVerifier({HARD_MARKER!r}, workers=1) as verifier:
            print(*[grade.verdict for grade in verifier.grade(responses, ["a", "a"])])
        """
    assert in_a_fresh_process(script, cpu_seconds=15).split() == ["timeout", "correct"]


def test_no_anchor_where_the_marker_cannot_be_searched(monkeypatch):
    monkeypatch.setattr(markers, "SEARCH_SECONDS", 0.1, raising=False)
    tokenizer = byte_level_tokenizer()
    ids = tokenizer("a" * 60 + "b", add_special_tokens=False)["input_ids"]
    marker = parse_marker(HARD_MARKER)
    with cpu_limit(5):
        found = find_anchors(TokenBytes(tokenizer), ids, marker, ["before_marker", "response_last"])
    assert [anchor.reason for anchor in found] == ["marker_timeout", None]
    assert markers.find_to_show(marker, "a" * 60 + "b") is None


def test_answer_classes_take_few_time_outs():
    """Eight answers that hang one another are not asked about in all 56 orders."""
    from geomrl.verify.equivalence import equal_answers

    asked = []

    def hang(pairs):
        asked.extend(pairs)
        return [(pair, Outcome(None, "cpu_time")) for pair in pairs]

    towers = [rf"9^{{9^{{9^9}}}}+{k}" for k in range(8)]
    assert equal_answers(towers, hang, set()) == [[tower] for tower in towers]
    assert len(asked) <= 2 * 8


def test_rounds_meet_every_pair_once():
    from geomrl.verify.equivalence import rounds

    for n in range(9):
        players = [str(i) for i in range(n)]
        matches = [pair for one in rounds(players) for pair in one]
        assert sorted(matches) == list(combinations(players, 2))
        assert all(len({p for m in one for p in m}) == 2 * len(one) for one in rounds(players))
