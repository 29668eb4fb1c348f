"""Which verifier graded: a hash of its code, so that a better one grades stored responses again."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from geomrl.files import text_hash

_LIBRARIES = ("math-verify", "latex2sympy2-extended", "sympy")


@cache
def verifier_version() -> str:
    """Return a hash of this package's source and of the versions of what it grades with."""
    source = [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return text_hash(*source, *map(_version, _LIBRARIES))


def _version(library: str) -> str:
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return f"{library} absent"
