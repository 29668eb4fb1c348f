"""A process that trains one arm after another, so that the libraries are imported once.

It speaks JSON lines: a task on standard input ({"config", "out", "resume", "user_code"}), "done" on
what was its standard output. All that the arm itself prints goes to OUT.log. A task that fails ends
the process: after an error in the midst of a training neither its process group nor its memory can
be trusted.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

from geomrl.errors import GeomrlError
from geomrl.files import user_code_as_it_is


def main() -> None:
    """Serve tasks until standard input ends."""
    replies = os.fdopen(os.dup(1), "w")
    tasks = _tasks()
    with ExitStack() as stack:
        for number in count():
            task = tasks.get()
            out = Path(task["out"])
            _print_into(out.with_name(f"{out.name}.log"))
            if number == 0:
                _join_world(stack)
            try:
                train_arm(task["config"], out, task["user_code"], resume=task["resume"])
            except GeomrlError as error:
                sys.stderr.write(f"{error}\n")
                raise SystemExit(1) from error
            replies.write("done\n")
            replies.flush()


def train_arm(config: dict[str, Any], out: Path, code: dict[str, str], *, resume: bool) -> None:
    """Run one training, with code of the user's as it was when the ablation began.

    Raises:
        GeomrlError: a file has changed since, or as for `geomrl.train.trainer.train`.
    """
    from geomrl.train.config import TrainConfig
    from geomrl.train.trainer import train
    from geomrl.train.user_code import check_unchanged, user_code

    settings = TrainConfig.model_validate(config)
    with user_code_as_it_is():
        check_unchanged(out, code, user_code(settings))
        train(settings, out, resume=resume, show=False)


def _join_world(stack: ExitStack) -> None:
    """Keep one process group for all arms: DeepSpeed remembers the groups of its first engine."""
    from geomrl.train.world import join_world

    stack.enter_context(join_world())


def _tasks() -> queue.SimpleQueue[dict[str, Any]]:
    """Return a queue of the tasks from standard input.

    Its end means that whoever gave them is gone: the process ends at once, in the midst of a
    training too, lest a second one begins the same arm meanwhile. What it has is kept.
    """
    tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    source = os.fdopen(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def read() -> None:
        for line in source:
            tasks.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return tasks


def _print_into(path: Path) -> None:
    """Send what this process prints, libraries included, to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


if __name__ == "__main__":
    main()
