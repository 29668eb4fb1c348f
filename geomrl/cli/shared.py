"""What several commands build of their options: models, rollouts, imports, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from geomrl.cli.options import pairs
from geomrl.errors import GeomrlError
from geomrl.progress import say

if TYPE_CHECKING:
    from geomrl.models.options import ModelOptions
    from geomrl.rollout.generate import RolloutConfig
    from geomrl.rollout.imports.config import ImportConfig


def model_options(device: str, dtype: str, remote_code: bool, pickle: bool) -> ModelOptions:
    """Return how to load a model; "auto" is every GPU there is."""
    from geomrl.models.options import ModelOptions

    if device == "auto":
        import torch

        device = ",".join(f"cuda:{i}" for i in range(torch.cuda.device_count())) or "auto"
    return ModelOptions(device, dtype, remote_code, pickle)


def rollout_config(
    n: int,
    seed: int,
    chunk: int,
    temperature: float,
    top_p: float,
    top_k: int,
    max_tokens: int,
    template: str | None,
    system: str | None,
    thinking: bool | None,
    engine: str,
    tensor_parallel: int,
) -> RolloutConfig:
    """Return how to draw rollouts.

    Its parameters are the command's options.
    """
    from geomrl.rollout.engine import Sampling
    from geomrl.rollout.generate import RolloutConfig

    sampling = Sampling(temperature, top_p, top_k, max_tokens)
    return RolloutConfig(
        n=n,
        seed=seed,
        chunk=chunk,
        sampling=sampling,
        template=template,
        system=system,
        thinking=thinking,
        engine=engine,
        tensor_parallel=tensor_parallel,
    )


def import_config(
    file: Path,
    column: list[str] | None,
    where: list[str] | None,
    keep_labels: bool,
    retokenize: bool,
    template: str | None,
    system: str | None,
    thinking: bool | None,
    raw_prompt: bool,
    own_format: str | None,
) -> ImportConfig:
    """Return how to read another tool's file.

    Raises:
        GeomrlError: a template is named, and the file has prompts.
    """
    from geomrl.rollout.imports.config import ImportConfig
    from geomrl.rollout.imports.table import has_prompts

    config = ImportConfig(
        columns=pairs(column, "--column"),
        where=pairs(where, "--where"),
        keep_labels=keep_labels,
        retokenize=retokenize,
        template=template or "boxed",
        system=system,
        thinking=thinking,
        raw_prompt=raw_prompt,
        format=own_format,
    )
    if template is not None and has_prompts(file, config):
        raise GeomrlError(
            f"{file}: --template would change nothing, since the file holds prompts; leave it out, or "
            "leave the prompts aside (--column prompt= --column prompt_ids=)"
        )
    return config


def say_drawn(paths: list[Path], out: Path | None) -> None:
    """Tell where pictures are."""
    pictures = [path for path in paths if path.suffix == ".png"]
    say(
        f"{len(pictures)} pictures (PNG, PDF and CSV each) in {pictures[0].parent if pictures else out}"
    )
