"""Regenerate every figure and table: analyses, the runs that they read, and what they write.

An analysis is a script in `analyses/`: a question, the runs that it needs, and a function from these
runs to a `Finding`. It runs alone (`python analyses/collapse.py`) or with all others
(`geomrl figures --all`).
"""

from geomrl.reproduce.analysis import Analysis
from geomrl.reproduce.arms import Arms
from geomrl.reproduce.finding import Finding

__all__ = ["Analysis", "Arms", "Finding"]
