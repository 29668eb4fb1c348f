"""Statistics, free of models: clustered intervals, permutation tests, pass@k."""
