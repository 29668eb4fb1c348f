"""`python -m geomrl.cli`: the command line, for launchers that start modules."""

from geomrl.cli import main

main()
