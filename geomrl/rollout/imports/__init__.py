"""Rollouts of other tools: `formats` reads their files into rows, `table` rows into a rollout table."""
