"""geomrl: see and steer what RL from verifiable rewards does to a model's representations.

    import geomrl

    geomrl.make_rollouts("reasoner", "arithmetic", "RUN")
    run = geomrl.probe_states("reasoner", "RUN")
    rows, states = run.states(layer="final", anchor="before_marker")
    geomrl.draw_figures(run)

Names are loaded when they are first used, so that `import geomrl` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geomrl.compare.comparison import Comparison, open_comparison
    from geomrl.compare.config import CompareConfig
    from geomrl.compare.run import compare_models
    from geomrl.errors import GeomrlError
    from geomrl.evaluate.evaluation import Evaluation, evaluate_models, open_evaluation
    from geomrl.evaluate.presets import preset
    from geomrl.models.options import ModelOptions
    from geomrl.probe.extraction import ExtractionConfig
    from geomrl.probe.steps import probe_states, replace_anchor
    from geomrl.report.page import write_report
    from geomrl.report.rollouts import ReportSettings
    from geomrl.rollout.engine import Sampling
    from geomrl.rollout.generate import RolloutConfig
    from geomrl.rollout.imports.config import ImportConfig
    from geomrl.rollout.steps import import_rollouts, make_rollouts
    from geomrl.runs.run import Run, open_run
    from geomrl.viz.probed import draw_figures

__version__ = "0.2.0"

_HOMES = {
    "CompareConfig": "geomrl.compare.config",
    "compare_models": "geomrl.compare.run",
    "Comparison": "geomrl.compare.comparison",
    "open_comparison": "geomrl.compare.comparison",
    "GeomrlError": "geomrl.errors",
    "Evaluation": "geomrl.evaluate.evaluation",
    "evaluate_models": "geomrl.evaluate.evaluation",
    "open_evaluation": "geomrl.evaluate.evaluation",
    "preset": "geomrl.evaluate.presets",
    "ExtractionConfig": "geomrl.probe.extraction",
    "Sampling": "geomrl.rollout.engine",
    "RolloutConfig": "geomrl.rollout.generate",
    "ImportConfig": "geomrl.rollout.imports.config",
    "Run": "geomrl.runs.run",
    "open_run": "geomrl.runs.run",
    "ModelOptions": "geomrl.models.options",
    "import_rollouts": "geomrl.rollout.steps",
    "make_rollouts": "geomrl.rollout.steps",
    "probe_states": "geomrl.probe.steps",
    "replace_anchor": "geomrl.probe.steps",
    "draw_figures": "geomrl.viz.probed",
    "write_report": "geomrl.report.page",
    "ReportSettings": "geomrl.report.rollouts",
}

__all__ = [
    "CompareConfig",
    "Comparison",
    "Evaluation",
    "ExtractionConfig",
    "GeomrlError",
    "ImportConfig",
    "ModelOptions",
    "ReportSettings",
    "RolloutConfig",
    "Run",
    "Sampling",
    "compare_models",
    "draw_figures",
    "evaluate_models",
    "import_rollouts",
    "make_rollouts",
    "open_comparison",
    "open_evaluation",
    "open_run",
    "preset",
    "probe_states",
    "replace_anchor",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'geomrl' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
