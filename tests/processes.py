"""Processes that tests start, and when one of them hangs: by progress, never by the clock on the wall.

A process that does not get the processor has not hung; one whose whole tree takes no processor time for
minutes has, and so has one that takes far more of it than its work needs.
"""

import contextlib
import subprocess
import time

import psutil
import pytest

IDLE_S = 180
"""A tree that made no progress for so long hangs: on a locked file, a dead peer, a full pipe."""

PROGRESS = 0.005
"""Less processor time than this share of the time that passed is none: background threads wake up."""

CPU_S = 900
"""More processor time than this is a loop without an end: the longest script takes a fifth of it."""

GRANULE_S = 0.05


class Watch:
    """The progress of some processes and of all that they start."""

    def __init__(self, processes, idle_s=IDLE_S, cpu_s=CPU_S):
        self.processes = [
            p if isinstance(p, psutil.Process) else psutil.Process(p.pid) for p in processes
        ]
        self.idle_s, self.cpu_s = idle_s, cpu_s
        self.used = {}  # process -> its seconds; those that ended keep theirs
        self.since, self.total = time.monotonic(), 0.0

    def check(self):
        """Fail, killing them all, where they hang."""
        now, total = time.monotonic(), self._seconds()
        passed, more = now - self.since, total - self.total
        if more > max(PROGRESS * passed, 2 * GRANULE_S):
            self.since, self.total = now, total
        elif passed > self.idle_s:
            self._fail(f"took {more:.2f} s of processor time in {passed:.0f} s: it hangs")
        if total > self.cpu_s:
            self._fail(
                f"took {total:.0f} s of processor time, more than {self.cpu_s}: it never ends"
            )

    def _seconds(self):
        for process in tree(self.processes):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            self.used[process] = times.user + times.system
        return sum(self.used.values())

    def _fail(self, why):
        alive = tree(self.processes)
        listed = "\n".join(f"  {line(process)}" for process in alive)
        for process in alive:
            kill(process)
        pytest.fail(f"a process that a test started {why}. Its tree:\n{listed}", pytrace=False)


def tree(processes):
    found = []
    for process in processes:
        try:
            found += [process, *process.children(recursive=True)]
        except psutil.Error:
            continue
    return found


def line(process):
    try:
        return f"{process.pid} {process.status()} {' '.join(process.cmdline())[-200:]}"
    except psutil.Error:
        return f"{process.pid} gone"


def kill(process):
    with contextlib.suppress(psutil.Error):
        process.kill()


def gone(processes, **limits):
    """Whether processes that were told to end do, some of them no children of this one."""
    watch = Watch(processes, **limits)
    while psutil.wait_procs(processes, timeout=0.5)[1]:
        watch.check()
    return True


def wait_until(condition, *processes, **limits):
    """Wait for a condition while the processes that bring it about make progress.

    Returns whether it came true; it did not where they all ended before.
    """
    watch = Watch(processes, **limits)
    while not condition():
        if all(process.poll() is not None for process in processes):
            return bool(condition())
        watch.check()
        time.sleep(GRANULE_S)
    return True


def outputs(processes, **limits):
    """Return (stdout, stderr) of each process when all have ended; None where one is not a pipe."""
    watch = Watch(processes, **limits)
    found = []
    for process in processes:
        while True:
            try:
                found.append(process.communicate(timeout=0.5))
                break
            except subprocess.TimeoutExpired:
                watch.check()
    return found


def run_process(command, *, check=False, idle_s=IDLE_S, cpu_s=CPU_S, **options):
    """`subprocess.run` with captured text, and with progress in the place of its time-out."""
    with subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    ) as process:  # fmt: skip
        stdout, stderr = outputs([process], idle_s=idle_s, cpu_s=cpu_s)[0]
    done = subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
    if check:
        done.check_returncode()
    return done
