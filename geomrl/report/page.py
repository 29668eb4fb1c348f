"""Write the report: one HTML file with its style, scripts and data inside, and no network."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from geomrl.errors import GeomrlError, MissingExtra
from geomrl.files import atomic_path
from geomrl.report.collect import Collected, collect
from geomrl.report.comparison import comparison_view
from geomrl.report.evaluation import evaluation_view
from geomrl.report.probed import probed_view
from geomrl.report.rollouts import (
    ReportSettings,
    browser,
    check_sizes,
    read_states,
    rollout_sources,
    state_map,
)
from geomrl.report.training import ablation_view, training_view
from geomrl.report.views import Column, RunView, Setting, Table, View, joined

_TEMPLATES = files("geomrl.report") / "templates"
_SCRIPTS = ("charts.js", "tables.js", "browser.js", "page.js")


def write_report(
    runs: Sequence[Path | str] | Path | str,
    out: Path | str = "report.html",
    *,
    settings: ReportSettings | None = None,
) -> Path:
    """Write one self-contained HTML page about run directories, and return its path.

    Args:
        runs: one folder or several: probed runs, trainings, ablations, evaluations, comparisons.
        out: the HTML file.
        settings: layer, anchor and encoder of the neighbours; how many rollouts are embedded.

    Raises:
        GeomrlError: a folder contains nothing of geomrl's, a table is torn, or a layer, anchor or
            encoder is named that is not stored.
        MissingExtra: bokeh, whose JavaScript draws the plots, is not installed.
    """
    settings = settings or ReportSettings()
    check_sizes(settings)
    scripts = plot_library()
    paths = [runs] if isinstance(runs, str | Path) else list(runs)
    if not paths:
        raise GeomrlError("no run to report on; name one run directory or several")
    views = [run_view(path, settings) for path in paths]
    page = render(views, scripts, settings)
    out = Path(out)
    with atomic_path(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out


def plot_library() -> list[str]:
    """Return BokehJS (BSD-3) as the installed package brings it: its core and its plotting API.

    Raises:
        MissingExtra: bokeh is not installed.
    """
    if importlib.util.find_spec("bokeh") is None:
        raise MissingExtra("bokeh", "report", "geomrl report")
    folder = files("bokeh") / "server" / "static" / "js"
    names = ("bokeh.min.js", "bokeh-api.min.js")
    return [(folder / name).read_text(encoding="utf-8") for name in names]


def run_view(path: Path | str, settings: ReportSettings) -> RunView:
    """Return what the page shows of one folder.

    Raises:
        GeomrlError: see `write_report`.
    """
    run = collect(path, settings.encoder)
    view = joined(list(_views(run)))
    sources = [source for source in rollout_sources(run) if len(source.rollouts)]
    share = max(1, settings.max_rollouts // max(len(sources), 1))
    payloads, maps = [], []
    for source in sources:
        found = read_states(source, settings)
        payloads.append(browser(source, found, settings, share))
        drawn = state_map(source, found, settings, share)
        maps += [drawn] if drawn else []
    view = View(view.facts, (*view.charts, *maps), view.tables, view.notes)
    return RunView(
        name=run.path.resolve().name,
        path=str(run.path),
        kinds=run.kinds,
        view=view,
        settings=tuple(_settings(run)),
        rollouts=tuple(payloads),
    )


def _views(run: Collected) -> list[View]:
    found = []
    if run.comparison is not None:
        found.append(comparison_view(run))
    if run.accuracy is not None:
        found.append(evaluation_view(run))
    if run.ablation is not None:
        found.append(ablation_view(run.ablation))
    if run.metrics is not None:
        found.append(training_view(run))
    if run.similarity is not None or run.replacement is not None:
        found.append(probed_view(run))
    return found


def _settings(run: Collected) -> list[Setting]:
    found = [
        Setting(f"manifest.json: {step}", json.dumps(entry, indent=2, ensure_ascii=False))
        for step, entry in run.manifest.items()
    ]
    return [*found, *([Setting("config.yaml", run.config)] if run.config else [])]


def render(views: Sequence[RunView], scripts: Sequence[str], settings: ReportSettings) -> str:
    """Return the page.

    Every text passes through Jinja's escaping, or is in a JSON block in which "<" is written
    as an escape. A content security policy allows the page's own scripts by their hashes and no
    request at all: what a rollout contains cannot run, and nothing leaves the file.

    Args:
        views: the runs.
        scripts: the plot library.
        settings: what was put in, for the page's foot.
    """
    from jinja2 import Environment, StrictUndefined

    own = "\n".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    inline = [_inline(script) for script in [*scripts, own]]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((_TEMPLATES / "report.html").read_text(encoding="utf-8"))
    payload = {
        "overview": _overview(views).payload() if len(views) > 1 else None,
        "runs": [
            {
                "charts": [chart.payload() for chart in view.view.charts],
                "tables": [table.payload() for table in view.view.tables],
                "rollouts": list(view.rollouts),
            }
            for view in views
        ],
    }
    return template.render(
        views=views,
        version=version("geomrl"),
        settings=vars(settings),
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in inline],
        hashes=[_hash(script) for script in inline],
        payload=Markup(json_block(payload)),
    )


def json_block(value: Any) -> str:
    """Return JSON that may stand in a script element: no "<", no "&", no line separators.

    >>> json_block("</script>")
    '"\\\\u003c/script>"'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _inline(script: str) -> str:
    """Return a script that cannot end its element early."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _overview(views: Sequence[RunView]) -> Table:
    """Return the headline figures of all runs, one a row."""
    rows = [
        {
            "run": view.name,
            "figure": fact.label,
            "finding": fact.text or "",
            **vars(fact.number),
            **({} if fact.floor is None else _floor(vars(fact.floor))),
            "rests": fact.rests_on,
        }
        for view in views
        for fact in view.view.facts
    ]
    names = ["run", "figure", "finding", "value", "low", "high", "floor", "floor_low", "floor_high"]
    frame = pd.DataFrame(rows, columns=[*names, "rests"])
    words = (frame["finding"] != "").any()
    columns = (
        Column("figure", "figure"),
        *((Column("finding", "finding"),) if words else ()),
        Column("value", "value (95 %)", "interval"),
        Column("floor", "its floor", "interval", low="floor_low", high="floor_high"),
        Column("run", "run"),
        Column("rests", "rests on"),
    )
    return Table("Headline figures", frame, columns)


def _floor(numbers: dict[str, Any]) -> dict[str, Any]:
    names = {"value": "floor", "low": "floor_low", "high": "floor_high"}
    return {names[key]: value for key, value in numbers.items()}
