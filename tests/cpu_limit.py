"""Tests of what could hang end: by CPU time, so that a busy machine fails none."""

import contextlib
import signal


@contextlib.contextmanager
def cpu_limit(seconds):
    """Raise TimeoutError in the body when it computes for longer; the main thread only."""

    def end(*_):
        raise TimeoutError(f"more than {seconds} s of CPU time")

    previous = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
