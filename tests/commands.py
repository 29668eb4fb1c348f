"""Commands of geomrl, run in the process of a test."""

from typer.testing import CliRunner

from geomrl.cli.app import app


def geomrl(*arguments):
    """Run a command in this process."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done
