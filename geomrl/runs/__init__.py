"""The run directory: names and kinds of files, manifest, rollouts, states, finished parts."""
