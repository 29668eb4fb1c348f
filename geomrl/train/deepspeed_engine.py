"""DeepSpeed around the policy: ZeRO stages 0 to 3, on CPU or GPU.

geomrl owns every normaliser: a loss is a share of one sum over the optimiser step, ranks are
added and not averaged, and DeepSpeed never divides by a number of micro-batches. (Up to 0.19.5 it
divided in hooks on the engine's outputs, which a loss on captured states never passes.)
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from geomrl.errors import GeomrlError, MissingExtra, reason_of
from geomrl.train.world import PATIENCE, World

if TYPE_CHECKING:
    from geomrl.train.config import TrainConfig
    from geomrl.train.policy import Policy

_NEEDS = (0, 19, 6)


class Runner(Protocol):
    """What a pass without gradient needs: the policy, what runs it, and the ranks."""

    @property
    def world(self) -> World:
        """The ranks."""
        ...

    @property
    def policy(self) -> Policy:
        """The module that scores tokens."""
        ...

    @property
    def call(self) -> Callable[..., Any] | None:
        """What runs the policy's forward, where it is not the policy itself."""
        ...


class Engine(Runner, Protocol):
    """What an optimiser step needs of the machinery around the policy."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a share of the loss; the shares of all ranks are summed."""
        ...

    def step(self, learning_rate: float) -> float:
        """Update the weights; return the gradient's norm before clipping."""
        ...


class DeepSpeedEngine:
    """A DeepSpeed engine around the policy.

    Args:
        policy: the module to train.
        config: the run's configuration.
        world: the ranks.
        optimiser: makes the optimiser from the trainable weights; AdamW by default.

    Raises:
        MissingExtra: DeepSpeed is not installed.
        GeomrlError: it is too old.
    """

    def __init__(
        self,
        policy: Policy,
        config: TrainConfig,
        world: World,
        optimiser: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
    ) -> None:
        deepspeed = join_deepspeed()
        weights = [weight for weight in policy.parameters() if weight.requires_grad]
        make = optimiser or (lambda found: adamw(found, config))
        self.world = world
        self.policy = policy
        self.raw = deepspeed.initialize(
            model=policy, optimizer=make(weights), config=deepspeed_json(config, world)
        )[0]
        self.call: Callable[..., Any] | None = self.raw
        self._norm: float | None = None
        if config.deepspeed.zero == 0:
            self._keep_norm()
        if _sums_by_attribute(config):
            zero = self.raw.optimizer
            zero.gradient_accumulation_dtype = torch.float32
            zero.use_separate_grad_accum = zero.use_grad_accum_attribute = True

    def _keep_norm(self) -> None:
        """Take the gradient's norm between reduction and clipping: ZeRO-0 keeps none itself."""
        take_step = self.raw._take_model_step

        def measured(lr_kwargs: Any) -> Any:
            grads = [w.grad for w in self.raw.module.parameters() if w.grad is not None]
            self._norm = float(torch.nn.utils.get_total_norm(grads))
            return take_step(lr_kwargs)

        self.raw._take_model_step = measured

    def close(self) -> None:
        """Take DeepSpeed's hooks off the weights, which would keep them all in memory for ever."""
        self.raw.destroy()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a share of the loss."""
        # DeepSpeed averages over ranks; our losses are shares of one sum.
        self.raw.backward(loss * self.world.size, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Update the weights and return the global gradient norm before clipping.

        Raises:
            GeomrlError: the norm is not finite.
        """
        for group in self.raw.optimizer.param_groups:
            group["lr"] = learning_rate
        self.raw.step()
        norm = self._norm if self._norm is not None else float(self.raw.get_global_grad_norm())
        if not math.isfinite(norm):
            raise GeomrlError(
                f"the gradient's norm is {norm}: the weights would be lost, so training stops. Go on "
                "from the last checkpoint with a smaller optimiser.lr or alignment.weight, or with "
                "model.dtype=float32"
            )
        return norm


def adamw(weights: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """Return torch's AdamW (DeepSpeed's own would be compiled for minutes at the first start)."""
    chosen = config.optimiser
    return torch.optim.AdamW(
        weights, lr=chosen.lr, betas=chosen.betas, weight_decay=chosen.weight_decay
    )


def deepspeed_json(config: TrainConfig, world: World) -> dict[str, Any]:
    """Return DeepSpeed's configuration; `deepspeed.extra` has the last word."""
    chosen = config.deepspeed
    zero: dict[str, Any] = {"stage": chosen.zero, "overlap_comm": False}
    if chosen.offload_optimiser:
        zero["offload_optimizer"] = {"device": "cpu"}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # ours vary; nothing is divided by this
        "gradient_accumulation_steps": 1,
        "train_batch_size": world.size,
        "managed_gradient_accumulation": False,  # the caller's step() is the boundary
        "gradient_clipping": config.optimiser.clip_norm or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "bf16": {"enabled": config.model.dtype == "bfloat16"},
        # Summed over many micro-batches in bfloat16, gradients would be percents off.
        "data_types": {"grad_accum_dtype": "fp32"},
    }
    if _sums_by_attribute(config):
        # Not fp32, for which DeepSpeed would take another optimiser, whose checkpoints are others and
        # which prints; the ranks' sum is taken once an update and may be exact.
        settings |= {"data_types": {"grad_accum_dtype": "bf16"}, "communication_data_type": "fp32"}
    return _merged(settings, chosen.extra)


def _sums_by_attribute(config: TrainConfig) -> bool:
    """Say whether float32 sums of gradients must be asked of DeepSpeed's ZeRO-1 optimiser itself."""
    chosen = config.deepspeed
    plain = chosen.zero == 1 and not chosen.offload_optimiser and "data_types" not in chosen.extra
    return plain and config.model.dtype == "bfloat16"


def _merged(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def import_deepspeed() -> Any:
    """Import DeepSpeed quietly, without its compiled shared-memory op.

    Raises:
        MissingExtra: it is not installed.
        GeomrlError: its version scales losses on captured states wrongly.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")  # it asks for this even where there is one rank
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    try:
        import deepspeed
    except ImportError as error:
        raise MissingExtra("deepspeed", "train", "training") from error
    from deepspeed.utils import logger

    # Of torch about DeepSpeed's calls, once a collective: not for users.
    warnings.filterwarnings("ignore", r"`torch\.distributed\..* is deprecated", FutureWarning)
    logger.setLevel(logging.ERROR)
    version = tuple(int(part) for part in deepspeed.__version__.split("+")[0].split(".")[:3])
    if version < _NEEDS:
        raise GeomrlError(
            f"deepspeed {deepspeed.__version__}: versions before 0.19.6 scale losses on captured "
            "states wrongly; run `pip install -U 'deepspeed>=0.19.6'`"
        )
    # It would be compiled with g++ at the first start, and a killed compilation leaves a lock on
    # which the next start hangs; gloo alone does the same sums.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def join_deepspeed() -> Any:
    """Import DeepSpeed and let it take over the process group that geomrl has joined.

    Before that DeepSpeed counts one rank, whatever the group's size. Its own copy of the group waits
    as long as ours: by itself it has torch's default, which is shorter than another rank's generation.

    Raises:
        MissingExtra, GeomrlError: as `import_deepspeed`.
    """
    deepspeed = import_deepspeed()
    deepspeed.init_distributed(verbose=False)
    copy = deepspeed.utils.groups._get_data_parallel_group()
    torch.distributed.distributed_c10d._set_pg_timeout(PATIENCE, copy)
    return deepspeed


@contextmanager
def partitioned_loading(config: TrainConfig, world: World) -> Iterator[None]:
    """Under ZeRO-3, let transformers split the weights over the ranks while it reads them."""
    if config.deepspeed.zero < 3:
        yield
        return
    join_deepspeed()
    from transformers.integrations import HfDeepSpeedConfig, unset_hf_deepspeed_config

    held = HfDeepSpeedConfig(deepspeed_json(config, world))  # noqa: F841  alive while loading
    try:
        yield
    finally:
        unset_hf_deepspeed_config()


@contextmanager
def whole_weights(weights: list[nn.Parameter]) -> Iterator[None]:
    """Under ZeRO-3, gather partitioned weights on every rank for as long as the block runs."""
    if not any(hasattr(weight, "ds_id") for weight in weights):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(weights):
        yield


def numel(weight: nn.Parameter) -> int:
    """Return a weight's elements; under ZeRO-3 its own tensor has none."""
    return int(getattr(weight, "ds_numel", weight.numel()))


def check_deepspeed(config: TrainConfig) -> None:
    """Let DeepSpeed read its settings; their batch sizes are those of one rank, and follow the ranks.

    Raises:
        GeomrlError: DeepSpeed refuses them; says why.
    """
    import_deepspeed()
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError

    settings = deepspeed_json(config, World(0, 1, torch.device("cpu")))
    try:
        DeepSpeedConfig(settings, mpu=_OneRank())
    except (DeepSpeedConfigError, ValueError, TypeError, AssertionError) as error:
        raise GeomrlError(
            f"deepspeed: DeepSpeed refuses these settings ({reason_of(error)}); mend deepspeed.extra"
        ) from error


class _OneRank:
    """DeepSpeed's view of the ranks, whatever process group there is already."""

    def get_data_parallel_world_size(self) -> int:
        return 1
