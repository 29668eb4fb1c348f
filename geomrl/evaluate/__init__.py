"""Accuracy of models: pass@k, majority@k, paired differences, and what could have been seen."""
