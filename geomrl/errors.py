"""The one exception that geomrl raises for input or surroundings a user can mend."""


class GeomrlError(Exception):
    """Something the user can mend.

    The message names three things, in this order: the bad input (file, row, option), why it
    cannot be used, and the cure. The command line prints it without a traceback and exits 1.
    """


class MissingExtra(GeomrlError):
    """A heavy optional library is needed for this step and is not installed."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs '{library}', which is not installed: "
            f"run `pip install 'geomrl[{extra}]'`"
        )


def reason_of(error: Exception) -> str:
    """Return what a library's error says, in one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
