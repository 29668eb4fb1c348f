"""Everything that wants a GPU, measured in one command of under eight minutes on one H100 or H200.

    python benchmarks/gpu.py --out gpu                                  # gpu.json, gpu.md
    python benchmarks/gpu.py --device cpu --size tiny --out tried       # without a card: does it run?

Random weights of Qwen3-0.6B's and 1.7B's shape (vocabulary 151,936), random tokens:

    probe      extraction beside the usual script and a bare forward (`probe.py`), bfloat16
    precision  states of bfloat16 against float32 by layer
    update     one update of 16k tokens with and without alignment: time, memory, MFU; beside TRL's
               (`train_vs_trl.py`) where that is installed
    tests      those marked `gpu`

The time (--minutes) is shared out among the sections that are left. One that would take longer makes
fewer rounds, and says so; one that takes much longer is ended. A section that fails is recorded with
its error, the others run, and the exit code is 1. Sections run in a process of their own, which is
started again after a failure, so that a device in a bad state does not spoil the rest.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gpu_table import table

ROOT = Path(__file__).resolve().parent.parent
SHARES = {"machine": 4.0, "probe": 3.0, "precision": 1.5, "update": 4.0, "tests": 2.5}
"""Of the time; the first one's is mostly for imports from a cold disk, and what it leaves is shared out."""

TWICE = "1.7B"  # takes about twice as long as 0.6B
GRACE = 15.0  # seconds beyond its share after which a section is ended
PACKAGES = ("torch", "transformers", "deepspeed", "geomrl", "nnsight", "trl", "accelerate")
SHOWN = 6000  # characters of an error's end


@dataclass
class Job:
    """A section for one size of model, and what came of it."""

    section: str
    size: str = ""
    figures: dict = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0

    @property
    def share(self):
        return SHARES[self.section] * (2 if self.size == TWICE else 1)

    @property
    def name(self):
        return f"{self.section} {self.size}".strip()

    def line(self, given):
        """Return the line of progress that says how it went."""
        said = f"{self.name}: {self.seconds:.0f} s of {given:.0f}"
        if (wanted := self.figures.get("shortened_from")) is not None:
            said += f", {self.figures['rounds']} rounds of {wanted}"
        return f"{said}, FAILED: {self.error.splitlines()[-1]}" if self.error else said


def begin_alone(log):
    """Make this process a group of its own; what it and its libraries print goes to the log."""
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)


def work(connection, device, log):
    """Serve sections, in a process of its own."""
    begin_alone(log)
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from gpu_sections import serve

    serve(connection, device)


class Worker:
    """The process that runs sections; it is started where there is none."""

    def __init__(self, device, log, target=work):
        self.device, self.log, self.target, self.process = device, log, target, None

    def run(self, job: Job, seconds: float):
        """Run a section, and put its figures into the job as they come, or its error.

        One that takes much longer than `seconds` is ended.
        """
        end = time.monotonic() + seconds + GRACE
        since = self.log.stat().st_size if self.log.exists() else 0
        if self.process is None:
            self._start()
        try:
            self.connection.send((job.section, job.size, seconds))
            while self.connection.poll(max(end - time.monotonic(), 0)):
                if (figures := self.connection.recv()) is None:
                    return
                job.figures |= figures
            job.error = f"ended after {seconds + GRACE:.0f} s"
        except (EOFError, ConnectionError):
            self.process.join()
            said = self.log.read_text(errors="replace")[since:].strip()[-SHOWN:]
            job.error = said or f"the process ended with code {self.process.exitcode}"
        self.stop()

    def _start(self):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=self.target, args=(theirs, self.device, str(self.log))
        )
        self.process.start()
        theirs.close()

    def stop(self):
        """End the process, and all that it started."""
        if self.process is None:
            return
        with contextlib.suppress(OSError):  # it ended by itself
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.connection.close()
        self.process = None


def run_tests(job: Job, seconds: float, folder: Path, root: Path = ROOT):
    """Run the tests marked `gpu`, and put each one's outcome into the job."""
    files = [f for f in sorted((root / "tests").rglob("test_*.py")) if "mark.gpu" in f.read_text()]
    report = folder / "tests.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        f"--junitxml={report}",
        *map(str, files),
    ]
    with subprocess.Popen(
        command, cwd=root, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            said, _ = process.communicate(timeout=seconds + GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
            said += f"\nended after {seconds + GRACE:.0f} s"
    if report.exists():
        job.figures["outcomes"] = {
            f"{case.get('classname')}::{case.get('name')}": _outcome(case)
            for case in ET.parse(report).iter("testcase")
        }
    if process.returncode not in (0, 5):  # 5: nothing is selected
        job.error = said.strip()[-SHOWN:]


def _outcome(case):
    """Return "passed", or what else came of a test, with the reason."""
    for kind, word in (("skipped", "skipped"), ("failure", "failed"), ("error", "error")):
        if (found := case.find(kind)) is not None:
            return f"{word}: {found.get('message', '')}"[:300]
    return "passed"


def run_all(jobs, args, folder):
    """Run every job within the whole time, each in its share of what is left."""
    end = time.monotonic() + 60 * args.minutes
    worker = Worker(args.device, folder / "log")
    try:
        for number, job in enumerate(jobs):
            started = time.monotonic()
            left = sum(other.share for other in jobs[number:])
            seconds = (end - started) * job.share / left
            if seconds <= 0:
                job.error = "no time was left"
            elif job.section == "tests":
                run_tests(job, seconds, folder)
            else:
                worker.run(job, seconds)
            job.seconds = time.monotonic() - started
            print(job.line(max(seconds, 0)), flush=True)
            if job.section == "machine" and job.error:
                return  # nothing else could run
    finally:
        worker.stop()


def identity(commit):
    """Return versions of what is measured, and the driver's."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    asked = "--query-gpu=name,driver_version,memory.total"
    return {
        "commit": commit or _said(["git", "rev-parse", "HEAD"]),
        "changed": bool(_said(["git", "status", "--porcelain"])) if not commit else None,
        "nvidia_smi": _said(["nvidia-smi", asked, "--format=csv,noheader"]),
        "packages": found,
        "cores": os.cpu_count(),
    }


def _said(command):
    """Return what a command prints; None where there is no such command, or it fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="names OUT.json and OUT.md")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--size", nargs="+", choices=("0.6B", "1.7B", "tiny"), default=["0.6B", "1.7B"]
    )
    parser.add_argument("--sections", nargs="+", choices=list(SHARES)[1:], default=list(SHARES)[1:])
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--commit", help="of a copy that has no git folder")
    args = parser.parse_args()
    measured = [section for section in args.sections if section != "tests"]
    jobs = [Job("machine"), *(Job(section, size) for size in args.size for section in measured)]
    jobs += [Job("tests")] if "tests" in args.sections else []
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run_all(jobs, args, Path(folder))
    found = {
        **identity(args.commit),
        "device": args.device,
        "seconds": time.monotonic() - started,
        "sections": [
            {
                "section": job.section, "size": job.size, "took": job.seconds,
                "error": job.error, **job.figures,
            }
            for job in jobs
        ],
    }  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_name(f"{args.out.name}.json").write_text(json.dumps(found, indent=1))
    args.out.with_name(f"{args.out.name}.md").write_text(text := table(found))
    print(text)
    sys.exit(1 if any(job.error for job in jobs) else 0)


if __name__ == "__main__":
    main()
