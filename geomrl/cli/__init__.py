"""The command line: parse, call, print. A command imports the heavy libraries that it needs."""


def main() -> None:
    """Run the command line."""
    from geomrl.cli.app import app

    app()
