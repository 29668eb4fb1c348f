"""What decides that a process hangs: its tree's processor time, not the clock on the wall."""

import subprocess
import sys

import psutil
import pytest
from processes import gone, run_process, wait_until


def test_output_and_exit_code_come_back():
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    done = run_process([sys.executable, "-c", code])
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)
    with pytest.raises(subprocess.CalledProcessError):
        run_process([sys.executable, "-c", code], check=True)


def test_more_output_than_a_pipe_takes_is_no_hang():
    done = run_process([sys.executable, "-c", "print('x' * 1_000_000)"], idle_s=30)
    assert len(done.stdout) == 1_000_001


def test_a_sleeping_tree_hangs_and_is_killed_whole():
    code = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(987)'])\n"
        "time.sleep(987)"
    )
    with pytest.raises(pytest.fail.Exception, match="it hangs"):
        run_process([sys.executable, "-c", code], idle_s=1)
    left = [p for p in psutil.process_iter(["cmdline"]) if "time.sleep(987)" in str(p.info)]
    assert gone(left, idle_s=10)  # a killed one may take a moment to leave


def test_a_child_that_works_while_its_parent_waits_is_progress():
    code = (
        "import subprocess, sys\n"
        "work = 'import time\\nwhile time.process_time() < 2: pass'\n"
        "sys.exit(subprocess.run([sys.executable, '-c', work]).returncode)"
    )
    assert run_process([sys.executable, "-c", code], idle_s=1.5).returncode == 0


def test_a_loop_without_an_end_is_stopped_by_its_processor_time():
    with pytest.raises(pytest.fail.Exception, match="never ends"):
        run_process([sys.executable, "-c", "while True: pass"], cpu_s=1)


def test_waiting_ends_with_the_condition_or_with_the_process(tmp_path):
    there = tmp_path / "there"
    code = f"import pathlib, time; pathlib.Path({str(there)!r}).touch(); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code])
    assert wait_until(there.exists, process)
    process.kill()
    assert not wait_until(lambda: False, process)
