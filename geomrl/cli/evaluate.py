"""The command `geomrl eval`: accuracies of models side by side, and paired."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomrl.cli.options import (
    Chunk,
    Columns,
    Device,
    Dtype,
    KeepLabels,
    Limit,
    MarkerSpec,
    Out,
    OwnFormat,
    OwnPrompts,
    Pickle,
    Problems,
    PromptTokenizer,
    RemoteCode,
    SamplingEngine,
    Seed,
    System,
    Template,
    TensorParallel,
    Thinking,
    Where,
    names,
    pairs,
)
from geomrl.cli.shared import model_options
from geomrl.errors import GeomrlError
from geomrl.progress import friendly, say

eval_app = typer.Typer()


@eval_app.command(
    "eval", epilog="Example: geomrl eval BASE RL --problems aime24,hmmt_feb25 -n 32 --out RUN"
)
@friendly
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Models (hub id, folder, 'reasoner', training RUN or RUN@STEP), run folders or files "
            "with rollouts; LABEL=WHAT names one. The first is the reference.",
            metavar="MODEL_OR_RUN...",
        ),
    ],
    out: Out,
    problems: Problems = None,
    rollouts: Annotated[
        bool, typer.Option("--rollouts", help="Read rollouts only; sample nothing.")
    ] = False,
    preset: Annotated[
        str, typer.Option(help="Sampling: edas (the sister paper's), dapo or greedy.")
    ] = "edas",
    n: Annotated[
        int | None,
        typer.Option("-n", "--samples", help="Samples a problem; the preset's.", min=1),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="The preset's.", min=0)] = None,
    top_p: Annotated[
        float | None, typer.Option(help="The preset's; 1 is off.", min=0, max=1)
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="The preset's; 0 is off.", min=0)] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Response tokens at most; the preset's.", min=1)
    ] = None,
    k: Annotated[
        str, typer.Option("--k", help="k of pass@k and majority@k, besides 1, 2, 4, ..., n: 10,20.")
    ] = "",
    only_complete: Annotated[
        bool,
        typer.Option("--only-complete", help="Leave out problems that lack samples, and say so."),
    ] = False,
    seed: Seed = 0,
    limit: Limit = None,
    chunk: Chunk = 64,
    boot: Annotated[int, typer.Option(help="Bootstrap draws.", min=100)] = 2000,
    template: Template = None,
    system: System = None,
    thinking: Thinking = None,
    tokenizer: PromptTokenizer = None,
    own_prompts: OwnPrompts = False,
    marker: MarkerSpec = "\\boxed{",
    benchmark: Annotated[
        str | None, typer.Option(help="The benchmark's name for files of other tools.")
    ] = None,
    column: Columns = None,
    where: Where = None,
    keep_labels: KeepLabels = False,
    own_format: OwnFormat = None,
    figures: Annotated[bool, typer.Option(help="Draw the pictures.")] = True,
    engine: SamplingEngine = "auto",
    device: Device = "auto",
    tensor_parallel: TensorParallel = 1,
    dtype: Dtype = "auto",
    trust_remote_code: RemoteCode = False,
    allow_pickle: Pickle = False,
) -> None:
    """Measure pass@k and majority@k, and compare models on the same problems.

    Samples models (--problems), or reads rollouts: run folders, geomrl's tables, files of other tools.

    \f
    Its parameters are the command's options.
    """
    try:
        ks = tuple(int(word) for word in names(k))
    except ValueError as error:
        raise GeomrlError(f"--k {k}: write whole numbers with commas, such as 10,20") from error
    from geomrl.cli.evaluation_tables import print_evaluation
    from geomrl.evaluate.evaluation import evaluate_models
    from geomrl.evaluate.presets import preset as find_preset
    from geomrl.rollout.generate import RolloutConfig
    from geomrl.rollout.imports.config import ImportConfig

    sampling = find_preset(
        preset, n=n, temperature=temperature, top_p=top_p, top_k=top_k, max_tokens=max_tokens
    )
    found = evaluate_models(
        models,
        out,
        problems=problems,
        read=rollouts,
        sampling=sampling,
        n=n,
        ks=ks,
        only_complete=only_complete,
        own_prompts=own_prompts,
        limit=limit,
        benchmark=benchmark,
        marker=marker,
        seed=seed,
        rollouts=RolloutConfig(
            seed=seed,
            chunk=chunk,
            template=template,
            system=system,
            thinking=thinking,
            prompt_tokenizer=tokenizer,
            engine=engine,
            tensor_parallel=tensor_parallel,
        ),
        importing=ImportConfig(
            columns=pairs(column, "--column"),
            where=pairs(where, "--where"),
            keep_labels=keep_labels,
            format=own_format,
        ),
        n_boot=boot,
        options=model_options(device, dtype, trust_remote_code, allow_pickle),
        say=say,
    )
    print_evaluation(found)
    if figures:
        draw(out)


def draw(out: Path) -> None:
    """Draw the evaluation's pictures and say where they are."""
    from geomrl.viz.accuracy import draw_evaluation

    paths = [path for path in draw_evaluation(out) if path.suffix == ".png"]
    say(f"{len(paths)} pictures (PNG, PDF and CSV each) in {paths[0].parent}")
