"""Pieces of an analysis: in one process or in several, with an estimate, and what a kill leaves."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial

import numpy  # noqa: F401 - loads BLAS
import psutil
import pytest
from processes import gone, wait_until
from threadpoolctl import threadpool_info

from geomrl.errors import GeomrlError
from geomrl.runs import pieces
from geomrl.runs.pieces import Piece, finish_pieces

NAMES = [(f"{number}", kind) for number in range(6) for kind in ("light", "heavy")]
PIECES = [Piece(names, kind=names[1]) for names in NAMES]


def note(folder, number, kind):
    """Write down which process did a piece, and with how many threads."""
    threads = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    (folder / f"{number}-{kind}").write_text(f"{os.getpid()} {max(threads)}")


def refuse(folder, number, kind):
    if number == "3":
        raise GeomrlError(f"{number}: is refused")


def die(folder, number, kind):
    if number == "3":
        os.kill(os.getpid(), signal.SIGKILL)


def finish(work, **options):
    lines, count = [], []
    options = {"jobs": 2, **options}
    finish_pieces(
        PIECES, lambda: work, advance=lambda: count.append(1), say=lines.append, **options
    )
    return lines, len(count)


@pytest.fixture
def any_pays(monkeypatch):
    """Processes are started however little there is to do."""
    monkeypatch.setattr(pieces, "_PAYS", 0.0)


def test_every_piece_is_done_once_on_one_thread_in_the_processes_asked_for(any_pays, tmp_path):
    lines, count = finish(partial(note, tmp_path))
    done = {path.name: path.read_text().split() for path in tmp_path.iterdir()}
    assert sorted(done) == sorted("-".join(names) for names in NAMES)
    assert count == len(PIECES)
    here = str(os.getpid())
    assert {name for name, (pid, _) in done.items() if pid == here} == {"0-light", "0-heavy"}
    assert {threads for _, threads in done.values()} == {"1"}
    assert len({pid for pid, _ in done.values()}) <= 3
    [line] = lines
    assert line.startswith("10 places left, about 0:00:0")
    assert "on 2 processes" in line


def test_little_work_stays_here_and_says_nothing(tmp_path):
    lines, count = finish(partial(note, tmp_path))
    assert {path.read_text().split()[0] for path in tmp_path.iterdir()} == {str(os.getpid())}
    assert (lines, count) == ([], len(PIECES))


def test_one_job_stays_here_and_says_how_long(any_pays, tmp_path):
    lines, _ = finish(partial(note, tmp_path), jobs=1)
    assert {path.read_text().split()[0] for path in tmp_path.iterdir()} == {str(os.getpid())}
    assert "on 1 process (" in lines[0]


def test_no_more_processes_than_fit_into_memory(any_pays, tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "_IMPORTS", 10**15)
    lines, _ = finish(partial(note, tmp_path))
    assert "on 1 process (" in lines[0]


def test_each_process_begins_once_a_call(any_pays, tmp_path):
    def begin():
        (tmp_path / f"begun-{os.getpid()}-{time.monotonic_ns()}").touch()
        return partial(note, tmp_path)

    for _ in range(2):
        finish_pieces(PIECES, begin, jobs=2, advance=lambda: None, say=lambda line: None)
    begun = [path.name.split("-")[1] for path in tmp_path.glob("begun-*")]
    assert begun.count(str(os.getpid())) == 2
    assert all(begun.count(pid) <= 2 for pid in begun)
    assert len(set(begun)) > 1


def test_nothing_left_is_nothing_done():
    finish_pieces([], pytest.fail, jobs=2, advance=pytest.fail, say=pytest.fail)


def test_what_a_piece_refuses_is_told_as_it_is(any_pays, tmp_path):
    with pytest.raises(GeomrlError, match="3: is refused"):
        finish(partial(refuse, tmp_path))


def test_a_killed_process_is_an_error_with_its_cure(any_pays, tmp_path):
    with pytest.raises(GeomrlError, match="fewer --jobs than 2"):
        finish(partial(die, tmp_path))


def test_memory_that_a_piece_takes_is_seen():
    with pieces._resident_memory() as grown:
        block = bytearray(200_000_000)
        time.sleep(0.5)
    assert grown() > 0.9 * len(block)


SCRIPT = """
    import sys, time
    from functools import partial
    from pathlib import Path
    from geomrl.runs import pieces

    def begin(folder):
        def work(number):
            (folder / number).touch()
            time.sleep(0.0 if number == "0" else 600.0)

        return work

    pieces._PAYS = 0.0
    pieces.finish_pieces(
        [pieces.Piece((str(n),)) for n in range(6)], partial(begin, Path(sys.argv[1])),
        jobs=2, advance=lambda: None, say=print,
    )
"""


def test_a_script_without_a_main_guard_works_and_its_end_ends_its_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    (tmp_path / "done").mkdir()
    command = [sys.executable, str(script), str(tmp_path / "done")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: len(list((tmp_path / "done").iterdir())) >= 3, process)
        workers = psutil.Process(process.pid).children(recursive=True)
        assert workers
    finally:
        process.kill()
        process.wait()
    assert gone(workers)
