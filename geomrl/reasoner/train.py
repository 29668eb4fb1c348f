"""Train the bundled reasoner from nothing: plain supervised fine-tuning on written-out sums."""

from __future__ import annotations

import itertools
import math
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jaxtyping import Int

from geomrl.errors import GeomrlError
from geomrl.files import write_json
from geomrl.problems.arithmetic import solution_text, training_problems
from geomrl.problems.problem import Problem
from geomrl.progress import Progress, progress_bar
from geomrl.reasoner.measure import MeasureConfig, ReasonerReport, measure_reasoner
from geomrl.reasoner.tokenizer import build_tokenizer
from geomrl.seeds import derive_seed

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

IGNORED = -100  # the label of positions that carry no loss
POOL = 16  # batches whose examples are sorted by length together
TOKENIZER_EXAMPLES = 4000
RECORD = "reasoner.json"  # how the checkpoint was made and what it was measured to be


@dataclass(frozen=True, kw_only=True)
class ReasonerConfig:
    """What decides the reasoner's weights, on one machine and in one environment bit for bit."""

    seed: int = 0
    steps: int = 1850
    batch_size: int = 16
    learning_rate: float = 4e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    hidden_size: int = 64
    intermediate_size: int = 128
    layers: int = 3
    heads: int = 4
    key_value_heads: int = 2
    head_dim: int = 16
    vocab_size: int = 512  # at most; a byte-level alphabet takes 256 of them
    measure: MeasureConfig = field(default_factory=MeasureConfig)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise GeomrlError(
                f"steps = {self.steps}, batch_size = {self.batch_size}: nothing to train on; "
                "both must be at least 1"
            )


class Batch(NamedTuple):
    """Examples padded on the right; `labels` is `IGNORED` on prompts and padding."""

    input_ids: Int[Tensor, "batch length"]
    labels: Int[Tensor, "batch length"]


def train_reasoner(
    config: ReasonerConfig, out: Path, *, overwrite: bool = False, show_progress: bool = True
) -> ReasonerReport:
    """Train a reasoner, write it to the folder `out` and return what it was measured to be.

    The folder appears whole or not at all. It is an ordinary Hugging Face model folder, plus
    `reasoner.json` with the configuration, library versions and report. Everything runs on one CPU
    thread: the model is too small to gain from more, and sums over several threads would make
    a rerun differ in the last bits.

    Raises:
        GeomrlError: `out` is a file, or a folder that contains something and `overwrite` is False.
    """
    out = Path(out)
    check_output(out, overwrite)
    with one_thread(), new_folder(out) as folder:
        tokenizer = train_tokenizer(config)
        model = build_model(config, tokenizer)
        with progress_bar("training", "steps", show=show_progress) as bar:
            fit(model, training_batches(config, tokenizer), config, bar.set)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder, save_jinja_files=False)
        with progress_bar("measuring", "rollouts", show=show_progress) as bar:
            report = measure_reasoner(folder, config.measure, bar)
        record = {
            "config": asdict(config),
            "versions": {name: version(name) for name in ("geomrl", "torch", "transformers")},
            "report": report.as_dict(),
        }
        write_json(folder / RECORD, record)
    return report


def fit(
    model: Qwen3ForCausalLM,
    batches: Iterator[Batch],
    config: ReasonerConfig,
    progress: Progress | None = None,
) -> list[float]:
    """Train `model` in place for `config.steps` batches; return the loss of each, in nats a token.

    The loss is the mean over the batch's response tokens; prompts carry none.
    """
    import torch
    from torch.nn.functional import cross_entropy

    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=config.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate_factor(step, config)
    )
    model.train()
    losses = []
    for batch in itertools.islice(batches, config.steps):
        hidden = model.model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
        targets = batch.labels[:, 1:]  # the state at j predicts token j + 1
        kept = targets != IGNORED
        loss = cross_entropy(model.lm_head(hidden[:, :-1][kept]), targets[kept])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if progress:
            progress(len(losses), config.steps)
    model.eval()
    return losses


def train_tokenizer(config: ReasonerConfig) -> PreTrainedTokenizerFast:
    """Learn the tokenizer on the words of the chat format, the problems and their solutions."""
    rng = random.Random(derive_seed(config.seed, "reasoner", "tokenizer"))
    texts = ["system\n", "user\n", "assistant\n"]
    for problem in itertools.islice(training_problems(config.seed), TOKENIZER_EXAMPLES):
        texts += [problem.statement, solution_text(problem, rng)]
    return build_tokenizer(texts, config.vocab_size)


def build_model(config: ReasonerConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Make the untrained model, its weights drawn from `config.seed` alone."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    model_config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.key_value_heads,
        head_dim=config.head_dim,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        initializer_range=0.05,
        use_cache=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "reasoner", "weights"))
        return Qwen3ForCausalLM(model_config)


def training_batches(config: ReasonerConfig, tokenizer: PreTrainedTokenizerFast) -> Iterator[Batch]:
    """Yield batches without end; examples of like length share a batch, in a random order."""
    rng = random.Random(derive_seed(config.seed, "reasoner", "solutions"))
    problems = training_problems(config.seed)
    while True:
        examples = [
            encode_example(problem, solution_text(problem, rng), tokenizer)
            for problem in itertools.islice(problems, POOL * config.batch_size)
        ]
        examples.sort(key=lambda example: len(example[0]) + len(example[1]))
        starts = list(range(0, len(examples), config.batch_size))
        rng.shuffle(starts)
        for start in starts:
            yield collate(examples[start : start + config.batch_size], tokenizer.pad_token_id)


def encode_example(
    problem: Problem, solution: str, tokenizer: PreTrainedTokenizerFast
) -> tuple[list[int], list[int]]:
    """Return (prompt ids, response ids); the response ends with the end-of-turn token."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": problem.statement}],
        add_generation_prompt=True,
        tokenize=False,
    )
    encode = tokenizer.backend_tokenizer.encode
    return encode(prompt).ids, [*encode(solution).ids, tokenizer.eos_token_id]


def collate(examples: list[tuple[list[int], list[int]]], pad_id: int) -> Batch:
    """Pad (prompt, response) pairs on the right to the longest of them."""
    import torch

    length = max(len(prompt) + len(response) for prompt, response in examples)
    input_ids = torch.full((len(examples), length), pad_id)
    labels = torch.full((len(examples), length), IGNORED)
    for row, (prompt, response) in enumerate(examples):
        end = len(prompt) + len(response)
        input_ids[row, :end] = torch.tensor(prompt + response)
        labels[row, len(prompt) : end] = torch.tensor(response)
    return Batch(input_ids, labels)


def learning_rate_factor(step: int, config: ReasonerConfig) -> float:
    """Linear warm-up, then a cosine to zero; between 0 and 1, `step` counted from 0."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def check_output(out: Path, overwrite: bool) -> None:
    """Refuse a folder that already contains something, before minutes are spent on training."""
    if out.is_file():
        raise GeomrlError(f"{out}: this is a file; give a folder to write the checkpoint to")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise GeomrlError(
            f"{out}: the folder is not empty; choose another --out, or replace it with --overwrite"
        )


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out`; put it in `out`'s place when the block ends well."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        for file in temporary.iterdir():
            file.chmod(0o644)
        if out.exists():
            shutil.rmtree(out)
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread for the length of the block."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
