"""`geomrl figures --all`: make the runs, run every analysis, write every figure and table."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from geomrl.errors import GeomrlError
from geomrl.files import atomic_path, write_json
from geomrl.progress import Say, progress_bar
from geomrl.reproduce.analysis import Analysis
from geomrl.reproduce.finding import PAGE
from geomrl.reproduce.runs import KINDS, MINUTES, BundledRuns, Scale

INDEX = "figures.json"


def reproduce(
    out: Path | str = "figures",
    *,
    analyses: Path | str = "analyses",
    runs: Path | str = "runs/figures",
    jobs: int = 1,
    scale: Scale | None = None,
    show: bool = True,
    say: Say = lambda line: None,
) -> list[Path]:
    """Regenerate everything in `out`, from nothing, and return the files.

    Runs that exist are not made again, and one that was interrupted is resumed. Every
    file is a function of the code and its seeds alone.

    Args:
        out: folder of the figures: a folder an analysis, README.md and figures.json.
        analyses: folder of the scripts; the recipes are in `configs` beside it.
        runs: folder of the runs.
        jobs: trainings at once.
        scale: how large the runs are.
        show: show progress bars.
        say: called with each line for the user.

    Raises:
        GeomrlError: no scripts there, one that is no analysis, or a run that cannot be made.
    """
    out, analyses = Path(out), Path(analyses)
    known = load_analyses(analyses)
    bundled = BundledRuns(
        Path(runs),
        analyses.resolve().parent / "configs",
        jobs=jobs,
        scale=scale or Scale(),
        show=show,
        say=say,
    )
    needed = [kind for kind in KINDS if any(kind in each.needs for each in known.values())]
    made: dict[str, Any] = {}
    for number, kind in enumerate(needed, start=1):
        say(
            f"run {number} of {len(needed)}: {kind} (up to {MINUTES[kind]} minutes on two cores where "
            "it is not there yet)"
        )
        made[kind] = bundled.make(kind)
    written: list[Path] = []
    with progress_bar("figures", "analyses", show=show) as bar:
        bar.set(0, len(known))
        for name, analysis in known.items():
            written += analysis.write(name, out, {kind: made[kind] for kind in analysis.needs})
            bar.advance()
    page = out / PAGE
    with atomic_path(page) as temporary:
        temporary.write_text(_index(out, known))
    files = [*written, page, out / INDEX]
    write_json(out / INDEX, {"files": sorted(f.relative_to(out).as_posix() for f in files)})
    return files


def load_analyses(folder: Path) -> dict[str, Analysis]:
    """Return the analyses of a folder's scripts by name, in alphabetical order.

    Raises:
        GeomrlError: the folder has no script, or a script no `ANALYSIS`.
    """
    scripts = sorted(folder.glob("*.py"))
    if not scripts:
        raise GeomrlError(
            f"{folder}: no analyses here; run this in a checkout of geomrl, or name the folder with "
            "--analyses"
        )
    found = {}
    for script in scripts:
        analysis = runpy.run_path(str(script)).get("ANALYSIS")
        if not isinstance(analysis, Analysis):
            raise GeomrlError(
                f"{script}: it has no ANALYSIS = Analysis(...); see the other scripts"
            )
        unknown = [kind for kind in analysis.needs if kind not in KINDS]
        if unknown:
            raise GeomrlError(
                f"{script}: needs '{unknown[0]}', which is none of {', '.join(KINDS)}"
            )
        found[script.stem] = analysis
    return found


def _index(out: Path, known: dict[str, Analysis]) -> str:
    """Return the page that lists every question with its answer's first paragraph."""
    rows = []
    for name, analysis in known.items():
        answer = (out / name / PAGE).read_text().split("\n\n")[1].replace("\n", " ")
        rows.append(f"## [{analysis.question}]({name}/{PAGE})\n\n{answer}")
    head = (
        "# Figures and tables\n\nMade by `geomrl figures --all` on the bundled reasoner: one tiny "
        "model. It says nothing of Qwen3. Every folder has a page, and beside each picture (PNG, PDF) "
        "the CSV of what it shows."
    )
    return "\n\n".join([head, *rows]) + "\n"
