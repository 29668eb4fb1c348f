"""What a model writes cannot hang the process that reads it."""

import resource
import subprocess
import sys
import textwrap

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
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True, text=True, timeout=600,
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
