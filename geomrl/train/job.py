"""What of a training's configuration concerns the engine that samples for it."""

from __future__ import annotations

from geomrl.rollout.engine import TrainingEngine, TrainingJob
from geomrl.rollout.engines import engine_class
from geomrl.train.config import TrainConfig


def training_job(config: TrainConfig, longest: int | None = None) -> TrainingJob:
    """Return what the engine may know.

    Args:
        config: the run's configuration.
        longest: tokens of the longest prompt with its response; by default as the settings allow.
    """
    return TrainingJob(
        model=config.model.name,
        dtype=config.model.dtype,
        attention=config.model.attention,
        trust_remote_code=config.model.trust_remote_code,
        chunk=config.rollout.chunk,
        longest=config.max_generated if longest is None else longest,
        settings=config.rollout.engine_settings,
    )


def rollout_engine(config: TrainConfig) -> type[TrainingEngine]:
    """Return the class of the engine that samples.

    Raises:
        GeomrlError: it is the user's, and its file is no engine.
    """
    return engine_class(config.rollout.engine)
