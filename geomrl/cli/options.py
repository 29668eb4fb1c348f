"""What the commands share: errors in one line, remarks, and the options that several take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomrl.errors import GeomrlError


def pairs(options: list[str] | None, name: str) -> dict[str, str]:
    """Split NAME=VALUE options; `name` is the option's, for the message."""
    for option in options or []:
        if "=" not in option:
            raise GeomrlError(f"{name} {option}: write it as NAME=VALUE")
    return dict(option.split("=", 1) for option in options or [])


def names(text: str) -> list[str]:
    """Split a list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


Model = Annotated[str, typer.Argument(help="Hub id, folder, or 'reasoner' (bundled).")]
Out = Annotated[Path, typer.Option("--out", help="Run directory; made, or gone on with.")]
Problems = Annotated[
    str | None,
    typer.Option(
        help="Benchmark names with commas (aime24,math500, arithmetic) or a .jsonl/.parquet."
    ),
]
Samples = Annotated[int, typer.Option("-n", "--samples", help="Rollouts a problem.", min=1)]
Seed = Annotated[int, typer.Option(help="Seed of every draw.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many problems.", min=1)]
Temperature = Annotated[float, typer.Option(help="0 is greedy.", min=0)]
TopP = Annotated[float, typer.Option(help="1 is off.", min=0, max=1)]
TopK = Annotated[int, typer.Option(help="0 is off.", min=0)]
MaxTokens = Annotated[int, typer.Option(help="Response tokens at most.", min=1)]
Chunk = Annotated[int, typer.Option(help="Rollouts generated together; the unit redone.", min=1)]
Template = Annotated[
    str | None,
    typer.Option(help="boxed, dapo, plain, or text with {problem}; the benchmark's own."),
]
System = Annotated[str | None, typer.Option(help="System prompt.")]
Thinking = Annotated[
    bool | None, typer.Option("--thinking/--no-thinking", help="Qwen3's thinking mode.")
]
MarkerSpec = Annotated[
    str,
    typer.Option("--marker", help=r"What opens the answer: '\boxed{', 'OPEN...CLOSE', 're:...'."),
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="OURS=THEIRS; OUTER.INNER reaches inside, OURS= means none."),
]
Where = Annotated[list[str] | None, typer.Option(help="COLUMN=VALUE: rows of a file to keep.")]
KeepLabels = Annotated[bool, typer.Option(help="Take the file's verdicts, do not grade again.")]
Retokenize = Annotated[bool, typer.Option(help="Ignore the file's token ids.")]
RawPrompt = Annotated[
    bool,
    typer.Option("--raw-prompt", help="Take prompt texts as they stand, without chat markers."),
]
OwnFormat = Annotated[
    str | None,
    typer.Option("--format", help="FILE.py:NAME, a function of yours that reads the file."),
]
PromptTokenizer = Annotated[
    str | None,
    typer.Option("--tokenizer", help="Model or folder whose chat template renders all prompts."),
]
OwnPrompts = Annotated[
    bool, typer.Option("--own-prompts", help="Each model has its own prompt: do not refuse.")
]
Device = Annotated[
    str,
    typer.Option(
        "--devices",
        "--device",
        help="auto (every GPU, else the CPU), cpu, cuda:0, or several with commas: they share the work.",
    ),
]
AnalysisJobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        help="Processes that share the analysis: default as many as cores, where memory allows.",
        min=1,
    ),
]
SamplingEngine = Annotated[
    str,
    typer.Option(
        "--engine",
        help="transformers, vllm, or auto: vLLM where it is installed and there is a GPU.",
    ),
]
TensorParallel = Annotated[
    int,
    typer.Option(help="Devices joined in one vLLM engine, for a model too large for one.", min=1),
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
RemoteCode = Annotated[bool, typer.Option(help="Run code that a checkpoint brings along.")]
Pickle = Annotated[bool, typer.Option(help="Read .bin weights, which can run code.")]
