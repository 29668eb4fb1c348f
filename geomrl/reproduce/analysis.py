"""An analysis: a question, the runs that it needs, and the function that answers it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from geomrl.errors import GeomrlError
from geomrl.progress import friendly, say
from geomrl.reproduce.arms import ALIGNED, Arms
from geomrl.reproduce.finding import Finding, write_finding
from geomrl.reproduce.runs import BundledRuns, one_thread

_HELP = {
    "probed": "a run of `geomrl probe --replace`",
    "ablation": "a folder of `geomrl ablate`",
    "evaluation": "a folder of `geomrl eval` whose models are named base, dapo-SEED, aligned-SEED",
    "comparison": "a folder of `geomrl compare` whose models are so named",
    "variants": "a folder with the runs again/ and variants/, and variants.jsonl",
}


@dataclass(frozen=True)
class Analysis:
    """One figure or table of the paper, or one question that it leaves open.

    Attributes:
        question: one line; the title of its page.
        needs: kinds of runs (`runs.KINDS`), which `answer` takes by these names.
        answer: from the runs to a `Finding`; draws nothing at random but by its own seed.
        paper: which of its inputs are settings that the paper states.
        assumed: which are our assumptions.
    """

    question: str
    needs: tuple[str, ...]
    answer: Callable[..., Finding]
    _: KW_ONLY
    paper: Sequence[str] = ()
    assumed: Sequence[str] = ()

    def write(self, name: str, folder: Path, runs: dict[str, Any]) -> list[Path]:
        """Answer the question from `runs` (kind -> run) and write its pages; return the files."""
        inputs = [
            f"Runs: {', '.join(f'{kind} (`{_run_words(run)}`)' for kind, run in runs.items())}."
        ]
        inputs += [f"The paper's: {line}" for line in self.paper]
        inputs += [f"Our assumption: {line}" for line in self.assumed]
        with one_thread():
            finding = self.answer(**runs)
        return write_finding(
            finding,
            folder / name,
            title=self.question,
            inputs=inputs,
            command=f"python analyses/{name}.py",
        )

    def main(self, script: str, argv: Sequence[str] | None = None) -> None:
        """Run this analysis alone: the end of its script.

        Runs that are not named are the bundled reasoner's, made where they are missing.

        Args:
            script: the script's `__file__`.
            argv: its arguments; those of the process by default.
        """
        path = Path(script)
        options = self._parser(path).parse_args(argv)

        def run() -> None:
            bundled = BundledRuns(
                options.runs, path.parents[1] / "configs", jobs=options.jobs, say=say
            )
            runs = {kind: self._named(kind, options) or bundled.make(kind) for kind in self.needs}
            for written in self.write(path.stem, options.out, runs):
                say(str(written))

        friendly(run)()

    def _parser(self, path: Path) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(
            description=self.question,
            epilog="Runs that are not named are the bundled reasoner's, made where they are missing.",
        )
        for kind in self.needs:
            if kind == "arms":
                parser.add_argument(
                    "--without",
                    type=Path,
                    nargs="+",
                    metavar="RUN",
                    help="trainings without the alignment loss, one a seed",
                )
                parser.add_argument(
                    "--with",
                    dest=ALIGNED,
                    type=Path,
                    nargs="+",
                    metavar="RUN",
                    help="trainings with it, in the same order of seeds",
                )
            else:
                parser.add_argument(f"--{kind}", type=Path, metavar="RUN", help=_HELP[kind])
        parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of figures")
        parser.add_argument("--runs", type=Path, default=Path("runs/figures"), help="bundled runs")
        parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
        parser.prog = f"python analyses/{path.name}"
        return parser

    @staticmethod
    def _named(kind: str, options: argparse.Namespace) -> Path | Arms | None:
        if kind == "arms":
            if options.without is None and options.aligned is None:
                return None
            return Arms(tuple(options.without or ()), tuple(options.aligned or ()))
        run: Path | None = getattr(options, kind)
        if run is not None and not run.is_dir():
            raise GeomrlError(f"{run}: no such folder; name {_HELP[kind]}")
        return run


def _run_words(run: Path | Arms) -> str:
    """Return a run in words for a page."""
    if isinstance(run, Arms):
        runs = (run.without[0], run.without[-1], run.aligned[0], run.aligned[-1])
        first, last, one, other = (path.as_posix() for path in runs)
        return f"{first} to {last}, and {one} to {other}"
    return run.as_posix()
