"""The command of comparisons."""

from __future__ import annotations

from typing import Annotated

import typer

from geomrl.cli.options import (
    AnalysisJobs,
    Chunk,
    Columns,
    Device,
    Dtype,
    Limit,
    MarkerSpec,
    MaxTokens,
    Out,
    OwnPrompts,
    Pickle,
    PromptTokenizer,
    RemoteCode,
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
    names,
    pairs,
)
from geomrl.cli.shared import model_options
from geomrl.progress import friendly, say

compare_app = typer.Typer()


@compare_app.command(
    epilog="Example: geomrl compare reasoner runs/train-quickstart --problems arithmetic --out RUN"
)
@friendly
def compare(
    base: Annotated[
        str, typer.Argument(help="Model before RL: hub id, folder, 'reasoner', RUN@0.")
    ],
    rl: Annotated[
        list[str],
        typer.Argument(
            help="After RL: the same, or RUN, RUN@25; several: a trajectory. LABEL=MODEL names one."
        ),
    ],
    out: Out,
    problems: Annotated[
        str, typer.Option(help="Held-out ones: benchmark names with commas, or .jsonl/.parquet.")
    ],
    n: Samples = 16,
    layer: Annotated[str, typer.Option(help="Layer of the verdict.")] = "final",
    anchor: Annotated[str, typer.Option(help="Anchor of the verdict.")] = "before_marker",
    layers: Annotated[str, typer.Option(help="Layers read: 'all', or 0,12,final.")] = "all",
    anchors: Annotated[
        str, typer.Option(help="Anchors read: 'default', or before_marker,marker_end,...")
    ] = "default",
    probe_anchors: Annotated[
        str, typer.Option(help="Anchors that get linear probes.")
    ] = "before_marker,marker_end",
    measure: Annotated[
        list[str] | None,
        typer.Option(help="A measure of your own beside the others: FILE.py:NAME."),
    ] = None,
    seed: Seed = 0,
    limit: Limit = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    max_tokens: MaxTokens = 2048,
    chunk: Chunk = 64,
    batch_tokens: Annotated[int, typer.Option(help="Padded tokens of a forward.", min=1)] = 16384,
    boot: Annotated[int, typer.Option(help="Bootstrap draws.", min=100)] = 1000,
    permutations: Annotated[int, typer.Option(help="Permutations a test.", min=99)] = 999,
    template: Template = None,
    system: System = None,
    thinking: Thinking = None,
    tokenizer: PromptTokenizer = None,
    own_prompts: OwnPrompts = False,
    marker: MarkerSpec = "\\boxed{",
    column: Columns = None,
    engine: SamplingEngine = "auto",
    device: Device = "auto",
    jobs: AnalysisJobs = None,
    tensor_parallel: TensorParallel = 1,
    dtype: Dtype = "auto",
    trust_remote_code: RemoteCode = False,
    allow_pickle: Pickle = False,
) -> None:
    """What did RL change: the policy, the representation, how? A verdict with its evidence.

    Both models answer the same problems and read both sets of rollouts. Go on where it was
    interrupted by the same command; checkpoints may be added.

    \f
    Its parameters are the command's options.
    """
    from geomrl.cli.comparison_tables import print_comparison
    from geomrl.compare.config import CompareConfig
    from geomrl.compare.run import compare_models
    from geomrl.probe.anchors import DEFAULT_ANCHORS
    from geomrl.probe.extraction import ExtractionConfig
    from geomrl.progress import progress_bar
    from geomrl.rollout.engine import Sampling
    from geomrl.rollout.generate import RolloutConfig
    from geomrl.viz.comparison import draw_comparison

    found = compare_models(
        base,
        rl,
        problems,
        out,
        limit=limit,
        columns=pairs(column, "--column"),
        marker=marker,
        own_prompts=own_prompts,
        config=CompareConfig(
            layer=layer,
            anchor=anchor,
            probe_anchors=tuple(names(probe_anchors)),
            seed=seed,
            n_boot=boot,
            n_perm=permutations,
            measures=tuple(measure or ()),
        ),
        rollouts=RolloutConfig(
            n=n,
            seed=seed,
            chunk=chunk,
            sampling=Sampling(temperature, top_p, top_k, max_tokens),
            template=template,
            system=system,
            thinking=thinking,
            prompt_tokenizer=tokenizer,
            engine=engine,
            tensor_parallel=tensor_parallel,
        ),
        extraction=ExtractionConfig(
            layers=None if layers == "all" else tuple(names(layers)),
            anchors=DEFAULT_ANCHORS if anchors == "default" else tuple(names(anchors)),
            batch_tokens=batch_tokens,
        ),
        options=model_options(device, dtype, trust_remote_code, allow_pickle),
        jobs=jobs,
        say=say,
    )
    with progress_bar("figures", "pictures") as bar:
        draw_comparison(found, progress=bar.set)
    print_comparison(found)
