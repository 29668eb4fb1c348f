"""The bundled reasoner: a tiny checkpoint, and the command that makes it again."""
