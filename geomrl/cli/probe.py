"""The command `geomrl probe`: rollouts, states, similarities and headline figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomrl.cli.options import (
    AnalysisJobs,
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
    names,
    pairs,
)
from geomrl.cli.shared import import_config, model_options, rollout_config
from geomrl.errors import GeomrlError
from geomrl.progress import friendly, say
from geomrl.runs.layout import ROLLOUTS

probe_app = typer.Typer()


@probe_app.command(
    epilog="Example: geomrl probe Qwen/Qwen3-1.7B --problems math500 -n 16 --out RUN"
)
@friendly
def probe(
    model: Model,
    out: Out,
    problems: Problems = None,
    rollouts: Annotated[
        Path | None, typer.Option(help="Somebody else's rollouts: a file, a folder, or 'a*.jsonl'.")
    ] = None,
    n: Samples = 16,
    layers: Annotated[str, typer.Option(help="'all', or 0,12,final.")] = "all",
    anchors: Annotated[
        str,
        typer.Option(help="'default', or before_marker,...; FILE.py:FUNCTION for one of yours."),
    ] = "default",
    replace: Annotated[
        bool, typer.Option("--replace", help="Also replace anchor states and score the answer.")
    ] = False,
    replace_anchor: Annotated[str, typer.Option(help="The anchor to replace.")] = "before_marker",
    seed: Seed = 0,
    limit: Limit = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    max_tokens: MaxTokens = 2048,
    chunk: Chunk = 64,
    batch_tokens: Annotated[int, typer.Option(help="Padded tokens of a forward.", min=1)] = 16384,
    boot: Annotated[int, typer.Option(help="Bootstrap draws.", min=100)] = 2000,
    permutations: Annotated[int, typer.Option(help="Permutations a test.", min=99)] = 1000,
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
    jobs: AnalysisJobs = None,
    tensor_parallel: TensorParallel = 1,
    dtype: Dtype = "auto",
    trust_remote_code: RemoteCode = False,
    allow_pickle: Pickle = False,
) -> None:
    """Read anchor states and compare correct with incorrect rollouts, over layers and positions.

    Makes rollouts first where RUN has none (--problems), or imports them (--rollouts).

    \f
    Its parameters are the command's options.
    """
    from geomrl.cli.run_tables import print_headline, print_replacement
    from geomrl.probe.anchors import DEFAULT_ANCHORS
    from geomrl.probe.extraction import ExtractionConfig
    from geomrl.probe.steps import check_readable, probe_states
    from geomrl.probe.steps import replace_anchor as replace_anchor_states
    from geomrl.rollout.steps import import_rollouts, make_rollouts, with_engine

    extraction = ExtractionConfig(
        layers=None if layers == "all" else tuple(names(layers)),
        anchors=DEFAULT_ANCHORS if anchors == "default" else tuple(names(anchors)),
        batch_tokens=batch_tokens,
    )
    options = model_options(device, dtype, trust_remote_code, allow_pickle)
    _check_source(problems, rollouts, out)
    importing = None
    if rollouts is not None:
        importing = import_config(
            rollouts,
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
    loaded = options.load(model)
    reader = check_readable(loaded, extraction)
    if rollouts is not None:
        import_rollouts(rollouts, loaded, out, config=importing, marker=marker, say=say)
    elif problems is not None:
        sampled = rollout_config(
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
        )
        make_rollouts(
            loaded,
            problems,
            out,
            config=with_engine(sampled, out, options),
            limit=limit,
            columns=pairs(column, "--column"),
            marker=marker,
            options=options,
            say=say,
        )
    run = probe_states(
        reader, out, config=extraction, seed=seed, n_boot=boot, n_perm=permutations,
        options=options, jobs=jobs, say=say,
    )  # fmt: skip
    print_headline(run)
    lacking = run.summary["shortcomings"]
    if lacking:
        raise GeomrlError(f"{out}: states and tables are written, but {'; '.join(lacking)}")
    if replace:
        table = replace_anchor_states(
            reader, out, anchor=replace_anchor, layers=extraction.layers, seed=seed, n_boot=boot,
            batch_tokens=batch_tokens, say=say,
        )  # fmt: skip
        print_replacement(table)


def _check_source(problems: str | None, rollouts: Path | None, out: Path) -> None:
    """Say what is missing before a model is loaded."""
    if problems is not None and rollouts is not None:
        raise GeomrlError(
            "--problems and --rollouts exclude each other: rollouts name their problems"
        )
    if rollouts is not None and not rollouts.exists() and "*" not in rollouts.name:
        raise GeomrlError(f"{rollouts}: no such file; check the path")
    if problems is None and rollouts is None and not (out / ROLLOUTS).exists():
        raise GeomrlError(
            f"{out}: holds no rollouts; give --problems NAME_OR_FILE or --rollouts FILE"
        )
