"""Pictures: one module per kind, one theme."""
