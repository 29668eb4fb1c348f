"""All commands under one name, in the order that help shows them."""

from __future__ import annotations

import typer

from geomrl.cli.compare import compare_app
from geomrl.cli.doctor import doctor_app
from geomrl.cli.evaluate import eval_app
from geomrl.cli.figures import figures_app
from geomrl.cli.probe import probe_app
from geomrl.cli.quickstart import quickstart_app
from geomrl.cli.reasoner import reasoner_app
from geomrl.cli.report import report_app
from geomrl.cli.rollout import rollout_app
from geomrl.cli.train import train_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="See and steer what RL from verifiable rewards does to a model's representations.",
)
for commands in (
    *(rollout_app, probe_app, figures_app, quickstart_app, doctor_app),
    *(report_app, train_app, eval_app, compare_app),
):
    app.add_typer(commands)  # no name: its commands stand beside the others
app.add_typer(reasoner_app, name="reasoner")
