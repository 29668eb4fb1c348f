"""What the bundled reasoner is worth: solving, variety of paths, and geometry at the anchors."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from geomrl.errors import GeomrlError
from geomrl.problems.arithmetic import heldout_problems, operation_path
from geomrl.problems.problem import Problem
from geomrl.progress import Bar
from geomrl.stats.intervals import Interval, mean_interval
from geomrl.stats.passk import pass_at_k

if TYPE_CHECKING:
    import pandas as pd

    from geomrl.models.loading import LoadedModel

ANCHORS = ("before_marker", "marker_end")
MAX_TOKENS = 192
K = 8  # of pass@k


@dataclass(frozen=True)
class MeasureConfig:
    """How the reasoner is measured: temperature 1, top-p 1, on the first held-out problems."""

    problems: int = 200
    samples: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.problems < 1 or self.samples < K:
            raise GeomrlError(
                f"problems = {self.problems}, samples = {self.samples}: the report holds pass@{K}; "
                f"give at least one problem and {K} samples of each"
            )


@dataclass(frozen=True, kw_only=True)
class ReasonerReport:
    """Figures of one checkpoint on held-out problems; every interval is over problems.

    `solved_rarely` is the share of problems solved by less than one sample in ten;
    `distinct_paths` the mean, over problems with two correct samples or more, of distinct operation
    paths by correct samples; `anchor_tokens` the texts of the tokens at `before_marker` with
    their counts; `cosines` the mean raw cosine of correct pairs of a problem (cell CC), of the
    state after the final norm, by anchor. A cosine alone says little: `geomrl` reports it with its
    controls, this report only says whether the checkpoint is worth that.
    """

    pass_at_1: Interval
    pass_at_8: Interval
    solved_rarely: Interval
    distinct_paths: Interval
    no_answer: Interval
    tokens: Interval
    anchor_tokens: dict[str, int]
    cosines: dict[str, Interval]
    config: MeasureConfig

    def as_dict(self) -> dict[str, Any]:
        """Return the report in JSON's types."""
        return _finite(asdict(self))


def measure_reasoner(
    folder: Path,
    config: MeasureConfig | None = None,
    bar: Bar | None = None,
) -> ReasonerReport:
    """Sample the checkpoint in `folder` on held-out problems and measure it.

    `bar` counts rollouts.

    Raises:
        GeomrlError: the folder contains no checkpoint that can be loaded.
    """
    from geomrl.models.loading import load_model

    config = config or MeasureConfig()
    loaded = load_model(str(folder), device="cpu")
    rollouts = sample_rollouts(loaded, heldout_problems(config.problems), config, bar)
    n = config.samples
    groups = [group for _, group in rollouts.groupby("problem_id", sort=False)]
    counts = np.array([(group["verdict"] == "correct").sum() for group in groups])
    rows, states = read_states(loaded, rollouts)
    before = rows.loc[rows["anchor"] == "before_marker", "token_id"].dropna()

    def interval(values: ArrayLike, bounds: tuple[float, float] | None) -> Interval:
        return mean_interval(np.asarray(values, dtype=float), seed=config.seed, bounds=bounds)

    return ReasonerReport(
        pass_at_1=interval(counts / n, (0, 1)),
        pass_at_8=interval(pass_at_k(counts, n, K), (0, 1)),
        solved_rarely=interval(counts / n < 0.1, (0, 1)),
        distinct_paths=interval([s for s in map(distinct_share, groups) if s is not None], (0, 1)),
        no_answer=interval([(group["verdict"] == "no_answer").mean() for group in groups], (0, 1)),
        tokens=interval([group["response_ids"].map(len).mean() for group in groups], None),
        anchor_tokens=dict(Counter(loaded.tokenizer.decode([i]) for i in before).most_common()),
        cosines={
            anchor: interval(
                correct_pair_cosines(rollouts, rows[rows["anchor"] == anchor], states), (-1, 1)
            )
            for anchor in ANCHORS
        },
        config=config,
    )


def sample_rollouts(
    loaded: LoadedModel,
    problems: Sequence[Problem],
    config: MeasureConfig,
    bar: Bar | None = None,
) -> pd.DataFrame:
    """Sample and grade; return the rollout table (kept in memory only)."""
    from geomrl.rollout.engine import Sampling
    from geomrl.rollout.engines.transformers import TransformersEngine
    from geomrl.rollout.generate import RolloutConfig, generate_rollouts
    from geomrl.verify.verifier import MathVerifier

    settings = RolloutConfig(
        n=config.samples, seed=config.seed, chunk=512, sampling=Sampling(max_tokens=MAX_TOKENS)
    )
    with tempfile.TemporaryDirectory() as run, MathVerifier(workers=1) as verifier:
        engine = TransformersEngine(loaded)
        return generate_rollouts(
            loaded,
            engine,
            verifier=verifier,
            problems=problems,
            config=settings,
            run=Path(run),
            bar=bar,
        )


def distinct_share(group: pd.DataFrame) -> float | None:
    """Distinct paths by correct rollouts of one problem; None with fewer than two of them."""
    correct = group.loc[group["verdict"] == "correct", "response"]
    return (
        len({operation_path(text) for text in correct}) / len(correct) if len(correct) > 1 else None
    )


def read_states(
    loaded: LoadedModel, rollouts: pd.DataFrame
) -> tuple[pd.DataFrame, Float[np.ndarray, "states hidden"]]:
    """Return one row a (rollout, anchor), and the final states that its `state_row` points into."""
    from geomrl.probe.extraction import ModelProbe
    from geomrl.verify.marker import BOXED, parse_marker

    probe = ModelProbe(loaded)
    located = probe.locate(rollouts, parse_marker(BOXED), ANCHORS)
    rows, states = probe.read(located, ("final",), batch_tokens=16384)
    return rows, states["final"].float().numpy()


def correct_pair_cosines(
    rollouts: pd.DataFrame, rows: pd.DataFrame, states: Float[np.ndarray, "states hidden"]
) -> list[float]:
    """Return each problem's mean cosine over pairs of correct rollouts, where it has a pair.

    With S the sum of n unit vectors, the mean over pairs is (|S|^2 - n) / (n (n - 1)).
    """
    verdicts = rollouts.set_index("rollout_id")[["problem_id", "verdict"]]
    known = rows.dropna(subset="state_row").join(verdicts, on="rollout_id")
    cosines = []
    for _, group in known[known["verdict"] == "correct"].groupby("problem_id", sort=False):
        vectors = states[group["state_row"].to_numpy(dtype=int)]  # [n, hidden]
        n = len(vectors)
        if n > 1:
            total = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).sum(0)
            cosines.append(float((total @ total - n) / (n * (n - 1))))
    return cosines


def _finite(value: Any) -> Any:
    """Return nested dicts with None for NaN, which JSON cannot express."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
