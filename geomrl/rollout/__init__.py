"""Rollouts: schema, generation, import."""
