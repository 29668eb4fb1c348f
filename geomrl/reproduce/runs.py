"""The runs that analyses read: the bundled reasoner's, made where they are missing, or your own.

| kind | what | bundled |
|---|---|---|
| `probed` | `geomrl probe --replace` | the reasoner, 200 held-out problems x 16 |
| `ablation` | `geomrl ablate` | configs/ablation.yaml: 21 arms x 5 seeds |
| `arms` | trainings without and with the loss | configs/before_after.yaml: 2 arms x 5 seeds |
| `evaluation` | `geomrl eval` of the base model and all trainings of `arms` | 200 problems x 64 |
| `comparison` | `geomrl compare` of the same | 100 problems x 16 |
| `variants` | rollouts of a model on problems, again on them, and on their variants | 200 x 16 |

In evaluations and comparisons of `arms` a model is named ARM-SEED ("dapo-0", "aligned-0").
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from geomrl.progress import Say
from geomrl.reproduce.arms import ALIGNED, BASE, DAPO, Arms
from geomrl.runs.layout import SUMMARY, VERDICT

KINDS = ("probed", "ablation", "arms", "evaluation", "comparison", "variants")
COMPARED = ("fraction:0.5", "before_marker", "marker_end", "before_answer", "answer_last")
"""Anchors at which models are compared."""
ANCHORS, LAYER = ("before_marker", "marker_end"), "final"
"""Where analyses of a probed run look: the paper's anchor and the token that opens the answer."""
MINUTES = {
    "probed": 4,
    "ablation": 40,
    "arms": 14,
    "evaluation": 8,
    "comparison": 10,
    "variants": 2,
}
"""About how long a bundled run takes on two cores."""

_THREADS = "OMP_NUM_THREADS"  # read by torch and BLAS when they start: for child processes


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large the bundled runs are; the default is what `figures/` in the repository was made with.

    `recipe` changes the recipe (dotted keys), `grids` the grids of "ablation" and "before_after".
    """

    problems: int = 200
    samples: int = 16
    eval_samples: int = 64
    compared_problems: int = 100
    compared_anchors: tuple[str, ...] = COMPARED
    recipe: dict[str, Any] = field(default_factory=dict)
    grids: dict[str, dict[str, Any]] = field(default_factory=dict)
    n_boot: int = 2000
    n_perm: int = 1000


@contextmanager
def one_thread() -> Iterator[None]:
    """Let numerical libraries and child processes use one thread each.

    With more, sums are added in another order, and the last digits depend on the machine. Tiny models
    are not slower for it.
    """
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = "1"
    try:
        with threadpool_limits(1):
            yield
    finally:
        os.environ.pop(_THREADS)
        if before is not None:
            os.environ[_THREADS] = before


@dataclass(frozen=True)
class BundledRuns:
    """Makes the bundled runs, each when it is first asked for; what is there is not made again.

    Attributes:
        root: where they lie.
        configs: the folder of recipes.
        jobs: trainings at once.
        scale: how large they are.
        show: show progress bars.
        say: called with each line for the user.
    """

    root: Path
    configs: Path
    _: KW_ONLY
    jobs: int = 1
    scale: Scale = field(default_factory=Scale)
    show: bool = True
    say: Say = lambda line: None

    def make(self, kind: str) -> Any:
        """Return a run of one of `KINDS`: a folder; for "arms" `Arms`.

        Raises:
            GeomrlError: it cannot be made; see the message.
        """
        with one_thread():
            made: Any = getattr(self, f"_{kind}")()
        return made

    def _probed(self) -> Path:
        from geomrl.models.options import ModelOptions
        from geomrl.probe.steps import probe_states, replace_anchor
        from geomrl.rollout.steps import make_rollouts
        from geomrl.runs.replacement import replaced_anchors

        out = self.root / "probed"
        loaded = ModelOptions(devices="cpu").load("reasoner")
        make_rollouts(
            loaded,
            "arithmetic",
            out,
            config=self._sampling(self.scale.samples),
            limit=self.scale.problems,
            show=self.show,
        )
        if not (out / SUMMARY).exists():
            probe_states(
                loaded,
                out,
                n_boot=self.scale.n_boot,
                n_perm=self.scale.n_perm,
                show=self.show,
                say=self.say,
            )
        for anchor in ANCHORS:
            if anchor not in replaced_anchors(out, loaded.key):
                replace_anchor(loaded, out, anchor=anchor, n_boot=self.scale.n_boot, show=self.show)
        return out

    def _ablation(self) -> Path:
        return self._ablate("ablation")

    def _arms(self) -> Arms:
        return Arms.of_ablation(self._ablate("before_after"))

    def _ablate(self, name: str) -> Path:
        from geomrl.ablate.grid import Grid, load_grid
        from geomrl.ablate.run import ablate
        from geomrl.train.config import load_config, override
        from geomrl.viz.ablation import draw_ablation

        recipe = load_config(self.configs / "quickstart.yaml")
        recipe = override(recipe, self.scale.recipe, "the analyses' scale")
        grid = load_grid(self.configs / f"{name}.yaml").model_dump()
        grid |= self.scale.grids.get(name, {})
        out = self.root / name
        if not (out / "ablation.parquet").exists():
            whole = Grid.model_validate(grid)
            ablate(recipe, whole, out, jobs=self.jobs, show=self.show, finished=draw_ablation)
        return out

    def _evaluation(self) -> Path:
        from geomrl.evaluate.evaluation import evaluate_models
        from geomrl.evaluate.presets import preset
        from geomrl.rollout.generate import RolloutConfig

        out = self.root / "evaluation"
        if not (out / SUMMARY).exists():
            evaluate_models(
                self._models(),
                out,
                problems="arithmetic",
                limit=self.scale.problems,
                sampling=preset("edas", n=self.scale.eval_samples, max_tokens=192),
                rollouts=RolloutConfig(chunk=512),
                n_boot=self.scale.n_boot,
                show=self.show,
                options=self._cpu(),
                say=self.say,
            )
        return out

    def _comparison(self) -> Path:
        from geomrl.compare.config import CompareConfig
        from geomrl.compare.run import compare_models
        from geomrl.probe.extraction import ExtractionConfig

        out = self.root / "comparison"
        if not (out / VERDICT).exists():
            base, *trained = self._models()
            compare_models(
                base,
                trained,
                "arithmetic",
                out,
                limit=self.scale.compared_problems,
                config=CompareConfig(n_boot=self.scale.n_boot // 2, n_perm=self.scale.n_perm // 2),
                extraction=ExtractionConfig(anchors=self.scale.compared_anchors),
                rollouts=self._sampling(self.scale.samples),
                show=self.show,
                options=self._cpu(),
                say=self.say,
            )
        return out

    def _variants(self) -> Path:
        from geomrl.files import write_json_lines
        from geomrl.problems.load import load_problems
        from geomrl.problems.variants import VARIANTS
        from geomrl.rollout.steps import make_rollouts

        out, names = self.root / "variants", ",".join(VARIANTS)
        for folder, problems, seed in (("again", "arithmetic", 1), ("variants", names, 2)):
            make_rollouts(
                "reasoner",
                problems,
                out / folder,
                limit=self.scale.problems,
                config=self._sampling(self.scale.samples, seed),
                options=self._cpu(),
                show=self.show,
            )
        rows = [
            {
                "problem_id": p.problem_id,
                "problem": p.statement,
                "answer": p.gold,
                "variant_of": p.meta["variant_of"],
                "variant": p.meta["variant"],
            }
            for p in load_problems(names, limit=self.scale.problems)
        ]
        write_json_lines(out / "variants.jsonl", rows)
        return out

    def _models(self) -> list[str]:
        arms = self._arms()
        named = [f"{BASE}=reasoner"]
        for name, runs in ((DAPO, arms.without), (ALIGNED, arms.aligned)):
            named += [f"{name}-{s}={run}" for s, run in zip(arms.seeds, runs, strict=True)]
        return named

    @staticmethod
    def _sampling(n: int, seed: int = 0) -> Any:
        from geomrl.rollout.engine import Sampling
        from geomrl.rollout.generate import RolloutConfig

        return RolloutConfig(n=n, seed=seed, chunk=320, sampling=Sampling(max_tokens=192))

    @staticmethod
    def _cpu() -> Any:
        from geomrl.models.options import ModelOptions

        return ModelOptions(devices="cpu")
