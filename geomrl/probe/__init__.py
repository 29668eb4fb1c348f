"""Probing: anchors, extraction and intervention, the state store, similarity."""
