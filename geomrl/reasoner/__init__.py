"""The bundled reasoner: a tiny checkpoint, and the command that makes it again."""

from pathlib import Path


def checkpoint_path() -> Path:
    """Return the folder of the bundled checkpoint, an ordinary Hugging Face model folder."""
    return Path(__file__).parent / "checkpoint"
