"""The command `geomrl rollout`: sample and grade, or import."""

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
    MaxTokens,
    Model,
    Out,
    OwnFormat,
    Pickle,
    Problems,
    RawPrompt,
    RemoteCode,
    Retokenize,
    Samples,
    SamplingEngine,
    Seed,
    System,
    Temperature,
    Template,
    TensorParallel,
    Thinking,
    TopK,
    TopP,
    Where,
    pairs,
)
from geomrl.cli.shared import import_config, model_options, rollout_config
from geomrl.errors import GeomrlError
from geomrl.progress import friendly, say

rollout_app = typer.Typer()


@rollout_app.command(
    epilog="Example: geomrl rollout Qwen/Qwen3-1.7B --problems aime24 -n 16 --out RUN"
)
@friendly
def rollout(
    model: Model,
    out: Out,
    problems: Problems = None,
    import_file: Annotated[
        Path | None, typer.Option("--import", help="Bring rollouts of another tool in instead.")
    ] = None,
    n: Samples = 16,
    seed: Seed = 0,
    limit: Limit = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    max_tokens: MaxTokens = 2048,
    chunk: Chunk = 64,
    template: Template = None,
    system: System = None,
    thinking: Thinking = None,
    marker: MarkerSpec = "\\boxed{",
    column: Columns = None,
    where: Where = None,
    keep_labels: KeepLabels = False,
    retokenize: Retokenize = False,
    raw_prompt: RawPrompt = False,
    own_format: OwnFormat = None,
    engine: SamplingEngine = "auto",
    device: Device = "auto",
    tensor_parallel: TensorParallel = 1,
    dtype: Dtype = "auto",
    trust_remote_code: RemoteCode = False,
    allow_pickle: Pickle = False,
) -> None:
    """Sample and grade n responses a problem, or import those of another tool.\f

    Its parameters are the command's options.
    """
    from geomrl.cli.run_tables import print_rollouts
    from geomrl.rollout.steps import import_rollouts, make_rollouts

    options = model_options(device, dtype, trust_remote_code, allow_pickle)
    if import_file is not None:
        config = import_config(
            import_file,
            column,
            where=where,
            keep_labels=keep_labels,
            retokenize=retokenize,
            template=template,
            system=system,
            thinking=thinking,
            raw_prompt=raw_prompt,
            own_format=own_format,
        )
        run = import_rollouts(
            import_file, model, out, config=config, marker=marker, options=options, say=say
        )
    elif problems is not None:
        run = make_rollouts(
            model,
            problems,
            out,
            limit=limit,
            columns=pairs(column, "--column"),
            marker=marker,
            options=options,
            say=say,
            config=rollout_config(
                n,
                seed,
                chunk=chunk,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                max_tokens=max_tokens,
                template=template,
                system=system,
                thinking=thinking,
                engine=engine,
                tensor_parallel=tensor_parallel,
            ),
        )
    else:
        raise GeomrlError("nothing to do: give --problems NAME_OR_FILE, or --import FILE")
    print_rollouts(run)
