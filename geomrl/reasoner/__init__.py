"""The bundled reasoner: a tiny checkpoint, and what makes it again."""
