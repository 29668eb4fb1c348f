"""Builders for the training tests: a tiny policy, rollouts that look real, and plain references."""

import gc
import socket
import warnings
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

import torch
import torch.distributed as dist
from forked import finish, start
from tiny import build_model

from geomrl.probe.extractor import Extractor
from geomrl.train.alignment import hidden_align
from geomrl.train.batch import Sample
from geomrl.train.config import TrainConfig
from geomrl.train.dapo import policy_loss
from geomrl.train.minibatch import MiniBatch
from geomrl.train.policy import Policy, prepare_model
from geomrl.train.positions import alignment_labels


def build_config(**sections):
    """A configuration for tiny models; each keyword updates a section."""
    base = {
        "steps": 2,
        "model": {"name": "reasoner", "dtype": "float32"},
        "data": {"problems": "arithmetic_train", "prompts_per_step": 4, "max_prompt_tokens": 64},
        "rollout": {"samples": 4, "max_tokens": 64},
        "dapo": {"updates_per_rollout": 1},
        "optimiser": {"lr": 1e-3, "weight_decay": 0.0, "warmup_updates": 0, "clip_norm": None},
        "deepspeed": {"zero": 0},
    }
    for name, values in sections.items():
        base[name] = {**base[name], **values} if isinstance(base.get(name), dict) else values
    return TrainConfig.model_validate(base)


def build_samples(n_groups=4, n_samples=4, seed=0, prompt=5, shortest=12, longest=15):
    """Rollouts of random tokens: ragged, mixed verdicts; the last group has one correct at most."""
    draw = torch.Generator().manual_seed(seed)

    def integers(low, high, n):
        return torch.randint(low, high, (n,), generator=draw).tolist()

    samples = []
    for group in range(n_groups):
        ids = tuple(integers(3, 160, prompt))
        for number in range(n_samples):
            n = integers(shortest, longest + 1, 1)[0]
            correct = number < (1 if group == n_groups - 1 else 2 + group % 2)
            samples.append(
                Sample(
                    group=group, sample=number, benchmark="b", problem_id=str(group),
                    problem="?", gold="1", prompt="?", prompt_kind="raw", prompt_ids=ids,
                    response="", response_ids=tuple(integers(3, 160, n)),
                    logprobs=tuple((-3 + 2 * torch.rand(n, generator=draw)).tolist()),
                    finish_reason="stop", seed=seed * 1000 + len(samples),
                    verdict="correct" if correct else "wrong",
                    answer="1", verdict_reason=None, policy_step=1,
                    reward=1.0 if correct else -1.0,
                    advantage=float(torch.randn(1, generator=draw)),
                )
            )  # fmt: skip
    return samples


def build_batch(samples, config, seed=0, ratio=0.3):
    """A mini-batch: old log-probabilities near the policy's are not needed, any numbers do.

    Every seventh rollout lacks the anchor, the others have one somewhere in the response.
    """
    draw = torch.Generator().manual_seed(seed)
    old = [
        torch.tensor(s.logprobs, dtype=torch.float64)
        + ratio * torch.randn(len(s.logprobs), generator=draw, dtype=torch.float64)
        - 2.0
        for s in samples
    ]
    anchors = [
        None
        if i % 7 == 6
        else len(s.prompt_ids)
        - 1
        + int(torch.randint(0, len(s.response_ids), (1,), generator=draw))
        for i, s in enumerate(samples)
    ]
    labels = None
    if config.alignment is not None:
        labels = alignment_labels(samples, anchors, config.alignment, seed=seed)
    else:
        anchors = None
    return MiniBatch(samples=list(samples), old=old, reference=None, anchors=anchors, labels=labels)


def build_policy(dtype=torch.float32, seed=0, checkpointing=False, **overrides):
    model = build_model("Qwen3", seed, tie_word_embeddings=True, **overrides).to(dtype)
    prepared = prepare_model(model, activation_checkpointing=checkpointing)
    return Policy(prepared, head_chunk=16)


def tensor_bytes():
    """Bytes of all tensors of this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        storages = [t.untyped_storage() for t in gc.get_objects() if isinstance(t, torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def reference_loss(policy, batch, config, weight):
    """The whole step's loss from one padded batch, logits and all, by the plainest means."""
    model = policy.model
    rows = [[*s.prompt_ids, *s.response_ids] for s in batch.samples]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    output = model(input_ids=ids, output_hidden_states=True, use_cache=False)
    logprobs = output.logits.log_softmax(-1)
    n_tokens = sum(len(s.response_ids) for s in batch.samples)
    total = 0
    for i, s in enumerate(batch.samples):
        first, n = len(s.prompt_ids), len(s.response_ids)
        chosen = torch.stack([logprobs[i, first - 1 + t, s.response_ids[t]] for t in range(n)])
        total = total + policy_loss(
            chosen, batch.old[i].to(chosen), torch.full_like(chosen, s.advantage),
            torch.full_like(chosen, 1 / n_tokens),
            clip_low=config.dapo.clip_low, clip_high=config.dapo.clip_high,
            dual_clip=config.dapo.dual_clip,
        ).loss  # fmt: skip
    if not weight:
        return total
    losses = []
    for layer in config.alignment.layers:
        # hidden_states[-1] is the state after the final norm.
        states = output.hidden_states[-1 if layer == "final" else int(layer)]
        picked = torch.stack([states[i, a] for i, a in enumerate(batch.anchors) if a is not None])
        losses.append(
            hidden_align(
                picked, batch.labels.group, batch.labels.correct, config.alignment.kind,
                temperature=config.alignment.temperature,
            )
        )  # fmt: skip
    return total + weight * torch.stack(losses).mean()


def flat_gradient(policy):
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


def flat_weights(policy):
    return torch.cat([p.detach().flatten() for p in policy.parameters()])


class PlainEngine:
    """Plain torch and gloo in DeepSpeed's place: gradients add up, ranks are summed, SGD steps."""

    call = None

    def __init__(self, policy, world):
        self.policy, self.world = policy, world
        self.policy.zero_grad()

    def backward(self, loss):
        loss.backward()

    def step(self, learning_rate):
        with torch.no_grad():
            for weight in self.policy.parameters():
                if self.world.size > 1:
                    dist.all_reduce(weight.grad)
                weight -= learning_rate * weight.grad
        return float(flat_gradient(self.policy).norm())


def plain_extractor(engine):
    return Extractor(engine.policy, call=engine.call)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_ranks(script, world, *arguments):
    """Run a script of this folder as `world` ranks; raise with their output if one fails."""
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with TemporaryDirectory() as folder:
        logs = [Path(folder) / f"rank-{rank}.log" for rank in range(world)]
        ranks = [
            start(script, arguments, log, RANK=str(rank), LOCAL_RANK=str(rank), **shared)
            for rank, log in enumerate(logs)
        ]
        codes = finish(ranks)
        assert not any(codes), "\n".join(f"{log.stem}:\n{log.read_text()[-3000:]}" for log in logs)


def run_script(script, folder):
    """Run a script of this folder that fills `folder`; raise with its output if it fails."""
    with NamedTemporaryFile("r") as log:
        codes = finish([start(script, [folder], log.name)])
        assert codes == [0], log.read()[-4000:]
    return folder
