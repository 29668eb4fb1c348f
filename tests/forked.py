"""Scripts in processes of their own, forked from one that has imported the heavy libraries once.

Importing them takes longer than most of these scripts' work. What must start from nothing, as a user
types it, is started by `processes.py`.
"""

import multiprocessing
import os
import runpy
import sys
from pathlib import Path
from unittest import mock

from processes import GRANULE_S, Watch

HERE = Path(__file__).parent
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["deepspeed", "nnsight", "transformers.models.qwen3.modeling_qwen3", "geomrl.train.trainer"]
)


def start(script, arguments, log, **environment):
    """Start a script of this folder; what it prints is appended to `log`."""
    told = (script, list(map(str, arguments)), log, environment)
    process = SERVER.Process(target=_run, args=told)
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):  # the server's, when it starts
        process.start()
    return process


def _run(script, arguments, log, environment):
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.chdir(HERE)
    os.environ.update(environment)
    sys.argv = [script, *arguments]
    runpy.run_path(str(HERE / script), run_name="__main__")


def finish(processes):
    """Wait until all have ended, or one has failed; end the others then. Return the exit codes."""
    watch = Watch(processes)
    try:
        while any(p.is_alive() for p in processes) and not any(p.exitcode for p in processes):
            watch.check()
            processes[0].join(GRANULE_S)
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()
