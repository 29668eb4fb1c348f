"""Locks that keep two processes from doing the same work in one folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from geomrl.errors import GeomrlError

_HELD = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def sole_process(path: Path, work: str) -> Iterator[None]:
    """Hold a lock file while the block runs; refuse where another process holds it.

    The system takes the lock back when its process ends, however that ends, so that a file which a
    killed process left is no obstacle. Children do not inherit it. On a file system without locks
    the process that the file names decides: one of this machine that is gone holds nothing.

    Args:
        path: the lock file; made, and left there. Its folder exists.
        work: what is done under it, for the message: "a training".

    Raises:
        GeomrlError: another process holds it; the message names that process and its machine.
    """
    with path.open("a+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(file)
            if error.errno in _HELD or (error.errno in _NO_LOCKS and _may_live(holder)):
                raise GeomrlError(_refusal(path, work, holder)) from error
            if error.errno not in _NO_LOCKS:
                raise
        _write(file, {"pid": os.getpid(), "host": socket.gethostname()})
        try:
            yield
        finally:
            _write(file, {})


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Hold a folder while the block runs, waiting for whoever holds it.

    For reading a file, changing it and writing it back, which takes a moment; it must not be nested.
    A file system without such locks is taken as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _holder(file: BinaryIO) -> dict[str, Any]:
    file.seek(0)
    try:
        return dict(json.loads(file.read() or b"{}"))
    except ValueError:  # it is being written
        return {}


def _write(file: BinaryIO, holder: dict[str, Any]) -> None:
    file.truncate(0)
    file.write(json.dumps(holder).encode())
    file.flush()


def _may_live(holder: dict[str, Any]) -> bool:
    """Say whether the process that a lock file names may be alive; of another machine it may."""
    if not holder:
        return False
    return holder["host"] != socket.gethostname() or Path(f"/proc/{holder['pid']}").exists()


def _refusal(path: Path, work: str, holder: dict[str, Any]) -> str:
    named = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    return (
        f"{path.parent}: {named} runs {work} there, and two would overwrite each other: wait until it"
        f" has ended, or end it (if it is long gone, delete {path})"
    )
