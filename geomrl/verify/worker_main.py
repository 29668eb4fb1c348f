"""A grading worker: `python -m geomrl.verify.worker_main MEMORY_MB SECONDS`.

Reads one JSON line `{"gold": ..., "answer": ...}` from standard input at a time and answers with
one line: `{"equal": true}` or `{"error": "..."}`. The first line it writes is `{"ready": true}`.
A comparison that takes more than SECONDS of CPU time ends the process with SIGPROF: the kernel keeps
that limit, whatever the library is doing, and also when the parent is stalled or gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

RECURSION_LIMIT = 3000


def main(memory_mb: int, seconds: float) -> None:
    """Serve until standard input closes."""
    # Whatever a library prints must not reach the pipe that carries the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    from geomrl.verify.symbolic import symbolic_equal

    sys.setrecursionlimit(RECURSION_LIMIT)
    _warm_up(symbolic_equal)
    _limit_memory(memory_mb)
    _send(answers, {"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)  # default action: the kernel ends us
        try:
            reply: dict[str, object] = {"equal": symbolic_equal(request["gold"], request["answer"])}
        except MemoryError:
            reply = {"error": "memory"}
        except Exception as error:  # noqa: BLE001  every failure is reported as its own verdict
            reply = {"error": f"error: {type(error).__name__}"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(answers, reply)


def _warm_up(symbolic_equal: Callable[[str, str], bool]) -> None:
    """Build the parser's tables and sympy's caches before the clock of the first answer runs."""
    symbolic_equal(r"x^2+\sqrt{2}", r"(1,2]")
    symbolic_equal(r"\frac{\sqrt{8}}{2}", r"\sqrt{2}")


def _limit_memory(memory_mb: int) -> None:
    """Cap the address space at twice the allowance above what the libraries already take.

    The parent watches the resident size and kills at the allowance itself; this cap holds even
    when the parent is stalled.
    """
    import resource

    statm = Path("/proc/self/statm")
    if not statm.exists():
        return
    used = int(statm.read_text().split()[0]) * resource.getpagesize()
    limit = used + 2 * memory_mb * 2**20
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))


def _send(stream: IO[str], message: dict[str, object]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
